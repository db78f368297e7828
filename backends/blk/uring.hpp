#pragma once
#include <liburing.h>

#include <cstdint>
#include <span>

#include "libvhost/wire/error.hpp"

/*
 * One io_uring of one worker thread: the only place where the thread does I/O and the only place
 * where it sleeps.
 *
 * A full submission queue is no error: it is submitted and gone on with. Completions carry a tag,
 * which the worker gave.
 *
 * Where the kernel can (6.1), completions wait for the thread to look (DEFER_TASKRUN) instead of
 * interrupting it; on older ones the plain ring is used. Thread: the one that called create().
 */
namespace blk {

/// What a completion belongs to; the meaning is the worker's, but for one.
using Tag = std::uint64_t;
inline constexpr Tag cancel_tag = 4;  ///< the attempt to cancel something

class Uring {
 public:
  /// An error names what the operator can do about it.
  [[nodiscard]] static vhost::Result<Uring> create();

  Uring(Uring&& other) noexcept;
  Uring& operator=(Uring&&) = delete;
  ~Uring();

  /// Makes these files known to the kernel; operations then name them by their place.
  [[nodiscard]] vhost::Result<void> register_files(std::span<const int> files);

  /// An empty operation, for the caller to prepare and then to tag. It starts with the next
  /// submit(), look() or wait().
  [[nodiscard]] io_uring_sqe* next();

  /// Asks the kernel to give the operation of that tag up, with the next submit(). It completes in
  /// any case, and may be done all the same.
  void cancel(Tag tag);

  /// Starts operations whenever this many are prepared, instead of all of a burst at once.
  void set_batch(unsigned operations) { batch_ = operations; }

  /// Starts what was prepared.
  void submit();
  /// Starts what was prepared and lets finished operations in, without waiting.
  void look();
  /// As look(), but waits for at least one completion.
  void wait();

  /// Calls `done(tag, result)` for every completion there is, without a system call. True if
  /// there was one.
  template <class Done>
  bool reap(Done done) {
    unsigned head = 0;
    unsigned count = 0;
    io_uring_cqe* completion = nullptr;
    io_uring_for_each_cqe(&ring_, head, completion) {
      ++count;
      done(completion->user_data, completion->res);
    }
    if (count != 0) io_uring_cq_advance(&ring_, count);
    return count != 0;
  }

 private:
  explicit Uring(const io_uring& ring) : ring_(ring), open_(true) {}

  io_uring ring_;
  bool open_;
  unsigned batch_ = UINT32_MAX;
};

}  // namespace blk
