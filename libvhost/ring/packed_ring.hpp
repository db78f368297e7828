#pragma once
#include <cstdint>
#include <memory>
#include <span>
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
 * in the same way: all used descriptors but the first are written with their flags, then the flags
 * of the first are stored with release. A driver reads them in order, so it sees none or all. What
 * acquire and release cannot order is our store before our load of the driver's wish for a call
 * (publish()), and our wish for a kick before the last look (arm_kick()): there stands a full
 * barrier, as there does on the driver's side. An event suppression structure is loaded and stored
 * in one piece, so position and flags are of one time.
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

  [[nodiscard]] Pop pop(Chain& chain);
  [[nodiscard]] std::size_t pop_singles(std::span<Single> to);
  void unpop(std::uint16_t id);
  void look_ahead(std::uint16_t chains);
  void push(std::uint16_t id, std::uint32_t written_bytes);
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

  /// With room for this many pieces no chain is answered with no_room: a buffer is one piece, and
  /// one more for each region boundary that lies in it.
  [[nodiscard]] std::size_t longest_chain() const {
    return std::max(setup_.size, longest_chain_at_least) + MemoryMap::max_regions;
  }

 private:
  /// Where a chain in flight was popped from: unpop() gives it back there.
  enum class Origin : std::uint8_t { not_in_flight, available, owed };

  /// What is known of a chain in flight.
  struct alignas(std::uint64_t) Held {  // so that it is written in one piece
    std::uint16_t slots = 0;
    std::uint16_t entry = 0;  // in the inflight section
    Origin origin = Origin::not_in_flight;
  };
  using Owed = PackedInflightSection::Owed;

  PackedRing(const RingSetup& setup, PackedInflightSection inflight);
  [[nodiscard]] Result<void> recover();
  [[nodiscard]] std::byte* slot(std::uint16_t index) const {
    return descriptors_ + index * sizeof(PackedDesc);
  }
  [[nodiscard]] std::uint16_t flags_of(std::uint16_t index) const {
    return load_acquire(slot(index) + PackedDesc::flags_at);
  }
  [[nodiscard]] bool has_next() const {
    return next_avail_.is_available(flags_of(next_avail_.index));
  }
  template <DescSource S>
  [[nodiscard]] Pop read(S source, Chain& chain);
  [[nodiscard]] Pop pop_owed(Chain& chain);
  [[nodiscard]] Pop hold(std::uint16_t id, const Held& held, Chain& chain);
  [[nodiscard]] Pop broken();
  void erase_unshown();
  [[nodiscard]] std::uint16_t note_single(const PackedDesc& desc, std::uint16_t flags) {
    inflight_.forget();
    inflight_.note({desc.addr, desc.length, desc.id, flags});
    return inflight_.take(desc.id);
  }
  void leave_memory();
  void log_shown(std::uint32_t slots);
  void ask_for_kicks(std::uint32_t event);

  // Where the areas are; changed by move_to() alone.
  RingSetup setup_;
  GuestView view_;
  std::byte* descriptors_ = nullptr;
  const std::byte* driver_event_ = nullptr;
  std::byte* device_event_ = nullptr;
  std::shared_ptr<std::vector<std::uint64_t>> nowhere_;  // stands for areas that were taken away

  PackedPosition next_avail_;       // the next slot to pop from
  PackedPosition next_used_;        // the next slot to push to
  std::uint32_t slots_held_ = 0;    // popped, or owed, and not shown as used
  std::uint32_t slots_pushed_ = 0;  // of these, pushed since the last publish()
  std::uint16_t first_pushed_ = 0;  // the slot of the first chain pushed since then,
  std::uint16_t first_flags_ = 0;   // and the flags that will show it
  bool broken_ = false;

  std::uint32_t in_flight_ = 0;
  std::vector<Held> held_;  // by id
  std::vector<Owed> owed_;  // by a predecessor, newest first: served from the back
  PackedInflightSection inflight_;
};

// Inline is what a burst of short frames does for each of its chains: a call would cost as much.

inline std::size_t PackedRing::pop_singles(std::span<Single> to) {
  if (broken_ || !owed_.empty() || view_.waits()) return 0;
  const GuestView::Reading reading(view_);
  // Copies: after each look at shared memory the compiler would read members anew.
  const std::byte* const table = descriptors_;
  Held* const held = held_.data();
  MemoryMap::Hint hint = view_.hint();
  const bool tracked = view_.tracked();
  const std::uint16_t size = setup_.size;
  PackedPosition next = next_avail_;
  const std::size_t most = std::min<std::size_t>(to.size(), size - slots_held_);
  std::size_t count = 0;
  const bool noting = inflight_.is_there();
  for (; count < most; ++count) {
    const std::byte* const slot = table + next.index * sizeof(PackedDesc);
    const std::uint16_t flags = load_acquire(slot + PackedDesc::flags_at);
    if (!next.is_available(flags) || (flags & (desc_next | desc_indirect)) != 0) break;
    const auto desc = read_once<PackedDesc>(slot);
    if (desc.id >= size || held[desc.id].origin != Origin::not_in_flight || desc.length == 0) break;
    std::byte* begin = hint.find(GuestAddress{desc.addr}, desc.length);
    const bool writable = (flags & desc_write) != 0;
    if (begin == nullptr) {
      const auto bytes = view_.prefix(GuestAddress{desc.addr}, desc.length,
                                      writable ? Access::write : Access::read);
      if (bytes.size() != desc.length) break;
      begin = bytes.data();
      hint = view_.hint();
    }
    to[count] = {begin, desc.length, desc.id, writable};
    if (tracked) {
      view_.keep_single(desc.id, {GuestAddress{desc.addr}, begin, desc.length, writable});
    }
    held[desc.id] = {1, noting ? note_single(desc, flags) : std::uint16_t{0}, Origin::available};
    next.advance(1, size);
  }
  next_avail_ = next;
  in_flight_ += static_cast<std::uint32_t>(count);
  slots_held_ += static_cast<std::uint32_t>(count);
  return count;
}

inline void PackedRing::push(std::uint16_t id, std::uint32_t written_bytes) {
  Held& held = held_[id];
  std::byte* const used = slot(next_used_.index) + PackedDesc::length_at;
  const std::uint16_t wrote = written_bytes > 0 ? desc_write : 0;
  const auto flags = static_cast<std::uint16_t>(next_used_.used_flags() | wrote);
  if (slots_pushed_ == 0) {
    first_pushed_ = next_used_.index;
    first_flags_ = flags;
    const PackedUsed elem{written_bytes, id, flags};
    std::memcpy(used, &elem, offsetof(PackedUsed, flags));
  } else {
    const PackedUsed elem{written_bytes, id, flags};
    std::memcpy(used, &elem, sizeof elem);
  }
  next_used_.advance(held.slots, setup_.size);
  slots_pushed_ += held.slots;
  held.origin = Origin::not_in_flight;
  --in_flight_;
  inflight_.give_back(held.entry);
  view_.give_back(id);
}

}  // namespace vhost
