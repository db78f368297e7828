#include "libvhost/session/endpoint.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>

namespace vhost {
namespace {

std::unexpected<Error> refuse(std::string what) {
  return fail(Fault::operator_, std::move(what));
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return refuse("the socket path " + path + " has " + std::to_string(path.size()) +
                  " bytes; give one of 1 to " + std::to_string(sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> unix_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(Fault::host, "cannot create a Unix socket");
  return fd;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

/// Makes room at `path` if what is there is a socket that nobody listens on any more.
Result<void> clear_stale(const std::string& path, const sockaddr_un& address) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) return {};
  if (!S_ISSOCK(info.st_mode)) {
    return refuse("the socket path " + path +
                  " is taken by something that is not a socket; remove it or choose another path");
  }
  const auto probe = unix_socket();
  if (!probe) return std::unexpected(probe.error());
  if (::connect(probe->get(), generic(address), sizeof address) == 0 || errno != ECONNREFUSED) {
    return refuse("the socket path " + path +
                  " is in use by another process; end it or choose another path");
  }
  ::unlink(path.c_str());
  return {};
}

std::optional<int> socket_option(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  if (::getsockopt(fd, SOL_SOCKET, option, &value, &size) != 0) return std::nullopt;
  return value;
}

}  // namespace

Result<Endpoint> Endpoint::listen(const std::string& path, const FileAccess& access) {
  const auto address = address_of(path);
  if (!address) return std::unexpected(address.error());
  if (const auto cleared = clear_stale(path, *address); !cleared) {
    return std::unexpected(cleared.error());
  }
  auto fd = unix_socket();
  if (!fd) return std::unexpected(fd.error());
  if (::bind(fd->get(), generic(*address), sizeof *address) != 0) {
    return fail_errno(Fault::operator_,
                      "cannot make the socket " + path + "; its folder must exist and be writable");
  }
  Endpoint endpoint(Meeting::listening, std::move(*fd), path);
  endpoint.file_ = UniqueFd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (const auto given = endpoint.give(access); !given) return std::unexpected(given.error());
  // One connection is served at a time; a second one is taken and closed at once.
  if (::listen(endpoint.fd(), 8) != 0) {
    return fail_errno(Fault::host, "cannot listen on " + path);
  }
  return endpoint;
}

/// Through the descriptor: whoever may write in the folder could lay another file in its place.
Result<void> Endpoint::give(const FileAccess& access) const {
  const uid_t owner = access.owner.value_or(static_cast<uid_t>(-1));
  const gid_t group = access.group.value_or(static_cast<gid_t>(-1));
  if ((access.owner || access.group) &&
      ::fchownat(file_.get(), "", owner, group, AT_EMPTY_PATH) != 0) {
    return fail_errno(Fault::operator_,
                      "cannot give the socket " + path_ +
                          " to that owner or group; run as a user who may, or leave it out");
  }
  const std::string link = "/proc/self/fd/" + std::to_string(file_.get());
  if (access.mode && ::chmod(link.c_str(), *access.mode) != 0) {
    return fail_errno(Fault::operator_, "cannot set the mode of the socket " + path_);
  }
  return {};
}

Result<Endpoint> Endpoint::connect(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return std::unexpected(address.error());
  return Endpoint(Meeting::connecting, {}, path);
}

Result<Endpoint> Endpoint::adopt(UniqueFd fd) {
  const std::string name = "file descriptor " + std::to_string(fd.get());
  const auto domain = socket_option(fd.get(), SO_DOMAIN);
  const auto type = socket_option(fd.get(), SO_TYPE);
  if (domain != AF_UNIX || type != SOCK_STREAM) {
    return refuse(name +
                  " is not a Unix stream socket; hand over one that listens or is connected");
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
  ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  const bool listens = socket_option(fd.get(), SO_ACCEPTCONN) == 1;
  return Endpoint(listens ? Meeting::listening : Meeting::connected, std::move(fd), "");
}

Endpoint::~Endpoint() {
  if (!file_) return;
  struct stat ours{};
  struct stat there{};
  if (::fstat(file_.get(), &ours) == 0 && ::lstat(path_.c_str(), &there) == 0 &&
      ours.st_dev == there.st_dev && ours.st_ino == there.st_ino) {
    ::unlink(path_.c_str());
  }
}

UniqueFd Endpoint::next() {
  switch (meeting_) {
    case Meeting::connected: return std::exchange(fd_, UniqueFd());
    case Meeting::listening:
      return UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    case Meeting::connecting: {
      auto fd = unix_socket();
      const auto address = address_of(path_);
      if (!fd || !address) return {};
      if (::connect(fd->get(), generic(*address), sizeof *address) != 0) return {};
      return std::move(*fd);
    }
  }
  return {};
}

}  // namespace vhost
