#include "libvhost/frontend/connection.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <thread>

namespace vhost::frontend {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct RequestName {
  Request request;
  const char* name;
};
constexpr std::array request_names{
    RequestName{Request::get_features, "GET_FEATURES"},
    RequestName{Request::set_features, "SET_FEATURES"},
    RequestName{Request::set_owner, "SET_OWNER"},
    RequestName{Request::reset_owner, "RESET_OWNER"},
    RequestName{Request::set_mem_table, "SET_MEM_TABLE"},
    RequestName{Request::set_log_base, "SET_LOG_BASE"},
    RequestName{Request::set_log_fd, "SET_LOG_FD"},
    RequestName{Request::set_vring_num, "SET_VRING_NUM"},
    RequestName{Request::set_vring_addr, "SET_VRING_ADDR"},
    RequestName{Request::set_vring_base, "SET_VRING_BASE"},
    RequestName{Request::get_vring_base, "GET_VRING_BASE"},
    RequestName{Request::set_vring_kick, "SET_VRING_KICK"},
    RequestName{Request::set_vring_call, "SET_VRING_CALL"},
    RequestName{Request::set_vring_err, "SET_VRING_ERR"},
    RequestName{Request::get_protocol_features, "GET_PROTOCOL_FEATURES"},
    RequestName{Request::set_protocol_features, "SET_PROTOCOL_FEATURES"},
    RequestName{Request::get_queue_num, "GET_QUEUE_NUM"},
    RequestName{Request::set_vring_enable, "SET_VRING_ENABLE"},
    RequestName{Request::send_rarp, "SEND_RARP"},
    RequestName{Request::net_set_mtu, "NET_SET_MTU"},
    RequestName{Request::set_backend_req_fd, "SET_BACKEND_REQ_FD"},
    RequestName{Request::iotlb_msg, "IOTLB_MSG"},
    RequestName{Request::get_config, "GET_CONFIG"},
    RequestName{Request::set_config, "SET_CONFIG"},
    RequestName{Request::get_inflight_fd, "GET_INFLIGHT_FD"},
    RequestName{Request::set_inflight_fd, "SET_INFLIGHT_FD"},
    RequestName{Request::reset_device, "RESET_DEVICE"},
    RequestName{Request::get_max_mem_slots, "GET_MAX_MEM_SLOTS"},
    RequestName{Request::add_mem_reg, "ADD_MEM_REG"},
    RequestName{Request::rem_mem_reg, "REM_MEM_REG"},
    RequestName{Request::set_status, "SET_STATUS"},
    RequestName{Request::get_status, "GET_STATUS"},
    RequestName{Request::get_vring_base_skip_drain, "GET_VRING_BASE_SKIP_DRAIN"},
};

std::string name_of(Request request) {
  return request_name(static_cast<std::uint32_t>(request));
}

/// One attempt. The errno of a failure, 0 for a connection.
int try_connect(int socket, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  return ::connect(socket, generic, sizeof address) == 0 ? 0 : errno;
}

/// Nobody listens there yet, but somebody may in a moment.
bool may_come(int error) {
  return error == ENOENT || error == ECONNREFUSED || error == EAGAIN;
}

}  // namespace

std::string request_name(std::uint32_t request) {
  for (const RequestName& known : request_names) {
    if (static_cast<std::uint32_t>(known.request) == request) return known.name;
  }
  return "request " + std::to_string(request);
}

Result<Connection> Connection::connect(const std::string& path, ConnectOptions options) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un{}.sun_path)) {
    return fail(Fault::operator_, "socket path '" + path + "' is empty or longer than " +
                                      std::to_string(sizeof(sockaddr_un{}.sun_path) - 1) +
                                      " bytes");
  }
  const auto deadline = Clock::now() + options.connect_deadline;
  while (true) {
    // A socket whose connect() failed is in no defined state: a new one for each attempt.
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno(Fault::host, "cannot make a socket");
    const int error = try_connect(socket.get(), path);
    if (error == 0) return adopt(std::move(socket), options);
    if (!may_come(error) || Clock::now() >= deadline) {
      return fail_errno(Fault::operator_, "cannot connect to '" + path + "'", error);
    }
    std::this_thread::sleep_for(milliseconds(1));
  }
}

