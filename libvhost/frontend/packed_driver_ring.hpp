#pragma once
#include <cstring>
#include <utility>

#include "libvhost/frontend/driver_ring.hpp"
#include "libvhost/ring/barrier.hpp"

/*
 * Packed virtqueue, driver side (VIRTIO 1.3, 2.8), with the verbs of SplitDriverRing.
 *
 * In a packed ring a chain lies wherever the driver is when it offers it, and the device writes
 * over it. So place() only writes down what the chain is, and offer() copies it into the next
 * slots. Its buffer id, the head here, is that of its first descriptor in our books. What is placed
 * never has more descriptors than the ring, so what is offered always has room.
 *
 * The first descriptor of all that was offered since the last publish() or expose() is made
 * available last: until then the device sees nothing of what lies behind it. Length, id and flags
 * are written and read as one number, for all of them turn over at once.
 *
 * Thread: the one that owns the ring. Nothing here is locked.
 */
namespace vhost::frontend {

class PackedDriverRing : public RingAreas {
 public:
  /// Takes the ring's areas, and its indirect tables, from `memory`, which must outlive the ring.
  [[nodiscard]] static Result<PackedDriverRing> create(SharedMemory& memory, RingOptions options);
  PackedDriverRing(PackedDriverRing&& other) noexcept;
  PackedDriverRing& operator=(PackedDriverRing&&) = delete;
  ~PackedDriverRing();

  [[nodiscard]] std::optional<std::uint16_t> place(std::span<const Segment> readable,
                                                   std::span<const Segment> writable,
                                                   std::uint64_t cookie,
                                                   Placing placing = Placing::kept);
  bool remove(std::uint16_t head);
  [[nodiscard]] bool offer(std::uint16_t head) {
    if (head >= size_ || !slots_[head].placed || slots_[head].offered) return false;
    offer_raw(head);
    return true;
  }
  /// As offer(), for a chain that is known to be there and not with the device.
  void offer_raw(std::uint16_t head) {
    Slot& first = slots_[head];
    write(first.descriptor);
    std::uint16_t at = first.next;
    for (std::uint16_t left = first.descriptors; left > 1; --left) {
      write(slots_[at].descriptor);
      at = slots_[at].next;
    }
    ++outstanding_;
    first.offered = true;
    first.sequence = ++sequence_;
  }
  [[nodiscard]] bool add(std::span<const Segment> readable, std::span<const Segment> writable,
                         std::uint64_t cookie);

  [[nodiscard]] bool publish() {
    if (next_ == published_) return false;
    expose();
    const PackedPosition before = std::exchange(published_, next_);
    full_barrier();  // the chains are visible before we look whether the device wants a kick
    const std::uint32_t wish = event(device_).load(std::memory_order_relaxed);
    const auto flags = static_cast<std::uint16_t>(wish >> 16);
    if (flags != event_at_position || !event_idx_) return flags != event_never;
    const auto wanted = PackedPosition::of(static_cast<std::uint16_t>(wish));
    return wanted.ahead_of(before, size_) < next_.ahead_of(before, size_);
  }
  void expose() {
    if (hidden_tail_ == 0) return;
    store_release_u64(slot_at(hidden_) + PackedDesc::tail_at, std::exchange(hidden_tail_, 0));
  }
  [[nodiscard]] Poll poll(Completion& completion) {
    if (broken_ != nullptr) return Poll::broken;
    const PackedTail used = next_used();
    return is_used(used) ? take(used, completion) : Poll::empty;
  }
  [[nodiscard]] bool arm_calls();
  void disarm_calls();

  [[nodiscard]] std::uint16_t size() const { return size_; }
  [[nodiscard]] std::uint16_t free_descriptors() const { return free_count_; }
  [[nodiscard]] std::uint32_t outstanding() const { return outstanding_; }
  [[nodiscard]] bool caught_up() const { return !is_used(next_used()); }
  [[nodiscard]] const char* broken_because() const { return broken_; }
  [[nodiscard]] std::vector<std::uint16_t> outstanding_heads() const;
  [[nodiscard]] std::uint64_t cookie(std::uint16_t head) const { return slots_[head].cookie; }

