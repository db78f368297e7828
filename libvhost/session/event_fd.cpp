#include "libvhost/session/event_fd.hpp"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <string_view>

namespace vhost {
namespace {

void add_one(int fd) {
  const std::uint64_t one = 1;
  (void)!::write(fd, &one, sizeof one);
}

/// Has the kernel add to eventfds: it does so at the end of an operation of its asynchronous I/O,
/// and waits for nobody there, whatever flags the eventfd has. The operation is to read no bytes
/// from the eventfd, which is refused at once.
///
/// There is one for the process, which never ends. Any thread may call.
class KernelsCalls {
 public:
  [[nodiscard]] static const KernelsCalls& instance() {
    static const KernelsCalls calls;
    return calls;
  }
  /// False: this kernel does no such thing, or does not let us.
  [[nodiscard]] bool call(int fd) const {
    iocb operation{};
    operation.aio_lio_opcode = IOCB_CMD_PREAD;
    operation.aio_fildes = static_cast<std::uint32_t>(fd);
    operation.aio_flags = IOCB_FLAG_RESFD;
    operation.aio_resfd = static_cast<std::uint32_t>(fd);
    std::array operations{&operation};
    if (::syscall(SYS_io_submit, context_, operations.size(), operations.data()) != 1) return false;
    io_event ended{};  // of any thread's; there must be room for the next
    timespec no_time{};
    (void)::syscall(SYS_io_getevents, context_, 0, 1, &ended, &no_time);
    return true;
  }

 private:
  KernelsCalls() { (void)::syscall(SYS_io_setup, most_at_once, &context_); }

  static constexpr unsigned most_at_once = 64;  // more than threads that are in call()

  aio_context_t context_ = 0;  // no context has this number
};

}  // namespace

void Conduct::call_hung() {
  if (hung_calls_.fetch_add(1, std::memory_order_relaxed) != 0) return;
  log_(
      LogLevel::warning,
      "a call to the guest hung: the front-end had made its eventfd blocking and full. From now on "
      "this guest is called in a slower way, which cannot hang. Have the front-end leave eventfds "
      "as they are, and restart the daemon");
}

Result<std::shared_ptr<const EventFd>> EventFd::adopt(UniqueFd fd,
                                                      std::shared_ptr<Conduct> conduct) {
  std::array<char, 64> target{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd.get());
  const ssize_t length = ::readlink(link.c_str(), target.data(), target.size());
  if (length < 0) return fail_errno(Fault::host, "cannot tell what kind of descriptor came");
  if (std::string_view(target.data(), static_cast<std::size_t>(length)) != "anon_inode:[eventfd]") {
    return fail(Fault::front_end, "the descriptor of a ring is not an eventfd");
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return fail_errno(Fault::host, "cannot make an eventfd non-blocking");
  }
  return std::shared_ptr<const EventFd>(new EventFd(std::move(fd), std::move(conduct)));
}

void EventFd::signal() const {
  if (!may_hang()) return signal_with_care();
  add_one(fd_.get());
}

void EventFd::signal_with_care() const {
  if (KernelsCalls::instance().call(fd_.get())) return;
  // The next best: who wants to make us hang has no more than the moment in between.
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags >= 0 && ::fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK) == 0) add_one(fd_.get());
}

bool EventFd::full() const {
  pollfd room{fd_.get(), POLLOUT, 0};
  return ::poll(&room, 1, 0) >= 0 && (room.revents & POLLOUT) == 0;
}

void EventFd::drain() const {
  std::uint64_t count = 0;
  const iovec room{&count, sizeof count};
  (void)!::preadv2(fd_.get(), &room, 1, -1, RWF_NOWAIT);
}

}  // namespace vhost