Result<Connection> Connection::adopt(UniqueFd socket, ConnectOptions options) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return fail_errno(Fault::host, "cannot use this descriptor as a socket");
  }
  return Connection(std::move(socket), options);
}

Result<void> Connection::tell(Request request, std::span<const std::byte> payload,
                              std::span<const int> fds) {
  const std::uint32_t flags = acknowledge_ ? header_need_reply : 0;
  if (auto sent = send_raw(static_cast<std::uint32_t>(request), flags, payload, fds); !sent) {
    return sent;
  }
  if (!acknowledge_) return answer_misses();

  auto reply = reply_to(request);
  if (!reply) return std::unexpected(reply.error());
  if (reply->payload.size() != sizeof(std::uint64_t)) {
    return wrong_size(request, reply->payload.size());
  }
  const auto answer = read_once<std::uint64_t>(reply->payload.data());
  if (answer != 0) {
    return fail(Fault::unsupported, "the back-end refused " + name_of(request) + " (answer " +
                                        std::to_string(answer) + ")");
  }
  return answer_misses();
}

Result<Message> Connection::ask(Request request, std::span<const std::byte> payload,
                                std::span<const int> fds) {
  if (auto sent = send_raw(static_cast<std::uint32_t>(request), 0, payload, fds); !sent) {
    return std::unexpected(sent.error());
  }
  auto reply = reply_to(request);
  if (!reply) return reply;
  if (const auto answered = answer_misses(); !answered) return std::unexpected(answered.error());
  return reply;
}

Result<Message> Connection::reply_to(Request request) {
  auto reply = receive();
  if (!reply) {
    return fail(reply.error().fault,
                "waiting for the answer to " + name_of(request) + ": " + reply.error().what);
  }
  if (reply->request != static_cast<std::uint32_t>(request) ||
      reply->flags != (header_version | header_reply)) {
    std::string what = "expected the answer to " + name_of(request) + ", got " +
                       request_name(reply->request) + " with flags " + std::to_string(reply->flags);
    socket_ = UniqueFd();
    return fail(peer_fault, std::move(what));
  }
  return reply;
}

std::unexpected<Error> Connection::wrong_size(Request request, std::size_t bytes) {
  return fail(peer_fault,
              "the answer to " + name_of(request) + " has " + std::to_string(bytes) + " bytes");
}

Result<Message> Connection::receive() {
  const auto deadline = Clock::now() + options_.reply_deadline;
  while (socket_) {
    auto message = reader_.read(socket_.get());
    if (message && *message) return std::move(**message);
    auto readable = message ? wait_readable(deadline) : std::unexpected(message.error());
    if (!readable) {
      socket_ = UniqueFd();
      return std::unexpected(readable.error());
    }
  }
  return fail(peer_fault, "the connection is broken");
}

/// Waits for the socket, and answers the channel meanwhile.
Result<void> Connection::wait_readable(Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) {
      return fail(peer_fault,
                  "nothing came within " + std::to_string(options_.reply_deadline.count()) + " ms");
    }
    std::array<pollfd, 2> waits{pollfd{socket_.get(), POLLIN, 0}, pollfd{channel_fd(), POLLIN, 0}};
    const int ready = ::poll(waits.data(), waits.size(), static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return fail_errno(Fault::host, "poll");
    if (ready <= 0) continue;
    if (waits[1].revents != 0) {
      if (auto read = read_channel(); !read) return std::unexpected(read.error());
    }
    if (waits[0].revents != 0) return {};
  }
}

bool Connection::closed_within(milliseconds time) {
  if (!socket_) return true;
  pollfd wait{socket_.get(), POLLIN, 0};
  if (::poll(&wait, 1, static_cast<int>(time.count())) <= 0) return false;
  std::byte byte;
  const ssize_t got = ::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

int Connection::channel_fd() const {
  return channel_ ? channel_->socket.get() : -1;
}

Result<void> Connection::open_channel(ChannelHandler handler) {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()) != 0) {
    return fail_errno(Fault::host, "cannot make the back-end channel");
  }
  UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  // Back-ends read and write their end as they like it; blocking is what they all can do.
  if (::fcntl(theirs.get(), F_SETFL, 0) < 0) return fail_errno(Fault::host, "fcntl");

  channel_ = std::make_unique<Channel>(Channel{std::move(ours), {}, std::move(handler)});
  const int fd = theirs.get();
  auto told = tell(Request::set_backend_req_fd, {}, std::span(&fd, 1));
  if (!told) channel_.reset();
  return told;
}

