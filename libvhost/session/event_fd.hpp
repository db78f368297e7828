#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "libvhost/session/log.hpp"
#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost {

/// What calls to one front-end have come to, over all of its connections.
class Conduct {
 public:
  explicit Conduct(Log log) : log_(std::move(log)) {}

  /// Calls that hung until they were freed. Any thread.
  [[nodiscard]] std::uint64_t hung_calls() const {
    return hung_calls_.load(std::memory_order_relaxed);
  }
  /// One more did. Thread: the control thread.
  void call_hung();

 private:
  Log log_;
  std::atomic<std::uint64_t> hung_calls_ = 0;
};

/// A kick, call or error descriptor of a ring: an eventfd, and nothing else.
///
/// The front-end shares it with us and may be hostile: a pipe or a file would make signal() wait
/// or a worker spin, so only eventfds are taken, and they are made non-blocking. Should the peer
/// undo that and fill the counter, a writer hangs in signal(), until a signal handler interrupts
/// it. Another thread sees that by full(), and has all signals to this front-end given with care
/// from then on by distrust(). Where there is no other thread to do that, signal_with_care() is the
/// one to call: it costs three times as much.
class EventFd {
 public:
  [[nodiscard]] static Result<std::shared_ptr<const EventFd>> adopt(
      UniqueFd fd, std::shared_ptr<Conduct> conduct);

  /// Adds one. A counter that is full is as good as signalled.
  void signal() const;
  /// The same, off the hot path: never waits, whatever the peer does.
  void signal_with_care() const;
  /// False: signal() takes care now.
  [[nodiscard]] bool may_hang() const { return conduct_->hung_calls() == 0; }
  /// Whether signal() would hang if the descriptor were blocking. No honest peer lets it come to
  /// that.
  [[nodiscard]] bool full() const;
  /// A call hung. Thread: the control thread.
  void distrust() const { conduct_->call_hung(); }
  /// Takes all that was added; never waits.
  void drain() const;
  [[nodiscard]] int get() const { return fd_.get(); }

 private:
  EventFd(UniqueFd fd, std::shared_ptr<Conduct> conduct)
      : fd_(std::move(fd)), conduct_(std::move(conduct)) {}
  UniqueFd fd_;
  std::shared_ptr<Conduct> conduct_;
};

}  // namespace vhost
