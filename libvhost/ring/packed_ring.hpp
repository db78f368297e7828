#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "libvhost/memory/packed_inflight.hpp"
#include "libvhost/ring/barrier.hpp"
#include "libvhost/ring/chain.hpp"
#include "libvhost/ring/guest_view.hpp"
#include "libvhost/ring/ring_setup.hpp"
#include "libvhost/wire/virtqueue.hpp"

/*
 * Packed virtqueue, device side (VIRTIO 2.8).
 *
 * One ring of descriptors, which both sides write. The driver puts a chain into the next slots, and
 * we put what we used over the oldest of them: one used descriptor at our used position, which then
 * skips as many slots as that chain had. So a chain is read once, when it is popped; afterwards the
 * ring may hold something else in its place. A chain's name is the buffer id that its driver
 * chose: it must be below `size`, as with every known driver, and not in flight already.
 *
 * Two bits of a descriptor's flags say whether it is available or used, in the sense of the lap in
 * which a side comes to it (PackedPosition). Our two positions are our own; nothing that is read
 * from the guest moves them. Slots from the used position on that were popped and not shown as
 * used are ours; no more than the rest are ever read as available.
 *
 * Barriers. A chain's flags are loaded with acquire, which orders them before all loads of its
 * descriptors: the driver stored them last, of its first descriptor last of all. A burst is shown
 * in the same way: all used descriptors but the first are written, then the first is stored with
 * release. A driver reads them in order, so it sees none or all. What
 * acquire and release cannot order is our store before our load of the driver's wish for a call
 * (publish()), and our wish for a kick before the last look (arm_kick()): there stands a full
 * barrier, as there does on the driver's side, so at least one of the two sees the other. An event
 * suppression structure is loaded and stored in one piece, so position and flags are of one time.
 *
 * A crash loses no request where there is an inflight section, which has copies of the chains and
 * our positions. Used descriptors that a predecessor wrote and did not show are erased.
 *
 * A guest that breaks the rules stops this ring, as with SplitRing. Thread: the worker that owns
 * the ring. Nothing here is locked.
 */
namespace vhost {

class PackedRing {
 public:
  /// Fails if a ring area is not wholly inside one region of `memory`, if `setup` has no size or
  /// no base for a packed ring, or if the inflight section is of another kind than ours.
  [[nodiscard]] static Result<PackedRing> create(const RingSetup& setup,
                                                 std::shared_ptr<const MemoryMap> memory,
                                                 PackedInflightSection inflight = {});

  using Reading = GuestView::Reading;

  [[nodiscard]] Reading reading() { return Reading(view_); }
  [[nodiscard]] Pop pop(Chain& chain, Reading& reading);
  [[nodiscard]] Pop pop(Chain& chain) {
    Reading reading(view_);
    return pop(chain, reading);
  }
  [[nodiscard]] std::size_t pop_singles(std::span<Single> to);
  void unpop(std::uint16_t id);
  void look_ahead(std::uint16_t chains);
  void leave();
  void push(std::uint16_t id, std::uint32_t written_bytes,
            std::uint32_t touched_bytes = everywhere);
  [[nodiscard]] Notify publish();
  [[nodiscard]] bool arm_kick();
  void disarm_kick();
  [[nodiscard]] bool move_to(std::shared_ptr<const MemoryMap> memory);

  /// The available position in the low half, the used one in the high half (vhost-user,
  /// "Vring state").
  [[nodiscard]] std::uint32_t base() const {
    return next_avail_.bits() | std::uint32_t{next_used_.bits()} << 16;
  }
  [[nodiscard]] std::uint32_t in_flight() const { return in_flight_; }
  [[nodiscard]] bool is_broken() const { return broken_; }
  [[nodiscard]] bool owes() const { return !broken_ && !owed_.empty() && !view_.waits(); }
  [[nodiscard]] std::uint16_t size() const { return setup_.size; }
  [[nodiscard]] std::size_t longest_chain() const { return setup_.most_pieces(); }

 private:
  /// What is known of a chain in flight: one word, for the compiler would write field by field.
  class Held {
   public:
    Held() = default;  ///< of none
    Held(std::uint16_t slots, std::uint16_t entry, Origin origin)
        : bits_(slots | std::uint64_t{entry} << 16 |
                std::uint64_t{std::to_underlying(origin)} << 32) {}
    [[nodiscard]] std::uint16_t slots() const { return static_cast<std::uint16_t>(bits_); }
    /// In the inflight section.
    [[nodiscard]] std::uint16_t entry() const { return static_cast<std::uint16_t>(bits_ >> 16); }
    [[nodiscard]] Origin origin() const { return static_cast<Origin>(bits_ >> 32); }

   private:
    std::uint64_t bits_ = 0;
  };
  using Owed = PackedInflightSection::Owed;

