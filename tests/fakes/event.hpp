#pragma once
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include "libvhost/session/event_fd.hpp"

namespace vhost::fakes {

/// An eventfd with the guest's end and ours.
class Event {
 public:
  [[nodiscard]] std::shared_ptr<const EventFd> shared() const {
    auto made = EventFd::adopt(UniqueFd(::dup(fd_.get())), conduct);
    if (!made) ADD_FAILURE() << made.error().what;
    return *made;
  }
  void add(std::uint64_t value = 1) const {
    EXPECT_EQ(::write(fd_.get(), &value, sizeof value), ssize_t{sizeof value});
  }
  /// What was added since the last look.
  [[nodiscard]] std::uint64_t count() const {
    std::uint64_t value = 0;
    return ::read(fd_.get(), &value, sizeof value) == sizeof value ? value : 0;
  }
  /// False: nothing was added in that time.
  [[nodiscard]] bool wait(std::chrono::milliseconds time = std::chrono::seconds(20)) const {
    pollfd watched{fd_.get(), POLLIN, 0};
    return ::poll(&watched, 1, static_cast<int>(time.count())) == 1;
  }
  [[nodiscard]] int get() const { return fd_.get(); }
  /// So that whoever writes to it once more hangs.
  void make_blocking_and_full() const {
    EXPECT_EQ(::fcntl(fd_.get(), F_SETFL, O_NONBLOCK), 0);
    (void)count();
    add(UINT64_MAX - 1);
    EXPECT_EQ(::fcntl(fd_.get(), F_SETFL, 0), 0);
  }

  /// Of whoever has this end.
  std::shared_ptr<Conduct> conduct = std::make_shared<Conduct>([](LogLevel, std::string_view) {});

 private:
  UniqueFd fd_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

/// Waits until `condition` holds. False: it did not for a long time.
inline bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 20'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

/// Whether `task` ends by itself. If it hangs in a signal to the event, it is freed.
template <class Task>
bool ends(const Event& event, Task task) {
  std::atomic<bool> ended = false;
  const std::jthread runner([&] {
    task();
    ended = true;
  });
  bool alone = false;
  for (int i = 0; i < 2000 && !alone; ++i) {
    alone = ended;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  while (!ended) {
    (void)::fcntl(event.get(), F_SETFL, O_NONBLOCK);
    (void)event.count();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return alone;
}

}  // namespace vhost::fakes
