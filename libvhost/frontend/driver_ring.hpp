#pragma once
#include <atomic>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "libvhost/frontend/shared_memory.hpp"
#include "libvhost/ring/barrier.hpp"
#include "libvhost/wire/virtqueue.hpp"

/*
 * Split virtqueue, driver side (VIRTIO 1.3, 2.7).
 *
 * A chain goes through four verbs. place() writes its descriptors into the table and gives it a
 * head; offer() puts the head into the available ring; publish() shows everything offered since to
 * the device at once and says whether a kick is due; poll() takes back what the device has used.
 * A placed chain can be offered again and again, so a loop that repeats requests writes
 * descriptors once. add() places and offers a chain that is removed by the poll() that returns it.
 *
 * Waiting without losing an interrupt: arm_calls() asks for a call at the next used entry, then
 * looks at used.idx once more. Both sides store their index and then load the other's wish, all
 * four of them sequentially consistent, so at least one side sees the other.
 *
 * Which chains exist and which are with the device is written down outside the shared memory. A
 * device that returns what it was not given breaks the ring (Poll::broken, broken_because()) and
 * can do no more harm than that: the ring then stays broken until reset().
 *
 * Thread: the one that owns the ring. Nothing here is locked.
 */
namespace vhost::frontend {

enum class Poll : std::uint8_t { done, empty, broken };

/// Whether poll() removes a chain when it comes back.
enum class Placing : std::uint8_t { kept, once };

/// What came back from the device.
struct Completion {
  std::uint64_t cookie = 0;         ///< as place() or add() were given it
  std::uint32_t written_bytes = 0;  ///< what the device claims to have written; not believed
  std::uint16_t head = 0;
};

struct RingOptions {
  std::uint16_t size = 128;    ///< descriptors; of a split ring a power of two
  bool event_idx = false;      ///< as negotiated
  bool legacy = false;         ///< VERSION_1 was not negotiated: the contiguous layout of old
  std::uint16_t indirect = 0;  ///< descriptors in each indirect table; 0: direct chains only
  bool packed = false;         ///< as negotiated; never legacy
};

/// What a driver asks of a ring, whatever its layout.
template <class R>
concept DriverRing = requires(R ring, std::span<const Segment> part, std::uint64_t cookie,
                              std::uint16_t head, Completion& completion) {
  { ring.place(part, part, cookie) } -> std::same_as<std::optional<std::uint16_t>>;
  { ring.offer(head) } -> std::same_as<bool>;
  { ring.add(part, part, cookie) } -> std::same_as<bool>;
  { ring.publish() } -> std::same_as<bool>;
  { ring.poll(completion) } -> std::same_as<Poll>;
  { ring.arm_calls() } -> std::same_as<bool>;
  { ring.disarm_calls() } -> std::same_as<void>;
};

/// A ring's areas in the memory that is shared (VIRTIO 1.3, 2.6), and its indirect tables.
class RingAreas {
 public:
  /// For SET_VRING_ADDR.
  [[nodiscard]] VringAddr addresses(std::uint32_t index) const;

  // For tests of devices: contents that no decent driver makes.

  [[nodiscard]] std::span<std::byte> descriptor_area() const { return descriptors_.bytes(); }
  /// The available ring, or the driver's event suppression.
  [[nodiscard]] std::span<std::byte> driver_area() const { return driver_.bytes(); }
  /// The used ring, or the device's event suppression.
  [[nodiscard]] std::span<std::byte> device_area() const { return device_.bytes(); }

 protected:
  Buffer descriptors_, driver_, device_, tables_;
};

class SplitDriverRing : public RingAreas {
 public:
  /// Takes the ring's areas, and its indirect tables, from `memory`, which must outlive the ring.
  [[nodiscard]] static Result<SplitDriverRing> create(SharedMemory& memory, RingOptions options);
  SplitDriverRing(SplitDriverRing&& other) noexcept;
  SplitDriverRing& operator=(SplitDriverRing&&) = delete;
  ~SplitDriverRing();

  /// Writes a chain into the table: what the device reads, then what it writes. Nothing if there
  /// are not enough descriptors free, or if there is no segment at all.
  [[nodiscard]] std::optional<std::uint16_t> place(std::span<const Segment> readable,
                                                   std::span<const Segment> writable,
                                                   std::uint64_t cookie,
                                                   Placing placing = Placing::kept);
  /// Takes a placed chain out of the table. False while the device has it.
  bool remove(std::uint16_t head);
  /// Puts a placed chain into the available ring; publish() shows it. False if there is no such
  /// chain or if the device has it already.
  [[nodiscard]] bool offer(std::uint16_t head) {
    if (head >= size_ || !slots_[head].placed || slots_[head].offered != 0) return false;
    offer_raw(head);
    return true;
  }
  /// place() and offer(); the poll() that returns the chain removes it. False: no room.
  [[nodiscard]] bool add(std::span<const Segment> readable, std::span<const Segment> writable,
                         std::uint64_t cookie);

  /// Shows the device what was offered since the last time. True: it wants to be kicked for it.
  [[nodiscard]] bool publish() {
    const std::uint16_t before = published_;
    if (before == offered_) return false;
    published_ = offered_;
    available_u16(SplitLayout::idx_at).store(published_, std::memory_order_release);
    full_barrier();  // the chains are visible before we look whether the device wants a kick
    if (event_idx_) {
      const auto event = used_u16(layout().avail_event_at()).load(std::memory_order_relaxed);
      return passed_event(event, published_, before);
    }
    const auto flags = used_u16(SplitLayout::flags_at).load(std::memory_order_relaxed);
    return (flags & used_no_notify) == 0;
  }

