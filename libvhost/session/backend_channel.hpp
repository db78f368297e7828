#pragma once
#include <deque>
#include <functional>
#include <optional>

#include "libvhost/session/event_loop.hpp"
#include "libvhost/session/log.hpp"
#include "libvhost/wire/message.hpp"

namespace vhost {

/// The socket on which we ask the front-end, and not it us (vhost-user, "Back-end communication").
///
/// Nothing here waits: what does not fit into the socket is not sent, and replies come when they
/// come, in the order of the questions. A front-end may well do something on the main connection
/// before it answers, and wait for us there. One that breaks the protocol loses the channel, and
/// keeps its connection.
///
/// Thread: the control thread.
class BackendChannel {
 public:
  /// With the reply, 0 for "done"; nothing if the channel ended before one came.
  using Reply = std::function<void(std::optional<std::uint64_t>)>;
  enum class Sent : std::uint8_t { yes, no_room, closed };

  BackendChannel(EventLoop& loop, Log log) : loop_(loop), log_(std::move(log)) {}
  ~BackendChannel();
  BackendChannel(const BackendChannel&) = delete;
  BackendChannel& operator=(const BackendChannel&) = delete;

  /// Replaces the channel that there was. Refuses what cannot be waited for.
  [[nodiscard]] Result<void> open(UniqueFd socket);
  [[nodiscard]] bool is_open() const { return static_cast<bool>(socket_); }

  /// A message that nobody answers.
  Sent tell(BackendRequest request, std::span<const std::byte> payload);
  /// One that asks for a reply (REPLY_ACK), and what to do with it.
  Sent ask(BackendRequest request, std::span<const std::byte> payload, Reply reply);
  /// Replies that are still to come.
  [[nodiscard]] std::size_t unanswered() const { return awaited_.size(); }

 private:
  struct Awaited {
    BackendRequest request;
    Reply reply;
  };
  Sent send(BackendRequest request, std::uint32_t flags, std::span<const std::byte> payload);
  void read();
  [[nodiscard]] bool take(const Message& message);
  void close();

  EventLoop& loop_;
  Log log_;
  UniqueFd socket_;
  MessageReader reader_;
  std::deque<Awaited> awaited_;
};

}  // namespace vhost
