#pragma once
#include "libvhost/frontend/driver_ring.hpp"

/*
 * Packed virtqueue, driver side (VIRTIO 1.3, 2.8), with the verbs of SplitDriverRing.
 *
 * In a packed ring a chain lies wherever the driver is when it offers it, and the device writes
 * over it. So place() only writes down what the chain is, and offer() copies it into the next
 * slots. Its buffer id, the head here, is that of its first descriptor in our books. What is placed
 * never has more descriptors than the ring, so what is offered always has room.
 *
 * The first descriptor of all that was offered since the last publish() or expose() gets its flags
 * last: until then the device sees nothing of what lies behind it.
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
  void offer_raw(std::uint16_t head);
  [[nodiscard]] bool add(std::span<const Segment> readable, std::span<const Segment> writable,
                         std::uint64_t cookie);

  [[nodiscard]] bool publish();
  void expose();
  [[nodiscard]] Poll poll(Completion& completion) {
    if (broken_ != nullptr) return Poll::broken;
    return caught_up() ? Poll::empty : take(completion);
  }
  [[nodiscard]] bool arm_calls();
  void disarm_calls();

  [[nodiscard]] std::uint16_t size() const { return size_; }
  [[nodiscard]] std::uint16_t free_descriptors() const { return free_count_; }
  [[nodiscard]] std::uint32_t outstanding() const { return outstanding_; }
  [[nodiscard]] bool caught_up() const {
    const std::uint16_t flags = flags_at(taken_.index).load(std::memory_order_acquire);
    return (flags & (desc_available | desc_used)) != taken_.used_flags();
  }
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
  [[nodiscard]] Poll take(Completion& completion);
  [[nodiscard]] Poll broke(const char* reason);
  void free_chain(std::uint16_t head);
  std::uint16_t keep_chain(std::uint64_t cookie, Placing placing);
  void write_table(std::uint16_t head);

  [[nodiscard]] std::byte* slot_at(std::uint16_t index) const {
    return descriptors_.data + std::size_t{index} * sizeof(PackedDesc);
  }
  [[nodiscard]] std::atomic_ref<std::uint16_t> flags_at(std::uint16_t index) const {
    return std::atomic_ref(
        *reinterpret_cast<std::uint16_t*>(slot_at(index) + PackedDesc::flags_at));
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
  PackedPosition next_;             // where the next chain goes
  PackedPosition published_;        // where it was at the last publish()
  std::uint32_t unpublished_ = 0;   // slots offered since
  std::uint16_t hidden_ = 0;        // the first slot that was not exposed,
  std::uint16_t hidden_flags_ = 0;  // and the flags that will; 0: all is exposed
  PackedPosition taken_;            // where the device's next used descriptor will be
  std::uint32_t outstanding_ = 0;
  std::uint64_t sequence_ = 0;
  const char* broken_ = nullptr;
};
static_assert(DriverRing<PackedDriverRing>);

}  // namespace vhost::frontend
