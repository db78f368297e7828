#pragma once
#include <chrono>

#include "libvhost/frontend/any_driver_ring.hpp"

/*
 * A ring with the descriptors that wake its two sides: the driver kicks, the device calls.
 *
 * Thread: the one that owns the queue. wait() on several queues at once is poll() on their
 * call_fd(), with arm_calls() before and clear_call() behind it.
 */
namespace vhost::frontend {

struct QueueOptions {
  RingOptions ring{};
  bool calls = true;  ///< false: the back-end is told never to call (NOFD); poll only
  bool kicks = true;  ///< false: the back-end is told to poll the ring (NOFD)
};

/// Counted since the queue was made.
struct QueueCounters {
  std::uint64_t kicks = 0;  ///< written to the back-end
  std::uint64_t calls = 0;  ///< as the eventfd counted them
};

class Queue {
 public:
  [[nodiscard]] static Result<Queue> create(SharedMemory& memory, const QueueOptions& options);

  [[nodiscard]] AnyDriverRing& ring() { return ring_; }
  [[nodiscard]] const AnyDriverRing& ring() const { return ring_; }

  /// Publishes what was offered, and kicks the device if it wants to be.
  void submit() {
    if (ring_.publish()) kick();
  }
  /// Kicks the device whether it wants it or not.
  void kick();

  /// Waits until the device has used something. False: not within this time.
  [[nodiscard]] bool wait(std::chrono::milliseconds time);
  /// Takes the calls that came; without this call_fd() stays readable. How many.
  std::uint64_t clear_call();

  [[nodiscard]] int kick_fd() const { return kick_fd_.get(); }    ///< -1 without kicks
  [[nodiscard]] int call_fd() const { return call_fd_.get(); }    ///< -1 without calls
  [[nodiscard]] int error_fd() const { return error_fd_.get(); }  ///< readable: the ring is broken
  [[nodiscard]] const QueueCounters& counters() const { return counters_; }

 private:
  explicit Queue(AnyDriverRing ring) : ring_(std::move(ring)) {}

  AnyDriverRing ring_;
  UniqueFd kick_fd_, call_fd_, error_fd_;
  QueueCounters counters_;
};

}  // namespace vhost::frontend
