#pragma once
#include <atomic>
#include <optional>
#include <vector>

#include "backends/blk/image.hpp"
#include "backends/blk/slot.hpp"
#include "backends/blk/uring.hpp"

/*
 * Carries out requests on an image file or block device by io_uring.
 *
 * A request is moved in parts, one operation at a time, until all of it is done: most need one
 * part. More are needed where the kernel moved less than it was asked to, where there are more
 * pieces than one operation takes, where a range is not the last, and where data must be copied
 * through an aligned buffer. The guest's pages are the buffers of all other operations.
 *
 * Direct I/O wants memory, offset and length aligned. Memory that is not goes through one of a
 * few bounce buffers; a request that finds none free waits for one. An offset or length that is
 * not goes through the page cache, by the image's second descriptor.
 *
 * A read that is alone in its burst, and whose data may be in the page cache, is tried by a plain
 * system call that does not wait: that takes a third less time than a ring operation, and a guest
 * with one request in flight waits for just that time.
 *
 * Ranges are discarded by punching holes and zeroed by the file system, or by writing zeroes
 * where it cannot.
 *
 * A request can be parted with before it is done (leave()). What the block layer has cannot be
 * taken back, and is waited for. Of requests that are not whole after that nothing is said, not
 * even an error: somebody will carry them out from the beginning.
 *
 * Thread: one worker's; each worker has an engine of its own on the same image.
 */
namespace blk {

class FileEngine {
 public:
  /// `durable_writes` may change at any time, and holds for the requests that start after it: a
  /// write is on stable storage when it completes.
  FileEngine(const Image& image, const std::atomic<bool>& durable_writes, Uring& uring);

  /// Makes the image known to the ring; before the first start().
  [[nodiscard]] vhost::Result<void> prepare();

  /// Begins the slot's request. A status: it is done already. Nothing: complete() will tell.
  [[nodiscard]] std::optional<Status> start(Slot& slot);

  /// What a lone read came to.
  struct Done {
    Slot* slot;
    Status status;
  };
  /// Ends a burst of start(): nothing more comes before the ring is submitted. A request that
  /// could be done on the spot is given back.
  [[nodiscard]] std::optional<Done> end_burst();

  /// An operation for this slot has ended with `result`, bytes or a negative errno. A status:
  /// the request is done. Nothing: it goes on.
  [[nodiscard]] std::optional<Status> complete(Slot& slot, int result);

  /// Begins to part with these requests, between two bursts: nothing more is begun for them, and
  /// what the kernel has of them it is asked to give up. Those that turn out to be whole are told
  /// by complete() as ever. Once is_leaving() is false, of the others nothing is known here.
  void leave(std::span<Slot* const> slots);
  [[nodiscard]] bool is_leaving() const { return leaving_ != 0; }

 private:
  [[nodiscard]] bool aligned_range(std::uint64_t offset, std::uint64_t length) const;
  [[nodiscard]] bool aligned_memory(const Slot& slot) const;
  [[nodiscard]] bool borrow_bounce(Slot& slot);
  void return_bounce(Slot& slot);
  void gather(Slot& slot) const;
  void scatter(Slot& slot, std::uint64_t bytes) const;

  [[nodiscard]] bool read_at_once(Slot& slot);
  void go_on(Slot& slot);
  void move_part(Slot& slot);
  void move_bounced_part(Slot& slot);
  void advance(Slot& slot, std::uint64_t bytes);
  [[nodiscard]] std::optional<Status> next_range(Slot& slot);
  void zero_part(Slot& slot, const Range& range);
  [[nodiscard]] std::optional<Status> finish(Slot& slot, Status status);
  void sync(Slot& slot);

  [[nodiscard]] std::optional<Status> complete_sync(Slot& slot, int result);
  [[nodiscard]] std::optional<Status> complete_leaving(Slot& slot, int result);
  [[nodiscard]] bool makes_whole(const Slot& slot, std::uint64_t result) const;
  [[nodiscard]] std::optional<Status> complete_data(Slot& slot, std::uint64_t bytes);
  [[nodiscard]] std::optional<Status> complete_range(Slot& slot, int result);

  [[nodiscard]] int file_for(std::uint64_t offset, std::uint64_t length) const;
  void begin(Slot& slot, io_uring_sqe* entry) const;

  const Image& image_;
  const std::atomic<bool>& durable_writes_;
  Uring& uring_;
  std::span<const std::byte> zeroes_;
  std::vector<std::span<std::byte>> free_bounces_;
  std::size_t bounces_made_ = 0;
  std::vector<Slot*> waiting_for_bounce_;  // oldest first
  Slot* lone_read_ = nullptr;  // the first read of a burst, as long as it is the only request
  unsigned started_ = 0;       // in this burst
  std::size_t leaving_ = 0;    // requests whose last operation is awaited
};

}  // namespace blk