  PackedRing(const RingSetup& setup, PackedInflightSection inflight);
  [[nodiscard]] Result<void> recover();
  [[nodiscard]] std::byte* slot(std::uint16_t index) const {
    return descriptors_ + index * sizeof(PackedDesc);
  }
  [[nodiscard]] std::uint16_t flags_of(std::uint16_t index) const {
    return PackedTail::of(load_acquire_u64(slot(index) + PackedDesc::tail_at)).flags;
  }
  [[nodiscard]] bool has_next() const {
    return next_avail_.is_available(flags_of(next_avail_.index));
  }
  template <DescSource S>
  [[nodiscard]] Pop read(S source, Chain& chain);
  [[nodiscard]] Pop pop_owed(Chain& chain);
  [[nodiscard]] Pop hold(std::uint16_t id, const Held& held, Chain& chain);
  [[nodiscard]] Pop broken();
  void expect_chains();
  void erase_unshown();
  template <bool noted>
  [[nodiscard]] std::size_t pop_straight(std::span<Single> to);
  void leave_memory();
  void log_shown(PackedPosition first, std::uint32_t slots);
  void ask_for_kicks(std::uint32_t event);

  // Where the areas are; changed by move_to() alone.
  RingSetup setup_;
  GuestView view_;
  std::byte* descriptors_ = nullptr;
  const std::byte* driver_event_ = nullptr;
  std::byte* device_event_ = nullptr;
  std::shared_ptr<std::vector<std::uint64_t>> nowhere_;  // stands for areas that were taken away

  PackedPosition next_avail_;     // the next slot to pop from
  PackedPosition next_used_;      // the next slot to push to
  PackedPosition expected_;       // the next chain whose translations were not asked for
  PackedPosition shown_used_;     // the same when the driver was last shown what was pushed
  std::uint32_t slots_held_ = 0;  // popped, or owed, and not shown as used
  std::uint64_t first_used_ = 0;  // what will show the first chain pushed since then
  bool broken_ = false;

  std::uint32_t in_flight_ = 0;
  std::vector<Held> held_;  // by id
  std::vector<Owed> owed_;  // by a predecessor, newest first: served from the back
  PackedInflightSection inflight_;
};

// Inline is what a burst of short frames does for each of its chains: a call would cost as much.

inline std::size_t PackedRing::pop_singles(std::span<Single> to) {
  if (broken_ || !owed_.empty() || view_.waits()) return 0;
  const auto reading = view_.hold();
  const std::size_t most = std::min<std::size_t>(to.size(), setup_.size - slots_held_);
  std::size_t count = 0;
  while (count < most) {  // twice at most: up to the ring's end, and from its beginning
    const std::size_t straight = setup_.size - std::size_t{next_avail_.index};
    const auto part = to.subspan(count, std::min(most - count, straight));
    const std::size_t popped =
        inflight_.is_there() ? pop_straight<true>(part) : pop_straight<false>(part);
    count += popped;
    next_avail_.advance(static_cast<std::uint32_t>(popped), setup_.size);
    if (popped < part.size()) break;
  }
  in_flight_ += static_cast<std::uint32_t>(count);
  slots_held_ += static_cast<std::uint32_t>(count);
  return count;
}

/// The same from the next slot on, where the ring does not end before `to` does; `noted` in the
/// inflight section.
template <bool noted>
std::size_t PackedRing::pop_straight(std::span<Single> to) {
  constexpr std::uint16_t marks = desc_available | desc_used | desc_next | desc_indirect;
  // Copies: after each look at shared memory the compiler would read members anew.
  const std::byte* at = slot(next_avail_.index);
  const std::uint16_t single_here = next_avail_.available_flags();
  Held* const held = held_.data();
  GuestView::Hint hint = view_.hint();
  const bool tracked = view_.tracked();
  Ledger::Singles kept = view_.keep_singles();
  PackedInflightSection::Singles inflight(inflight_);
  const std::uint16_t size = setup_.size;
  std::size_t count = 0;
  for (; count < to.size(); ++count) {
    const auto tail = PackedTail::of(load_acquire_u64(at + PackedDesc::tail_at));
    if ((tail.flags & marks) != single_here) break;
    if (tail.id >= size || held[tail.id].origin() != Origin::not_in_flight || tail.length == 0)
      break;
    const GuestAddress address{read_once<std::uint64_t>(at)};
    const bool writable = (tail.flags & desc_write) != 0;
    std::byte* begin = hint.find(address, tail.length, writable);
    if (begin == nullptr) {
      const auto bytes =
          view_.prefix(address, tail.length, writable ? Access::write : Access::read);
      if (bytes.size() != tail.length) break;
      begin = bytes.data();
      hint = view_.hint();
    }
    to[count] = {begin, tail.length, tail.id, writable};
    if (tracked) kept.keep(tail.id, {address, begin, tail.length, writable});
    std::uint16_t entry = 0;
    if constexpr (noted) entry = inflight.take(address, tail);
    held[tail.id] = {1, entry, Origin::available};
    at += sizeof(PackedDesc);
  }
  return count;
}

inline void PackedRing::push(std::uint16_t id, std::uint32_t written_bytes,
                             std::uint32_t touched_bytes) {
  const Held held = std::exchange(held_[id], Held());
  const std::uint16_t wrote = written_bytes > 0 ? desc_write : 0;
  const auto flags = static_cast<std::uint16_t>(next_used_.used_flags() | wrote);
  const std::uint64_t used = PackedTail{written_bytes, id, flags}.bits();
  if (next_used_ == shown_used_) {
    first_used_ = used;
  } else {
    store_relaxed_u64(slot(next_used_.index) + PackedDesc::tail_at, used);
  }
  next_used_.advance(held.slots(), setup_.size);
  --in_flight_;
  inflight_.give_back(held.entry());
  view_.give_back(id, touched_bytes);
}

}  // namespace vhost
