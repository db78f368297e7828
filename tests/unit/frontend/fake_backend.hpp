#pragma once
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <functional>
#include <map>
#include <thread>

#include "libvhost/wire/message.hpp"

namespace vhost::frontend {

/// The other end of a socketpair: answers requests in a thread, as it was told to.
///
/// It knows enough of the protocol to let a driver start; a test replaces answers with on().
/// Everything it saw is in `seen`, to be read after stop().
class FakeBackend {
 public:
  struct Seen {
    Request request;
    std::vector<std::byte> payload;
    std::size_t fds = 0;
    bool wanted_reply = false;
  };
  using Answer = std::function<void(FakeBackend&, Message&)>;

  std::uint64_t features = bit(feature::version_1) | bit(feature::protocol_features) |
                           bit(feature::event_idx) | bit(feature::indirect_desc);
  std::uint64_t protocol_features =
      bit(protocol_feature::reply_ack) | bit(protocol_feature::mq) | bit(protocol_feature::config);
  std::uint16_t base = 0;  ///< what GET_VRING_BASE answers
  std::vector<Seen> seen;
  std::vector<UniqueFd> kept;  ///< every descriptor that came

  FakeBackend() {
    std::array<int, 2> pair{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) std::abort();
    driver_ = UniqueFd(pair[0]);
    ours_ = UniqueFd(pair[1]);
  }
  ~FakeBackend() { stop(); }

  void on(Request request, Answer answer) { answers_[request] = std::move(answer); }
  /// The driver's end of the socket.
  UniqueFd socket() { return std::move(driver_); }
  void run() {
    thread_ = std::thread([this] { serve(); });
  }
  void stop() {
    ::shutdown(ours_.get(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] bool saw(Request request) const { return find(request) != nullptr; }
  [[nodiscard]] const Seen* find(Request request) const {
    for (const Seen& message : seen) {
      if (message.request == request) return &message;
    }
    return nullptr;
  }

  // For answers.
  void reply(const Message& to, std::span<const std::byte> payload, std::span<const int> fds = {}) {
    [[maybe_unused]] auto sent = send_message(ours_.get(), to.request, header_reply, payload, fds);
  }
  void reply_u64(const Message& to, std::uint64_t value) { reply(to, bytes_of(value)); }
  [[nodiscard]] int fd() const { return ours_.get(); }

 private:
  void serve() {
    MessageReader reader;
    while (true) {
      pollfd wait{ours_.get(), POLLIN, 0};
      if (::poll(&wait, 1, -1) < 0) continue;
      auto message = reader.read(ours_.get());
      if (!message) break;
      if (!*message) continue;
      Message& got = **message;
      const auto request = static_cast<Request>(got.request);
      const bool wanted = (got.flags & header_need_reply) != 0;
      seen.push_back({request, got.payload, got.fds.size(), wanted});
      if (const auto answer = answers_.find(request); answer != answers_.end()) {
        answer->second(*this, got);
      } else {
        standard(request, got, wanted);
      }
      for (UniqueFd& fd : got.fds) kept.push_back(std::move(fd));
    }
    ::shutdown(ours_.get(), SHUT_RDWR);  // the driver sees the end at once
  }

  void standard(Request request, const Message& got, bool wanted) {
    switch (request) {
      case Request::get_features: return reply_u64(got, features);
      case Request::get_protocol_features: return reply_u64(got, protocol_features);
      case Request::get_queue_num: return reply_u64(got, 4);
      case Request::get_status: return reply_u64(got, status::features_ok);
      case Request::get_config: return reply(got, got.payload);
      case Request::get_vring_base: {
        auto state = read_once<VringState>(got.payload.data());
        state.value = base;
        return reply(got, bytes_of(state));
      }
      default:
        if (wanted) reply_u64(got, 0);
    }
  }

  UniqueFd driver_, ours_;
  std::map<Request, Answer> answers_;
  std::thread thread_;
};

}  // namespace vhost::frontend