  /// The base behind what was polled, which is all that a driver knows. What a device had used
  /// beyond that, and what it had taken out of order, only an inflight region can tell.
  [[nodiscard]] std::uint32_t base_after_crash() const {
    return taken_.bits() | std::uint32_t{taken_.bits()} << 16;
  }
  void offer_again();
  void reset();

  /// For tests of devices: a chain of these descriptors as they are, but for what offer() adds to
  /// flags. `id` counts from the one that the chain should have, modulo 2^16.
  [[nodiscard]] std::optional<std::uint16_t> place_raw(std::span<const PackedDesc> descriptors,
                                                       std::uint64_t cookie);

 private:
  /// A descriptor of a chain, as it is copied into the ring.
  struct Slot {
    PackedDesc descriptor{};
    std::uint64_t cookie = 0;
    std::uint64_t sequence = 0;     // of the last offer
    std::uint16_t next = 0;         // of the chain, or of the free list
    std::uint16_t descriptors = 0;  // of the chain, if this is its head
    bool offered = false;           // the device has it
    bool placed = false;            // the head of a chain
    bool once = false;              // remove when it comes back
  };

  PackedDriverRing(SharedMemory& memory, RingOptions options);
  [[nodiscard]] Result<void> allocate_areas();
  [[nodiscard]] Poll take(PackedTail used, Completion& completion);
  [[nodiscard]] Poll broke(const char* reason);
  void free_chain(std::uint16_t head);
  std::uint16_t keep_chain(std::uint64_t cookie, Placing placing);
  void write_table(std::uint16_t head);

  [[nodiscard]] std::byte* slot_at(std::uint16_t index) const {
    return descriptors_.data + std::size_t{index} * sizeof(PackedDesc);
  }
  [[nodiscard]] PackedTail next_used() const {
    return PackedTail::of(load_acquire_u64(slot_at(taken_.index) + PackedDesc::tail_at));
  }
  [[nodiscard]] bool is_used(const PackedTail& tail) const {
    return (tail.flags & (desc_available | desc_used)) == taken_.used_flags();
  }
  /// Makes this the next descriptor; the device sees it when the first hidden one is exposed.
  void write(const PackedDesc& descriptor) {
    const auto flags = static_cast<std::uint16_t>(descriptor.flags | next_.available_flags());
    const std::uint64_t tail = PackedTail{descriptor.length, descriptor.id, flags}.bits();
    std::byte* const at = slot_at(next_.index);
    std::memcpy(at, &descriptor.addr, sizeof descriptor.addr);
    if (hidden_tail_ == 0) {
      hidden_ = next_.index;
      hidden_tail_ = tail;
    } else {
      store_relaxed_u64(at + PackedDesc::tail_at, tail);
    }
    next_.advance(1, size_);
  }
  [[nodiscard]] static std::atomic_ref<std::uint32_t> event(const Buffer& area) {
    return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(area.data));
  }

  SharedMemory* memory_;
  std::vector<Slot> slots_;
  std::vector<PackedDesc> chain_;  // to be kept; reused by every place()

  const std::uint16_t size_;
  const std::uint16_t indirect_;
  const bool event_idx_;
  std::uint16_t free_head_ = 0;
  std::uint16_t free_count_ = 0;
  PackedPosition next_;            // where the next chain goes
  PackedPosition published_;       // where it was at the last publish()
  std::uint16_t hidden_ = 0;       // the first slot that was not exposed,
  std::uint64_t hidden_tail_ = 0;  // and what will expose it; 0: all is exposed
  PackedPosition taken_;           // where the device's next used descriptor will be
  std::uint32_t outstanding_ = 0;
  std::uint64_t sequence_ = 0;
  const char* broken_ = nullptr;
};
static_assert(DriverRing<PackedDriverRing>);

}  // namespace vhost::frontend
