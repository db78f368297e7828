#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost {

/// The control thread's one place to wait: descriptors that become readable, and timers.
///
/// A callback may watch and forget anything, itself included. Thread: one; only that thread may
/// call any of it.
class EventLoop {
 public:
  using Callback = std::function<void()>;

  [[nodiscard]] static Result<EventLoop> create();

  /// Calls back whenever `fd` is readable or closed by its peer. `fd` stays the caller's, who
  /// forgets it before closing it.
  [[nodiscard]] Result<void> watch(int fd, Callback callback);
  /// Calls back each time that something is written to the eventfd `fd`, which nobody reads.
  [[nodiscard]] Result<void> watch_writes(int fd, Callback callback);
  void forget(int fd);

  /// A timer that calls back every `period` until its descriptor is forgotten and closed.
  [[nodiscard]] Result<UniqueFd> every(std::chrono::milliseconds period, Callback callback);
  /// From now on the timer calls back after `delay`, and then every `delay`; 0: not any more.
  static void change(const UniqueFd& timer, std::chrono::milliseconds delay);

  /// Calls back for what is there, without waiting.
  [[nodiscard]] Result<void> turn() { return turn(0); }
  /// Waits and calls back until stop().
  [[nodiscard]] Result<void> run();
  void stop() { stopped_ = true; }

 private:
  [[nodiscard]] Result<void> add(int fd, std::uint32_t events, Callback callback);
  [[nodiscard]] Result<void> turn(int timeout_ms);
  explicit EventLoop(UniqueFd epoll) : epoll_(std::move(epoll)) {}

  UniqueFd epoll_;
  bool stopped_ = false;
  std::unordered_map<int, std::shared_ptr<Callback>> callbacks_;
};

}  // namespace vhost
