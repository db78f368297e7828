#pragma once
#include <cstring>
#include <vector>

#include "libvhost/frontend/blk_wire.hpp"
#include "libvhost/frontend/queue.hpp"

/*
 * Block requests on one queue.
 *
 * Each request lives in a slot: one cache line of shared memory with its header, its range (for
 * DISCARD and WRITE_ZEROES) and its status byte. submit() takes a free slot, and poll() gives it
 * back. Programs that repeat requests over the same buffers prepare() them instead: descriptors are
 * written once, and start() writes only sector and status.
 *
 * Nothing is sent for sure before kick(), so that a batch costs at most one kick; expose() lets a
 * device that is awake begin with a batch before it is complete, as Linux's driver does.
 *
 * Thread: the one that owns the queue.
 */
namespace vhost::frontend {

/// One asynchronous request. `data` is read by the device for `write`, written by it for `read` and
/// `get_id` (20 bytes), and empty for the others.
struct BlkRequest {
  BlkType type = BlkType::read;
  std::uint64_t sector = 0;
  std::span<const Segment> data{};
  std::uint32_t sectors = 0;  ///< of DISCARD and WRITE_ZEROES
  bool unmap = false;         ///< of WRITE_ZEROES
  std::uint64_t cookie = 0;   ///< comes back with the completion
};

struct BlkCompletion {
  std::uint64_t cookie = 0;
  BlkStatus status = BlkStatus::untouched;
  std::uint32_t written_bytes = 0;  ///< as the device claims
  std::uint16_t slot = 0;
};

class BlkQueue {
 public:
  /// Takes `slots` slots from `memory`, which must outlive this, as must `queue`.
  [[nodiscard]] static Result<BlkQueue> create(SharedMemory& memory, Queue& queue,
                                               std::uint16_t slots);
  BlkQueue(BlkQueue&& other) noexcept;
  BlkQueue& operator=(BlkQueue&&) = delete;
  ~BlkQueue();

  /// False: no slot or no descriptor is free; poll first.
  [[nodiscard]] bool submit(const BlkRequest& request);

  /// Places a request that start() can send any number of times, one at a time: its slot. `cookie`
  /// comes back each time. Nothing if there is no room.
  [[nodiscard]] std::optional<std::uint16_t> prepare(const BlkRequest& request);
  /// Sends a prepared request, which must not be with the device, for another sector.
  void start(std::uint16_t slot, std::uint64_t sector) {
    std::byte* line = lines_.data + std::size_t{slot} * line_bytes;
    std::memcpy(line + offsetof(BlkHeader, sector), &sector, sizeof sector);
    line[status_at] = static_cast<std::byte>(BlkStatus::untouched);
    queue_->ring().offer_raw(slots_[slot].head);
  }
  /// Gives a prepared request up. False while the device has it.
  bool drop(std::uint16_t slot);

  /// Shows the device what was submitted, without a kick: kick() must follow.
  void expose() { queue_->ring().expose(); }
  /// Shows the device what was submitted, and kicks it if it wants to be.
  void kick() { queue_->submit(); }

  /// The next finished request. Poll::broken: the back-end broke the rules, the queue is dead.
  [[nodiscard]] Poll poll(BlkCompletion& completion) {
    Completion used;
    const Poll answer = queue_->ring().poll(used);
    if (answer != Poll::done) return answer;
    const auto slot = static_cast<std::uint16_t>(used.cookie);
    const std::byte* line = lines_.data + std::size_t{slot} * line_bytes;
    completion = {slots_[slot].cookie, static_cast<BlkStatus>(line[status_at]), used.written_bytes,
                  slot};
    if (slots_[slot].once) free_slot(slot);
    return Poll::done;
  }

  /// The caller's cookie of a slot, for what Device::detach() returns (its cookies are slots).
  [[nodiscard]] std::uint64_t cookie(std::uint64_t slot) const { return slots_[slot].cookie; }
  /// After Device::detach(): the slots of what it returned are free again.
  void forget();
  [[nodiscard]] std::uint32_t outstanding() const { return queue_->ring().outstanding(); }
  [[nodiscard]] Queue& queue() { return *queue_; }

 private:
  static constexpr std::size_t line_bytes = 64;
  static constexpr std::size_t range_at = sizeof(BlkHeader);
  static constexpr std::size_t status_at = range_at + sizeof(BlkRange);

  struct Slot {
    std::uint64_t cookie = 0;
    std::uint16_t head = 0;
    bool once = false;
    bool used = false;
  };
  BlkQueue(SharedMemory& memory, Queue& queue, std::uint16_t slots);
  void free_slot(std::uint16_t slot) {
    slots_[slot].used = false;
    free_.push_back(slot);
  }
  [[nodiscard]] std::optional<std::uint16_t> fill(const BlkRequest& request, bool once);

  SharedMemory* memory_;
  Queue* queue_;
  Buffer lines_;
  std::vector<Slot> slots_;
  std::vector<std::uint16_t> free_;           // of a fixed capacity
  std::vector<Segment> readable_, writable_;  // reused by fill()
};

}  // namespace vhost::frontend