Result<std::size_t> Connection::serve_channel() {
  auto read = read_channel();
  if (!read) return read;
  if (const auto answered = answer_misses(); !answered) return std::unexpected(answered.error());
  return read;
}

/// What came on the channel is answered, or waits among the misses.
Result<std::size_t> Connection::read_channel() {
  std::size_t served = 0;
  while (channel_) {
    auto message = channel_->reader.read(channel_->socket.get());
    if (!message) {
      const bool orderly = channel_->reader.closed();
      channel_.reset();  // a dead channel would be readable for ever
      if (orderly) return served;
      return std::unexpected(message.error());
    }
    if (!*message) return served;
    ++served;
    if (translator_ &&
        (*message)->request == static_cast<std::uint32_t>(BackendRequest::iotlb_msg) &&
        (*message)->payload.size() == sizeof(IotlbMessage)) {
      misses_.push_back(std::move(**message));
      continue;
    }
    const std::uint64_t value = channel_->handler ? channel_->handler(**message) : 0;
    if (const auto sent = answer(**message, value); !sent) return std::unexpected(sent.error());
  }
  return served;
}

/// On the channel, if the back-end wants to know.
Result<void> Connection::answer(const Message& message, std::uint64_t value) {
  if (!channel_ || (message.flags & header_need_reply) == 0) return {};
  return send_message(channel_->socket.get(), message.request, header_reply, bytes_of(value));
}

/// Others may come meanwhile, and are answered as well.
Result<void> Connection::answer_misses() {
  if (std::exchange(answering_, true)) return {};
  Result<void> result;
  while (result && !misses_.empty()) {
    const Message message = std::move(misses_.front());
    misses_.pop_front();
    const auto update = translator_(payload_as<IotlbMessage>(message));
    const bool done = update && tell_iotlb(*update);
    result = answer(message, done ? 0 : 1);
  }
  answering_ = false;
  return result;
}

Result<void> Connection::tell_iotlb(const IotlbMessage& message) {
  const auto reply = ask_for<std::uint64_t>(Request::iotlb_msg, bytes_of(message));
  if (!reply) return std::unexpected(reply.error());
  if (*reply == 0) return {};
  return fail(Fault::unsupported, "the back-end refused an IOTLB_MSG");
}

Result<void> Connection::send_raw(std::uint32_t request, std::uint32_t flags,
                                  std::span<const std::byte> payload, std::span<const int> fds) {
  if (!socket_) return fail(peer_fault, "the connection is broken");
  if (fds.size() > max_message_fds) {  // more than a message may have: only a test wants that
    const Header header{request, flags | header_version,
                        static_cast<std::uint32_t>(payload.size())};
    std::vector<std::byte> bytes(bytes_of(header).begin(), bytes_of(header).end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return send_bytes(bytes, fds);
  }
  auto sent = send_message(socket_.get(), request, flags, payload, fds);
  if (!sent) {
    return fail(sent.error().fault, "sending " + request_name(request) + ": " + sent.error().what);
  }
  return sent;
}

Result<void> Connection::send_bytes(std::span<const std::byte> bytes, std::span<const int> fds) {
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};  // sendmsg only reads
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  std::vector<std::size_t> control;  // of words, for the alignment of a cmsghdr
  if (!fds.empty()) {
    control.resize((CMSG_SPACE(fds.size_bytes()) + sizeof(std::size_t) - 1) / sizeof(std::size_t));
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  }
  const ssize_t sent = ::sendmsg(socket_.get(), &header, MSG_NOSIGNAL);
  if (sent < 0) return fail_errno(peer_fault, "cannot write to the socket");
  if (static_cast<std::size_t>(sent) != bytes.size()) {
    return fail(peer_fault, "the back-end does not read its socket");
  }
  return {};
}

}  // namespace vhost::frontend
