#include "libvhost/session/backend_channel.hpp"

#include <poll.h>

namespace vhost {
namespace {

/// Replies that are read before other descriptors get their turn again.
constexpr int most_at_once = 64;

bool has_room(int socket) {
  pollfd look{socket, POLLOUT, 0};
  return ::poll(&look, 1, 0) == 1 && (look.revents & POLLOUT) != 0;
}

}  // namespace

BackendChannel::~BackendChannel() {
  if (socket_) loop_.forget(socket_.get());
}

Result<void> BackendChannel::open(UniqueFd socket) {
  close();
  const auto watched = loop_.watch(socket.get(), [this] { read(); });
  if (watched) socket_ = std::move(socket);
  return watched;
}

void BackendChannel::close() {
  if (!socket_) return;
  loop_.forget(socket_.get());
  socket_ = UniqueFd();
  reader_ = {};
  for (const auto awaited = std::exchange(awaited_, {}); const Awaited& one : awaited) {
    one.reply(std::nullopt);
  }
}

BackendChannel::Sent BackendChannel::send(BackendRequest request, std::uint32_t flags,
                                          std::span<const std::byte> payload) {
  if (!socket_) return Sent::closed;
  if (!has_room(socket_.get())) return Sent::no_room;
  const auto sent =
      send_message(socket_.get(), static_cast<std::uint32_t>(request), flags, payload);
  if (sent) return Sent::yes;
  log_(LogLevel::warning, "the back-end channel: " + sent.error().what + "; it is closed");
  close();
  return Sent::closed;
}

BackendChannel::Sent BackendChannel::tell(BackendRequest request,
                                          std::span<const std::byte> payload) {
  return send(request, 0, payload);
}

BackendChannel::Sent BackendChannel::ask(BackendRequest request, std::span<const std::byte> payload,
                                         Reply reply) {
  const Sent sent = send(request, header_need_reply, payload);
  if (sent == Sent::yes) awaited_.push_back({request, std::move(reply)});
  return sent;
}

void BackendChannel::read() {
  for (int i = 0; i < most_at_once && socket_; ++i) {
    const auto message = reader_.read(socket_.get());
    if (message && !*message) return;
    if (message && take(**message)) continue;
    if (!reader_.closed()) {
      log_(LogLevel::warning,
           "the back-end channel is closed: " +
               (message ? "a message came that is no reply to one of ours" : message.error().what));
    }
    close();
  }
}

/// Whether it is the reply that is awaited next.
bool BackendChannel::take(const Message& message) {
  if (awaited_.empty() || message.flags != (header_version | header_reply) ||
      message.request != static_cast<std::uint32_t>(awaited_.front().request) ||
      message.payload.size() != sizeof(std::uint64_t) || !message.fds.empty()) {
    return false;
  }
  const Awaited next = std::move(awaited_.front());
  awaited_.pop_front();
  next.reply(payload_as<std::uint64_t>(message));
  return true;
}

}  // namespace vhost