  /// Shows the device what was offered already before publish(): a device that is at work may take
  /// it, one that sleeps is not woken.
  void expose() { available_u16(SplitLayout::idx_at).store(offered_, std::memory_order_release); }

  /// The next chain that the device gave back.
  [[nodiscard]] Poll poll(Completion& completion) {
    if (taken_ == seen_) {
      if (broken_ != nullptr) return Poll::broken;
      seen_ = used_u16(SplitLayout::idx_at).load(std::memory_order_acquire);
      if (taken_ == seen_) return Poll::empty;
    }
    return take(completion);
  }

  /// Asks for a call at the next used entry. True: one is there already, do not wait.
  [[nodiscard]] bool arm_calls();
  /// Asks for no calls. A device may make some all the same; with EVENT_IDX one in 65536 entries.
  void disarm_calls();

  [[nodiscard]] std::uint16_t size() const { return size_; }
  [[nodiscard]] std::uint16_t free_descriptors() const { return free_count_; }
  /// Chains that were offered and did not come back yet.
  [[nodiscard]] std::uint32_t outstanding() const { return outstanding_; }
  /// There is nothing to poll just now.
  [[nodiscard]] bool caught_up() const {
    return used_u16(SplitLayout::idx_at).load(std::memory_order_acquire) == taken_;
  }
  /// Why poll() says broken; null otherwise.
  [[nodiscard]] const char* broken_because() const { return broken_; }

  /// The chains that are with the device, in the order in which they were offered.
  [[nodiscard]] std::vector<std::uint16_t> outstanding_heads() const;
  [[nodiscard]] std::uint64_t cookie(std::uint16_t head) const { return slots_[head].cookie; }

  // --- Stopping, starting and starting over. Only while no device works on the ring.

  /// Where a device has to go on: behind what it has used (as QEMU restores a base after a crash).
  /// What it had taken out of order and not finished, only an inflight region can tell it.
  [[nodiscard]] std::uint16_t base_after_crash() const;
  /// For a back-end without inflight region: offers what is outstanding again, oldest first, from
  /// base_after_crash() on. poll() must have said empty just before.
  void offer_again();
  /// Takes back every outstanding chain (chains of add() are removed) and starts the indices at 0.
  /// The caller has asked outstanding_heads() for what it loses by that.
  void reset();

  // --- For tests of devices: layouts and contents that no decent driver makes.

  /// Writes these descriptors as they are. `next` counts within `descriptors`; a `next` beyond its
  /// end is left as it is. The cookie comes back with the chain, which is then removed.
  [[nodiscard]] std::optional<std::uint16_t> place_raw(std::span<const SplitDesc> descriptors,
                                                       std::uint64_t cookie);
  /// Puts any number into the available ring, even twice.
  void offer_raw(std::uint16_t head) {
    const std::size_t at = SplitLayout::entries_at + (offered_ & mask_) * sizeof(head);
    // Device threads of the same process may look at an old entry while it is written: no tearing.
    available_u16(at).store(head, std::memory_order_relaxed);
    ++offered_;
    ++outstanding_;
    if (head < size_) {
      ++slots_[head].offered;
      slots_[head].sequence = ++sequence_;
    }
  }

 private:
  struct Slot {
    std::uint64_t cookie = 0;
    std::uint64_t sequence = 0;     // of the last offer
    std::uint16_t next = 0;         // of the chain, or of the free list
    std::uint16_t descriptors = 0;  // of the chain, if this is its head
    std::uint16_t offered = 0;      // times the device has it
    bool placed = false;            // the head of a chain
    bool once = false;              // remove when it comes back
  };

  SplitDriverRing(SharedMemory& memory, RingOptions options);
  [[nodiscard]] Result<void> allocate_areas(const RingOptions& options);
  [[nodiscard]] Poll take(Completion& completion);
  [[nodiscard]] Poll broke(const char* reason);
  void free_chain(std::uint16_t head);
  [[nodiscard]] std::uint16_t reserve(std::uint16_t count, std::uint64_t cookie);
  [[nodiscard]] std::byte* indirect_table(std::uint16_t head) const;
  void write_descriptor(std::byte* table, std::size_t index, const SplitDesc& descriptor);

  [[nodiscard]] SplitLayout layout() const { return {size_}; }
  [[nodiscard]] static std::atomic_ref<std::uint16_t> u16(const Buffer& area, std::size_t at) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(area.data + at));
  }
  [[nodiscard]] std::atomic_ref<std::uint16_t> available_u16(std::size_t at) const {
    return u16(driver_, at);
  }
  [[nodiscard]] std::atomic_ref<std::uint16_t> used_u16(std::size_t at) const {
    return u16(device_, at);
  }

  SharedMemory* memory_;
  Buffer whole_;  // the legacy layout's one area; else empty
  std::vector<Slot> slots_;

  const std::uint16_t size_;
  const std::uint16_t mask_;
  const std::uint16_t indirect_;
  const bool event_idx_;
  std::uint16_t free_head_ = 0;
  std::uint16_t free_count_ = 0;
  std::uint16_t offered_ = 0;    // our available index, to be published
  std::uint16_t published_ = 0;  // what avail.idx says
  std::uint16_t seen_ = 0;       // used.idx as it was last read
  std::uint16_t taken_ = 0;      // our position in the used ring
  std::uint32_t outstanding_ = 0;
  std::uint64_t sequence_ = 0;
  const char* broken_ = nullptr;
};
static_assert(DriverRing<SplitDriverRing>);

}  // namespace vhost::frontend
