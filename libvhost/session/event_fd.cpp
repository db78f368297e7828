#include "libvhost/session/event_fd.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace vhost {

Result<std::shared_ptr<const EventFd>> EventFd::adopt(UniqueFd fd) {
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
  return std::shared_ptr<const EventFd>(new EventFd(std::move(fd)));
}

void EventFd::signal() const {
  const std::uint64_t one = 1;
  (void)!::write(fd_.get(), &one, sizeof one);
}

void EventFd::signal_with_care() const {
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags >= 0 && ::fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK) == 0) signal();
}

void EventFd::drain() const {
  std::uint64_t count = 0;
  const iovec room{&count, sizeof count};
  (void)!::preadv2(fd_.get(), &room, 1, -1, RWF_NOWAIT);
}

}  // namespace vhost
