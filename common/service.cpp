#include "common/service.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "common/parse.hpp"

namespace common {

using vhost::Fault;

namespace {

constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

bool is_own_pid(std::string_view text) {
  const auto pid = parse_number(text, 1, no_limit);
  return pid && *pid == static_cast<std::uint64_t>(::getpid());
}

std::optional<std::chrono::microseconds> watchdog_interval() {
  const auto microseconds = parse_number(variable("WATCHDOG_USEC"), 1, 1'000'000'000'000);
  const std::string_view pid = variable("WATCHDOG_PID");
  if (!microseconds || (!pid.empty() && !is_own_pid(pid))) return std::nullopt;
  return std::chrono::microseconds(*microseconds);
}

/// The status line may hold anything; a line feed would start a new assignment.
std::string status_line(std::string_view status) {
  std::string line = "STATUS=" + std::string(status);
  std::ranges::replace(line, '\n', ' ');
  return line;
}

}  // namespace

Service Service::from_environment() {
  Service service;
  std::string address(variable("NOTIFY_SOCKET"));
  const bool usable = address.size() > 1 && (address[0] == '/' || address[0] == '@') &&
                      address.size() < sizeof(sockaddr_un::sun_path);
  if (!usable) return service;
  if (address[0] == '@') address[0] = '\0';
  service.socket_ = vhost::UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!service.socket_) return service;
  service.address_ = std::move(address);
  if (const auto interval = watchdog_interval()) service.keep_alive_interval_ = *interval / 2;
  return service;
}

void Service::ready(std::string_view status) const {
  send("READY=1\n" + status_line(status), Patience::wait);
}
void Service::status(std::string_view status) const {
  send(status_line(status), Patience::drop);
}
void Service::stopping() const {
  send("STOPPING=1", Patience::wait);
}
void Service::keep_alive() const {
  send("WATCHDOG=1", Patience::drop);
}

/// Addressed anew each time: the manager's socket is another one after it was re-executed.
void Service::send(std::string_view message, Patience patience) const {
  if (address_.empty()) return;
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path, address_.data(), address_.size());
  // An abstract name ends where the length says, a path at its zero byte.
  const std::size_t name_bytes = address_.size() + (address_[0] == '\0' ? 0 : 1);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_bytes);
  const int flags = MSG_NOSIGNAL | (patience == Patience::drop ? MSG_DONTWAIT : 0);
  ssize_t sent = 0;
  do {
    sent = ::sendto(socket_.get(), message.data(), message.size(), flags,
                    reinterpret_cast<const sockaddr*>(&to), bytes);
  } while (sent < 0 && errno == EINTR);
}

}  // namespace common
