#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "libvhost/wire/message.hpp"

/*
 * The driver's end of a vhost-user connection: requests go out, replies come back.
 *
 * A vhost-user connection is strictly serial for the front-end: it asks, and the next thing on the
 * socket is the answer. So there are two verbs, tell() for messages that have no reply of their own
 * and ask() for those that have one, and both wait no longer than the reply deadline.
 *
 * The back-end may open a conversation of its own on the back-end channel, and may do so while we
 * wait for a reply; a back-end that then waits for our answer would wait for ever if we did not
 * look. Therefore every wait looks at both sockets and answers the channel first.
 *
 * Only a translation that the back-end misses cannot be answered while a reply is awaited: the
 * answer is a message with a reply of its own. It is answered right behind.
 *
 * Nothing that the back-end sends is believed further than its layout was checked. A reply that is
 * late, unasked for or misshapen breaks the connection: whatever comes after it cannot be told
 * apart from the reply to another question.
 *
 * Thread: one at a time.
 */
namespace vhost::frontend {

/// What the peer did wrong, seen from the driver's side: the peer is the back-end.
inline constexpr Fault peer_fault = Fault::front_end;

/// The name the specification gives a request, for sentences; "request 77" for an unknown one.
[[nodiscard]] std::string request_name(std::uint32_t request);

struct ConnectOptions {
  /// How long a reply may take.
  std::chrono::milliseconds reply_deadline{5000};
  /// How long to try again while nobody listens at the path; 0 tries once.
  std::chrono::milliseconds connect_deadline{0};
};

class Connection {
 public:
  /// Called with each message of the back-end channel; the value is the answer (0: done) if the
  /// back-end wants one. Must not use the connection: a reply may be awaited just now.
  using ChannelHandler = std::function<std::uint64_t(const Message&)>;
  /// Called with each translation that the back-end misses; the value is the update that answers
  /// it, nothing if there is no such translation.
  using Translator = std::function<std::optional<IotlbMessage>(const IotlbMessage&)>;

  /// Connects to a back-end that listens at `path`.
  [[nodiscard]] static Result<Connection> connect(const std::string& path,
                                                  ConnectOptions options = {});
  /// Takes a connected stream socket, which becomes non-blocking.
  [[nodiscard]] static Result<Connection> adopt(UniqueFd socket, ConnectOptions options = {});

  /// Sends a message that has no reply of its own. Waits for the acknowledgement if REPLY_ACK was
  /// negotiated (acknowledge(true)); a refusal is an error and leaves the connection usable.
  [[nodiscard]] Result<void> tell(Request request, std::span<const std::byte> payload = {},
                                  std::span<const int> fds = {});
  /// tell() with one structure as payload.
  template <Wire T>
  [[nodiscard]] Result<void> tell(Request request, const T& payload,
                                  std::span<const int> fds = {}) {
    return tell(request, bytes_of(payload), fds);
  }

  /// Sends a message and waits for its reply.
  [[nodiscard]] Result<Message> ask(Request request, std::span<const std::byte> payload = {},
                                    std::span<const int> fds = {});
  /// ask() whose reply must be exactly one T.
  template <Wire T>
  [[nodiscard]] Result<T> ask_for(Request request, std::span<const std::byte> payload = {}) {
    auto reply = ask(request, payload);
    if (!reply) return std::unexpected(reply.error());
    if (reply->payload.size() != sizeof(T)) return wrong_size(request, reply->payload.size());
    return read_once<T>(reply->payload.data());
  }

  /// From now on tell() asks for acknowledgements: REPLY_ACK was negotiated.
  void acknowledge(bool wanted) { acknowledge_ = wanted; }
  [[nodiscard]] bool acknowledges() const { return acknowledge_; }

  /// Gives the back-end a channel to ask us (SET_BACKEND_REQ_FD; needs BACKEND_REQ).
  [[nodiscard]] Result<void> open_channel(ChannelHandler handler);
  /// To be polled for reading; then call serve_channel(). -1 without a channel.
  [[nodiscard]] int channel_fd() const;
  /// Answers what has come on the channel, without waiting. How many messages there were.
  [[nodiscard]] Result<std::size_t> serve_channel();
  /// From now on misses go to this and not to the channel's handler.
  void translate_with(Translator translator) { translator_ = std::move(translator); }
  /// Has the back-end take a translation, or forget some.
  [[nodiscard]] Result<void> tell_iotlb(const IotlbMessage& message);

  /// The socket. It becomes readable outside of tell() and ask() only when the back-end is gone.
  [[nodiscard]] int fd() const { return socket_.get(); }
  /// True if the back-end closes the connection within this time (and sends nothing).
  [[nodiscard]] bool closed_within(std::chrono::milliseconds time);

  /// For tests of back-ends: any message with any descriptors, no reply awaited.
  [[nodiscard]] Result<void> send_raw(std::uint32_t request, std::uint32_t flags,
                                      std::span<const std::byte> payload,
                                      std::span<const int> fds = {});
  /// For tests of back-ends: bytes that need not be a message, e.g. half of one. `fds` travel with
  /// the first byte.
  [[nodiscard]] Result<void> send_bytes(std::span<const std::byte> bytes,
                                        std::span<const int> fds = {});
  /// The next message on the socket, whatever it is, within the reply deadline.
  [[nodiscard]] Result<Message> receive();

 private:
  struct Channel {
    UniqueFd socket;
    MessageReader reader;
    ChannelHandler handler;
  };
  Connection(UniqueFd socket, ConnectOptions options)
      : socket_(std::move(socket)), options_(options) {}

  [[nodiscard]] static std::unexpected<Error> wrong_size(Request request, std::size_t bytes);
  [[nodiscard]] Result<Message> reply_to(Request request);
  [[nodiscard]] Result<void> wait_readable(std::chrono::steady_clock::time_point deadline);
  [[nodiscard]] Result<std::size_t> read_channel();
  [[nodiscard]] Result<void> answer_misses();
  [[nodiscard]] Result<void> answer(const Message& message, std::uint64_t value);

  UniqueFd socket_;
  MessageReader reader_;
  ConnectOptions options_;
  bool acknowledge_ = false;
  std::unique_ptr<Channel> channel_;
  Translator translator_;
  std::deque<Message> misses_;
  bool answering_ = false;
};

}  // namespace vhost::frontend
