#pragma once
#include <array>
#include <map>
#include <vector>

#include "libvhost/session/device.hpp"

namespace vhost::fakes {

/// A device that serves nothing and remembers what the session did with it.
class FakeDevice : public Device {
 public:
  static constexpr std::uint16_t queues = 4;
  static constexpr unsigned a_feature = 5;
  static constexpr std::uint32_t writable_offset = 32;  // one byte of the configuration space
  static constexpr std::uint32_t config_bytes = 60;
  static constexpr std::uint64_t largest_mtu = 9000;

  [[nodiscard]] std::uint64_t features() const override { return bit(a_feature); }
  [[nodiscard]] std::uint16_t max_queues() const override { return queues; }
  [[nodiscard]] std::uint16_t queues_offered() const override { return offered; }
  [[nodiscard]] std::uint64_t protocol_features() const override { return protocol; }
  [[nodiscard]] bool discards_disabled(std::uint16_t index) const override {
    return index == discarded;
  }
  void set_features(std::uint64_t features) override {
    accepted = features;
    ++feature_changes;
  }

  /// Byte i of the configuration space is i + 1.
  void read_config(std::uint32_t offset, std::span<std::byte> out) override {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::uint64_t at = std::uint64_t{offset} + i;
      out[i] = at < config_bytes ? static_cast<std::byte>(at + 1) : std::byte{0};
    }
  }
  [[nodiscard]] Result<void> write_config(std::uint32_t offset,
                                          std::span<const std::byte> bytes) override {
    if (offset != writable_offset || bytes.size() != 1) return fail(Fault::front_end, "read-only");
    written = bytes[0];
    return {};
  }

  [[nodiscard]] Result<void> set_mtu(std::uint64_t bytes) override {
    if (bytes > largest_mtu) return fail(Fault::front_end, "too large");
    mtu = bytes;
    return {};
  }
  [[nodiscard]] Result<void> announce(std::array<std::byte, 6> mac) override {
    announced.push_back(mac);
    return {};
  }

  [[nodiscard]] Result<void> begin() override {
    if (elsewhere) return fail(Fault::host, "somebody else serves it");
    ++begins;
    begun = true;
    return {};
  }
  void rest() override {
    begun = false;
    rested_while_running |= !running.empty();
  }
  void start_ring(std::uint16_t index, StartedRing ring) override {
    started_before_begin |= !begun;
    ++starts[index];
    if (ring.owed_only && !ring.discard) ++starts_to_end[index];
    running.emplace(index, std::move(ring));
  }
  [[nodiscard]] Result<AnyRing> stop_ring(std::uint16_t index) override {
    ++stops[index];
    auto ring = running.extract(index);
    return std::move(ring.mapped().ring);
  }
  [[nodiscard]] Result<AnyRing> suspend_ring(std::uint16_t index) override {
    ++suspends[index];
    auto ring = running.extract(index);
    std::visit([](auto& one) { one.leave(); }, ring.mapped().ring);
    return std::move(ring.mapped().ring);
  }
  void set_call(std::uint16_t index, std::shared_ptr<const EventFd> call) override {
    running.at(index).call = std::move(call);
    ++call_changes;
  }
  void move_to(std::shared_ptr<const MemoryMap> memory, Drain drain) override {
    moves.push_back(drain);
    for (auto& [index, started] : running) {
      whole = std::visit([&](auto& ring) { return ring.move_to(memory); }, started.ring) && whole;
    }
  }

  [[nodiscard]] SplitRing& ring(std::uint16_t index) {
    return std::get<SplitRing>(running.at(index).ring);
  }
  [[nodiscard]] PackedRing& packed_ring(std::uint16_t index) {
    return std::get<PackedRing>(running.at(index).ring);
  }

  std::uint64_t protocol = UINT64_MAX;  ///< whatever the session lets it have
  std::uint16_t offered = queues;
  std::uint16_t discarded = queues;  ///< a ring that is discarded when it is disabled
  std::uint64_t mtu = 0;
  std::vector<std::array<std::byte, 6>> announced;
  std::uint64_t accepted = 0;
  int feature_changes = 0;
  int call_changes = 0;
  std::byte written{};
  bool elsewhere = false;  ///< it cannot begin
  bool begun = false;
  int begins = 0;
  bool started_before_begin = false;
  bool rested_while_running = false;
  bool whole = true;  ///< no ring was lost by a move
  std::map<std::uint16_t, int> starts, starts_to_end, stops, suspends;
  std::map<std::uint16_t, StartedRing> running;
  std::vector<Drain> moves;
};

}  // namespace vhost::fakes
