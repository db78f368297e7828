#include "libvhost/wire/message.hpp"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>

namespace vhost {
namespace {

using ControlBuffer = std::array<std::byte, CMSG_SPACE(max_message_fds * sizeof(int))>;

/// Takes ownership of every descriptor in `header`, whatever else is wrong with it.
void take_fds(msghdr& header, std::vector<UniqueFd>& fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

Result<std::size_t> MessageReader::receive(int socket, std::span<std::byte> room) {
  iovec piece{room.data(), room.size()};
  alignas(cmsghdr) ControlBuffer control;
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();

  ssize_t got;
  do got = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    return fail_errno(Fault::front_end, "cannot read from the socket");
  }

  take_fds(header, message_.fds);
  if ((header.msg_flags & MSG_CTRUNC) != 0 || message_.fds.size() > max_message_fds) {
    return fail(Fault::front_end, "a message came with more than 8 file descriptors");
  }
  if (got == 0) {
    closed_ = header_have_ == 0;
    return fail(Fault::front_end, closed_ ? "the peer closed the connection"
                                          : "the peer closed the connection within a message");
  }
  return static_cast<std::size_t>(got);
}

/// Reads until `bytes` is full. False: the socket has no more just now.
Result<bool> MessageReader::fill(int socket, std::span<std::byte> bytes, std::size_t& have) {
  while (have < bytes.size()) {
    const auto got = receive(socket, bytes.subspan(have));
    if (!got) return std::unexpected(got.error());
    if (*got == 0) return false;
    have += *got;
  }
  return true;
}

Result<std::optional<Message>> MessageReader::read(int socket) {
  const bool header_was_whole = header_have_ == sizeof header_;
  auto whole = fill(socket, std::as_writable_bytes(std::span(&header_, 1)), header_have_);
  if (!whole) return std::unexpected(whole.error());
  if (!*whole) return std::nullopt;

  if (!header_was_whole) {
    if ((header_.flags & header_version_mask) != header_version) {
      return fail(Fault::front_end,
                  "message " + std::to_string(header_.request) + " is not of protocol version 1");
    }
    if (header_.payload_bytes > max_payload_bytes) {
      return fail(Fault::front_end, "message " + std::to_string(header_.request) + " claims " +
                                        std::to_string(header_.payload_bytes) +
                                        " bytes of payload");
    }
    message_.payload.resize(header_.payload_bytes);
  }
  whole = fill(socket, message_.payload, payload_have_);
  if (!whole) return std::unexpected(whole.error());
  if (!*whole) return std::nullopt;

  message_.request = header_.request;
  message_.flags = header_.flags;
  header_have_ = payload_have_ = 0;
  return std::exchange(message_, {});
}

Result<void> send_message(int socket, std::uint32_t request, std::uint32_t flags,
                          std::span<const std::byte> payload, std::span<const int> fds) {
  Header head{request, flags | header_version, static_cast<std::uint32_t>(payload.size())};
  std::array<iovec, 2> pieces{
      iovec{&head, sizeof head},
      iovec{const_cast<std::byte*>(payload.data()), payload.size()},  // sendmsg only reads
  };
  msghdr header{};
  header.msg_iov = pieces.data();
  header.msg_iovlen = pieces.size();

  alignas(cmsghdr) ControlBuffer control{};
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  }

  ssize_t sent;
  do sent = ::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return fail_errno(Fault::front_end, "cannot write to the socket");
  if (static_cast<std::size_t>(sent) != sizeof head + payload.size()) {
    return fail(Fault::front_end, "the peer does not read its socket");
  }
  return {};
}

}  // namespace vhost
