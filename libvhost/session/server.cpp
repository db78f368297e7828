#include "libvhost/session/server.hpp"

#include <fcntl.h>
#include <poll.h>

#include "libvhost/memory/fault_guard.hpp"

namespace vhost {
namespace {

bool hung_up(int socket) {
  pollfd look{socket, POLLRDHUP, 0};
  return ::poll(&look, 1, 0) == 1 && (look.revents & (POLLRDHUP | POLLHUP)) != 0;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(EventLoop& loop, Device& device, Endpoint endpoint,
                                              Log log, Extras extras) {
  std::unique_ptr<Server> server(
      new Server(loop, device, std::move(endpoint), std::move(log), extras));
  if (const auto begun = server->begin(); !begun) return std::unexpected(begun.error());
  return server;
}

Result<void> Server::begin() {
  if (auto installed = fault_guard::install(); !installed) return installed;
  // A descriptor of its own, and nobody reads it: all servers on the loop are to be told.
  faults_ = UniqueFd(::fcntl(fault_guard::event_fd(), F_DUPFD_CLOEXEC, 0));
  if (!faults_) return fail_errno(Fault::host, "cannot duplicate a descriptor");
  auto watched = loop_.watch_writes(faults_.get(), [this] {
    if (!session_ || session_->memory_is_whole()) return;
    // One that is gone took the rest of its memory with it (postcopy.hpp), and truncated nothing.
    if (!hung_up(session_->socket())) {
      log_(LogLevel::error,
           "the front-end truncated a file that it shares; the connection is closed");
    }
    close();
  });
  if (!watched) return watched;

  switch (endpoint_.meeting()) {
    case Meeting::listening: return loop_.watch(endpoint_.fd(), [this] { take_connections(); });
    case Meeting::connected: open(endpoint_.next()); return {};
    case Meeting::connecting: break;
  }
  if (auto begun = begin_retrying(); !begun) return begun;
  take_connections();
  return {};
}

Result<void> Server::begin_retrying() {
  auto timer = loop_.every(retry_period, [this] { take_connections(); });
  if (!timer) return std::unexpected(timer.error());
  retry_timer_ = std::move(*timer);
  return {};
}

void Server::stop_retrying() {
  loop_.forget(retry_timer_.get());
  retry_timer_ = UniqueFd();
}

Server::~Server() {
  if (session_) {
    loop_.forget(session_->socket());
    session_.reset();
  }
  loop_.forget(faults_.get());
  loop_.forget(endpoint_.fd());
  stop_retrying();
}

void Server::take_connections() {
  // As many as the backlog holds: a flood of connections must not keep the loop from the rest.
  for (int i = 0; i < 8; ++i) {
    UniqueFd socket = endpoint_.next();
    if (!socket) return;
    // The news of the last one's end may stand behind this one's arrival.
    if (session_ && hung_up(session_->socket())) close();
    if (!session_) {
      open(std::move(socket));
    } else {
      log_(LogLevel::warning, "a second front-end wanted to connect and was refused");
    }
    if (endpoint_.meeting() != Meeting::listening) return;
  }
}

void Server::open(UniqueFd socket) {
  const int fd = socket.get();
  auto session =
      std::make_unique<Session>(std::move(socket), loop_, device_, log_, conduct_, extras_);
  const auto watched = loop_.watch(fd, [this] {
    if (!session_->on_readable()) close();
  });
  if (!watched) {
    log_(LogLevel::error, watched.error().what);
    return;
  }
  session_ = std::move(session);
  ++connections_;
  stop_retrying();
  log_(LogLevel::info, "a front-end is connected");
}

void Server::close() {
  const SessionInfo last = session_->info();
  refused_before_ += last.refused;
  iommu_before_ += last.iommu;
  loop_.forget(session_->socket());
  session_.reset();
  log_(LogLevel::info, "the front-end is disconnected");
  if (endpoint_.meeting() == Meeting::connected) loop_.stop();
  if (endpoint_.meeting() != Meeting::connecting) return;
  if (const auto begun = begin_retrying(); !begun) log_(LogLevel::error, begun.error().what);
}

void Server::notify_config_change() {
  if (session_) session_->notify_config_change();
}

}  // namespace vhost
