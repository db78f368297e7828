#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/protocol.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost {

/// One message as it came: bytes not yet believed, descriptors already owned.
struct Message {
  std::uint32_t request = 0;
  std::uint32_t flags = 0;
  std::vector<std::byte> payload;
  std::vector<UniqueFd> fds;
};

/// The payload as a T. Whoever calls knows that it holds one (request_table.hpp).
template <Wire T>
[[nodiscard]] T payload_as(const Message& message) {
  return read_once<T>(message.payload.data());
}

/// Puts messages together from a stream socket, which may cut them anywhere.
///
/// The state of a half-read message is kept between calls, so a peer that sends half a header and
/// then nothing holds up nobody but itself. Never reads past the message it is putting together:
/// descriptors travel with bytes, and must not be given to the message after.
class MessageReader {
 public:
  /// The next whole message; nothing if the socket has no more bytes just now. Never waits for
  /// them. An error ends the connection: the peer closed it (`closed()` is true then), its message
  /// is not of this protocol, or it sent more than 8 descriptors.
  [[nodiscard]] Result<std::optional<Message>> read(int socket);

  /// The peer closed its end between two messages: an orderly end.
  [[nodiscard]] bool closed() const { return closed_; }

 private:
  [[nodiscard]] Result<bool> fill(int socket, std::span<std::byte> bytes, std::size_t& have);
  [[nodiscard]] Result<std::size_t> receive(int socket, std::span<std::byte> room);

  Header header_{};
  std::size_t header_have_ = 0;
  std::size_t payload_have_ = 0;
  Message message_;
  bool closed_ = false;
};

/// Sends one message whole, or fails. Never blocks: a peer that leaves so much unread that a
/// message no longer fits is in no state to go on. `fds` stay the caller's.
[[nodiscard]] Result<void> send_message(int socket, std::uint32_t request, std::uint32_t flags,
                                        std::span<const std::byte> payload,
                                        std::span<const int> fds = {});

}  // namespace vhost
