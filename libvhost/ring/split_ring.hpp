#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "libvhost/memory/inflight.hpp"
#include "libvhost/ring/barrier.hpp"
#include "libvhost/ring/chain.hpp"
#include "libvhost/ring/guest_view.hpp"
#include "libvhost/ring/ring_setup.hpp"
#include "libvhost/wire/virtqueue.hpp"

/*
 * Split virtqueue, device side (VIRTIO 2.7).
 *
 * Three areas in guest memory: descriptor table and available ring are the driver's to write, the
 * used ring is ours. All three are translated and bounds-checked once, in create() and move_to();
 * after that an index below size is safe.
 *
 * We keep our own positions and believe none that is read back from the guest. The available
 * index is read once for all chains up to it. A head that is in flight already cannot be offered
 * again, so no more than `size` chains are ever in flight and none is answered twice.
 *
 * Waiting without losing a kick: arm_kick() asks for a kick at the next entry, then looks at the
 * available index once more. An entry that was added before the request was visible is seen by
 * that look; one that is added after it causes the kick.
 *
 * Barriers. The driver stores the available index last, so we load it with acquire: that orders it
 * before all loads of the entries, descriptors and buffers that it covers. The used index is stored
 * with release, behind all used elements and whatever the device wrote into buffers. What acquire
 * and release cannot order is our store before our load of the driver's wish for a call
 * (publish()), and our wish for a kick before the last look (arm_kick()): there stands a full
 * barrier, as there does on the driver's side, so at least one of the two sees the other.
 * disarm_kick() needs none: seen late it costs a kick, and nothing else.
 *
 * unpop() steps back by one entry. The chain's head is the caller's, not the available ring's,
 * which the driver may have rewritten; what is there is checked anew by the next pop().
 *
 * A crash loses no request where there is an inflight section: a head is marked before pop()
 * returns it and unmarked after publish() has shown it. What a predecessor still owed comes out
 * of pop() first.
 *
 * A guest that breaks the rules stops this ring (Pop::broken) until the front-end starts it
 * anew. Other rings and other devices are not affected.
 *
 * Thread: the worker that owns the ring. Nothing here is locked.
 */
namespace vhost {

class SplitRing {
 public:
  /// Fails if a ring area is not wholly inside one region of `memory`, or if the inflight section
  /// is of another kind than ours.
  [[nodiscard]] static Result<SplitRing> create(const RingSetup& setup,
                                                std::shared_ptr<const MemoryMap> memory,
                                                InflightSection inflight = {});

  using Reading = GuestView::Reading;

  [[nodiscard]] Reading reading() { return Reading(view_); }
  [[nodiscard]] Pop pop(Chain& chain, Reading& reading);
  [[nodiscard]] Pop pop(Chain& chain) {
    Reading reading(view_);
    return pop(chain, reading);
  }
  [[nodiscard]] std::size_t pop_singles(std::span<Single> to);
  /// `head` as pop() gave it: the driver may have written another in its place since.
  void unpop(std::uint16_t head);
  void look_ahead(std::uint16_t chains);
  void leave();
  void push(std::uint16_t head, std::uint32_t written_bytes,
            std::uint32_t touched_bytes = everywhere);
  [[nodiscard]] Notify publish();
  [[nodiscard]] bool arm_kick();
  void disarm_kick();
  [[nodiscard]] bool move_to(std::shared_ptr<const MemoryMap> memory);

  [[nodiscard]] std::uint32_t base() const { return next_avail_; }
  [[nodiscard]] std::uint32_t in_flight() const { return in_flight_; }
  [[nodiscard]] bool is_broken() const { return broken_; }
  [[nodiscard]] bool owes() const { return !broken_ && !owed_.empty() && !view_.waits(); }
  [[nodiscard]] std::uint16_t size() const { return layout_.size; }
  [[nodiscard]] std::size_t longest_chain() const { return setup_.most_pieces(); }

