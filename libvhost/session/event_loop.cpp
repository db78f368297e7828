#include "libvhost/session/event_loop.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>

namespace vhost {
namespace {

int set(const UniqueFd& timer, std::chrono::milliseconds period) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(period);
  const timespec step{seconds.count(), (period - seconds).count() * 1'000'000};
  const itimerspec schedule{step, step};
  return ::timerfd_settime(timer.get(), 0, &schedule, nullptr);
}

}  // namespace

Result<EventLoop> EventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(Fault::host, "cannot create an epoll descriptor");
  return EventLoop(std::move(epoll));
}

Result<void> EventLoop::watch(int fd, Callback callback) {
  return add(fd, EPOLLIN | EPOLLRDHUP, std::move(callback));
}

Result<void> EventLoop::watch_writes(int fd, Callback callback) {
  return add(fd, EPOLLIN | EPOLLET, std::move(callback));
}

Result<void> EventLoop::add(int fd, std::uint32_t events, Callback callback) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return fail_errno(Fault::host, "cannot watch a descriptor");
  }
  callbacks_[fd] = std::make_shared<Callback>(std::move(callback));
  return {};
}

void EventLoop::forget(int fd) {
  if (callbacks_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::change(const UniqueFd& timer, std::chrono::milliseconds delay) {
  (void)set(timer, delay);  // fails for what is no timer
}

Result<UniqueFd> EventLoop::every(std::chrono::milliseconds period, Callback callback) {
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer) return fail_errno(Fault::host, "cannot create a timer");
  if (set(timer, period) != 0) {
    return fail_errno(Fault::host, "cannot start a timer");
  }
  auto tick = [fd = timer.get(), callback = std::move(callback)] {
    std::uint64_t expirations = 0;
    if (::read(fd, &expirations, sizeof expirations) > 0) callback();
  };
  if (auto watched = watch(timer.get(), std::move(tick)); !watched) {
    return std::unexpected(watched.error());
  }
  return timer;
}

Result<void> EventLoop::run() {
  stopped_ = false;
  while (!stopped_) {
    if (const auto turned = turn(-1); !turned) return turned;
  }
  return {};
}

Result<void> EventLoop::turn(int timeout_ms) {
  std::array<epoll_event, 16> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
  if (count < 0 && errno != EINTR) return fail_errno(Fault::host, "cannot wait for events");
  for (int i = 0; i < count && !stopped_; ++i) {
    const auto found = callbacks_.find(events[static_cast<std::size_t>(i)].data.fd);
    if (found == callbacks_.end()) continue;  // forgotten by a callback before it
    const auto callback = found->second;      // lives on if it forgets itself
    (*callback)();
  }
  return {};
}

}  // namespace vhost
