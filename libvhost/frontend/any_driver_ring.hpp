#pragma once
#include <variant>

#include "libvhost/frontend/packed_driver_ring.hpp"

namespace vhost::frontend {

/// A ring of the layout that RingOptions::packed says, behind the verbs that both have; their
/// heads say what they do.
class AnyDriverRing {
  /// As std::visit, without its table: one comparison, which a CPU foresees.
  template <class F>
  decltype(auto) on(F verb) {
    auto* const split = std::get_if<SplitDriverRing>(&ring_);
    return split != nullptr ? verb(*split) : verb(*std::get_if<PackedDriverRing>(&ring_));
  }
  template <class F>
  decltype(auto) on(F verb) const {
    const auto* const split = std::get_if<SplitDriverRing>(&ring_);
    return split != nullptr ? verb(*split) : verb(*std::get_if<PackedDriverRing>(&ring_));
  }

 public:
  [[nodiscard]] static Result<AnyDriverRing> create(SharedMemory& memory, RingOptions options) {
    if (options.packed) return made(PackedDriverRing::create(memory, options));
    return made(SplitDriverRing::create(memory, options));
  }

  /// The split ring that this is; not to be asked of a packed one.
  [[nodiscard]] SplitDriverRing& split() { return std::get<SplitDriverRing>(ring_); }
  [[nodiscard]] const SplitDriverRing& split() const { return std::get<SplitDriverRing>(ring_); }
  /// The same of a packed one.
  [[nodiscard]] PackedDriverRing& packed() { return std::get<PackedDriverRing>(ring_); }
  [[nodiscard]] bool is_packed() const { return std::holds_alternative<PackedDriverRing>(ring_); }
  [[nodiscard]] const RingAreas& areas() const {
    return on([](const auto& ring) -> const RingAreas& { return ring; });
  }

  [[nodiscard]] std::optional<std::uint16_t> place(std::span<const Segment> readable,
                                                   std::span<const Segment> writable,
                                                   std::uint64_t cookie,
                                                   Placing placing = Placing::kept) {
    return on([&](auto& ring) { return ring.place(readable, writable, cookie, placing); });
  }
  bool remove(std::uint16_t head) {
    return on([&](auto& ring) { return ring.remove(head); });
  }
  [[nodiscard]] bool offer(std::uint16_t head) {
    return on([&](auto& ring) { return ring.offer(head); });
  }
  /// Of a chain that is known to be placed and not with the device.
  void offer_raw(std::uint16_t head) {
    on([&](auto& ring) { ring.offer_raw(head); });
  }
  [[nodiscard]] bool add(std::span<const Segment> readable, std::span<const Segment> writable,
                         std::uint64_t cookie) {
    return on([&](auto& ring) { return ring.add(readable, writable, cookie); });
  }
  [[nodiscard]] bool publish() {
    return on([](auto& ring) { return ring.publish(); });
  }
  void expose() {
    on([](auto& ring) { ring.expose(); });
  }
  [[nodiscard]] Poll poll(Completion& completion) {
    return on([&](auto& ring) { return ring.poll(completion); });
  }
  [[nodiscard]] bool arm_calls() {
    return on([](auto& ring) { return ring.arm_calls(); });
  }
  void disarm_calls() {
    on([](auto& ring) { ring.disarm_calls(); });
  }

  [[nodiscard]] std::uint16_t size() const {
    return on([](const auto& ring) { return ring.size(); });
  }
  [[nodiscard]] std::uint16_t free_descriptors() const {
    return on([](const auto& ring) { return ring.free_descriptors(); });
  }
  [[nodiscard]] std::uint32_t outstanding() const {
    return on([](const auto& ring) { return ring.outstanding(); });
  }
  [[nodiscard]] bool caught_up() const {
    return on([](const auto& ring) { return ring.caught_up(); });
  }
  [[nodiscard]] const char* broken_because() const {
    return on([](const auto& ring) { return ring.broken_because(); });
  }
  [[nodiscard]] std::vector<std::uint16_t> outstanding_heads() const {
    return on([](const auto& ring) { return ring.outstanding_heads(); });
  }
  [[nodiscard]] std::uint64_t cookie(std::uint16_t head) const {
    return on([&](const auto& ring) { return ring.cookie(head); });
  }

  /// SET_VRING_BASE of a ring that nobody has used.
  [[nodiscard]] std::uint32_t first_base() const { return is_packed() ? new_packed_base : 0; }
  [[nodiscard]] std::uint32_t base_after_crash() const {
    return on([](const auto& ring) { return std::uint32_t{ring.base_after_crash()}; });
  }
  void offer_again() {
    on([](auto& ring) { ring.offer_again(); });
  }
  void reset() {
    on([](auto& ring) { ring.reset(); });
  }
  [[nodiscard]] VringAddr addresses(std::uint32_t index) const { return areas().addresses(index); }

 private:
  template <class R>
  explicit AnyDriverRing(R ring) : ring_(std::move(ring)) {}

  template <class R>
  [[nodiscard]] static Result<AnyDriverRing> made(Result<R> ring) {
    if (!ring) return std::unexpected(ring.error());
    return AnyDriverRing(std::move(*ring));
  }

  std::variant<SplitDriverRing, PackedDriverRing> ring_;
};

}  // namespace vhost::frontend