 private:
  SplitRing(const RingSetup& setup, InflightSection inflight);
  [[nodiscard]] std::uint16_t available_index() const;
  [[nodiscard]] bool see_available();
  [[nodiscard]] bool see_more();
  [[nodiscard]] Pop read(std::uint16_t head, Chain& chain, Reading& reading);
  [[nodiscard]] Pop pop_owed(Chain& chain, Reading& reading);
  [[nodiscard]] Pop broken();
  void expect_chains();
  void leave_memory();
  void ask_for_kicks(std::uint16_t event, std::uint16_t flags);
  void log_used(std::size_t offset, std::size_t bytes);
  void log_shown(std::uint16_t first);

  // Where the areas are; changed by move_to() alone.
  RingSetup setup_;
  SplitLayout layout_;
  GuestView view_;
  std::span<std::byte> descriptors_;
  std::byte* available_ = nullptr;
  std::byte* used_ = nullptr;
  std::shared_ptr<std::vector<std::uint32_t>> nowhere_;  // stands for areas that were taken away

  // Our positions, free-running modulo 2^16.
  std::uint16_t next_avail_ = 0;  // the next entry to pop
  std::uint16_t seen_avail_ = 0;  // the available index when it was last read
  std::uint16_t next_used_ = 0;   // the next entry to push
  std::uint16_t shown_used_ = 0;  // the used index as the driver sees it
  std::uint16_t expected_ = 0;    // the next entry whose translations were not asked for
  bool broken_ = false;

  std::uint32_t in_flight_ = 0;
  std::vector<Origin> head_in_flight_;  // by head: where it came from, from pop to push
  std::vector<std::uint16_t> owed_;     // by a predecessor, newest first: served from the back
  InflightSection inflight_;
};

// Inline is what a burst of short frames does for each of its chains: a call would cost as much.

inline std::size_t SplitRing::pop_singles(std::span<Single> to) {
  if (view_.waits() || (next_avail_ == seen_avail_ && !see_more())) return 0;
  const auto reading = view_.hold();
  // Copies: after each look at shared memory the compiler would read members anew.
  const std::byte* const entries = available_ + SplitLayout::entries_at;
  const std::byte* const table = descriptors_.data();
  Origin* const origins = head_in_flight_.data();
  GuestView::Hint hint = view_.hint();
  const bool tracked = view_.tracked();
  Ledger::Singles kept = view_.keep_singles();
  const std::uint16_t size = layout_.size;
  const std::uint16_t first = next_avail_;
  const std::size_t most =
      std::min<std::size_t>(to.size(), static_cast<std::uint16_t>(seen_avail_ - first));
  std::size_t count = 0;
  for (; count < most; ++count) {
    const std::size_t slot = (first + count) & (size - 1u);
    const std::uint16_t head = load_relaxed(entries + slot * sizeof head);
    if (head >= size || origins[head] != Origin::not_in_flight) break;
    const auto desc = read_once<SplitDesc>(table + head * sizeof(SplitDesc));
    if ((desc.flags & (desc_next | desc_indirect)) != 0 || desc.length == 0) break;
    const bool writable = (desc.flags & desc_write) != 0;
    std::byte* begin = hint.find(GuestAddress{desc.addr}, desc.length, writable);
    if (begin == nullptr) {
      const auto bytes = view_.prefix(GuestAddress{desc.addr}, desc.length,
                                      writable ? Access::write : Access::read);
      if (bytes.size() != desc.length) break;
      begin = bytes.data();
      hint = view_.hint();
    }
    to[count] = {begin, desc.length, head, writable};
    if (tracked) kept.keep(head, {GuestAddress{desc.addr}, begin, desc.length, writable});
    origins[head] = Origin::available;
    inflight_.take(head);
  }
  next_avail_ = static_cast<std::uint16_t>(first + count);
  in_flight_ += static_cast<std::uint32_t>(count);
  return count;
}

inline void SplitRing::push(std::uint16_t head, std::uint32_t written_bytes,
                            std::uint32_t touched_bytes) {
  const UsedElem elem{head, written_bytes};
  const std::size_t slot = next_used_ & (layout_.size - 1u);
  std::memcpy(used_ + SplitLayout::entries_at + slot * sizeof elem, &elem, sizeof elem);
  ++next_used_;
  head_in_flight_[head] = Origin::not_in_flight;
  --in_flight_;
  inflight_.give_back(head);
  view_.give_back(head, touched_bytes);
}

}  // namespace vhost
