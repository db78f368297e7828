#include "libvhost/frontend/queue.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace vhost::frontend {

Result<Queue> Queue::create(SharedMemory& memory, const QueueOptions& options) {
  auto ring = AnyDriverRing::create(memory, options.ring);
  if (!ring) return std::unexpected(ring.error());
  Queue queue(std::move(*ring));
  const auto event = [] { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); };
  if (options.kicks) queue.kick_fd_ = event();
  if (options.calls) queue.call_fd_ = event();
  queue.error_fd_ = event();
  if ((options.kicks && !queue.kick_fd_) || (options.calls && !queue.call_fd_) ||
      !queue.error_fd_) {
    return fail_errno(Fault::host, "cannot make an eventfd");
  }
  return queue;
}

void Queue::kick() {
  if (!kick_fd_) return;
  ++counters_.kicks;
  const std::uint64_t one = 1;
  // It fails only where the counter is full, and then the device has kicks enough.
  [[maybe_unused]] const ssize_t written = ::write(kick_fd_.get(), &one, sizeof one);
}

std::uint64_t Queue::clear_call() {
  std::uint64_t count = 0;
  if (!call_fd_ || ::read(call_fd_.get(), &count, sizeof count) != sizeof count) return 0;
  counters_.calls += count;
  return count;
}

bool Queue::wait(std::chrono::milliseconds time) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (!ring_.arm_calls()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    // Without calls there is nothing to sleep on: look once in a while.
    const auto slice = call_fd_ ? left : std::min(left, std::chrono::milliseconds(1));
    pollfd wait{call_fd_.get(), POLLIN, 0};
    ::poll(&wait, 1, static_cast<int>(slice.count()));
    clear_call();
  }
  ring_.disarm_calls();
  return true;
}

}  // namespace vhost::frontend
