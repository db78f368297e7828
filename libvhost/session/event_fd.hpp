#pragma once
#include <memory>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost {

/// A kick, call or error descriptor of a ring: an eventfd, and nothing else.
///
/// The front-end shares it with us and may be hostile: a pipe or a file would make signal() wait
/// or a worker spin, so only eventfds are taken, and they are made non-blocking. Should the peer
/// undo that and fill the counter, a writer hangs in signal(); drain() from another thread frees
/// it. Where there is no other thread to do that, signal_with_care() is the one to call.
class EventFd {
 public:
  [[nodiscard]] static Result<std::shared_ptr<const EventFd>> adopt(UniqueFd fd);

  /// Adds one. A counter that is full is as good as signalled.
  void signal() const;
  /// The same, off the hot path: makes the descriptor non-blocking again first.
  void signal_with_care() const;
  /// Takes all that was added; never waits.
  void drain() const;
  [[nodiscard]] int get() const { return fd_.get(); }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace vhost
