#pragma once
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "libvhost/session/session.hpp"
#include "tests/fakes/fake_driver.hpp"

namespace vhost::fakes {

/// What became of a message that asked for an acknowledgement.
enum class Outcome : std::uint8_t { done, refused, closed, silent };

/// A front-end on one end of a socket pair and a Session on the other, in one thread: what is
/// sent is handled before send() returns.
class FakeFrontend {
 public:
  static constexpr std::uint64_t usual_features =
      bit(feature::version_1) | bit(feature::protocol_features) | bit(feature::event_idx) |
      bit(feature::indirect_desc);

  /// Everything that is served for some device.
  static constexpr std::uint64_t all_protocol_features =
      DeviceState::session_protocol_features | DeviceState::device_protocol_features;
  static constexpr std::uint64_t usual_protocol_features =
      all_protocol_features & ~bit(protocol_feature::gpa_addresses);

  explicit FakeFrontend(Device& device, Extras extras = {}) {
    std::array<int, 2> pair{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) != 0) {
      std::abort();
    }
    socket_ = UniqueFd(pair[0]);
    const auto log = [this](LogLevel, std::string_view line) { log_.emplace_back(line); };
    session_ = std::make_unique<Session>(UniqueFd(pair[1]), loop_, device, log,
                                         std::make_shared<Conduct>(log), extras);
  }

  // ------------------------------------------------------------ any message

  /// False if the session closed the connection for it, or had done so before.
  bool send(std::uint32_t request, std::span<const std::byte> payload,
            std::span<const int> fds = {}, std::uint32_t flags = 0) {
    if (!session_) return false;
    if (!send_message(socket_.get(), request, flags, payload, fds)) std::abort();
    if (!session_->on_readable()) session_.reset();
    return session_ != nullptr;
  }
  /// The next message that came back.
  std::optional<Message> reply() {
    auto message = reader_.read(socket_.get());
    return message ? std::move(*message) : std::nullopt;
  }
  /// Sends with NEED_REPLY and looks at the acknowledgement.
  Outcome tell(Request request, std::span<const std::byte> payload = {},
               std::span<const int> fds = {}) {
    const auto number = static_cast<std::uint32_t>(request);
    if (!send(number, payload, fds, header_need_reply)) return Outcome::closed;
    const auto answer = reply();
    if (!answer) return Outcome::silent;
    if (answer->request != number || answer->flags != (header_version | header_reply) ||
        answer->payload.size() != sizeof(std::uint64_t)) {
      std::abort();
    }
    return read_once<std::uint64_t>(answer->payload.data()) == 0 ? Outcome::done : Outcome::refused;
  }
  template <Wire T>
  Outcome tell(Request request, const T& payload, std::initializer_list<int> fds = {}) {
    return tell(request, bytes_of(payload), std::span(fds.begin(), fds.size()));
  }
  /// Sends and returns the reply's payload, if that is a T.
  template <Wire T>
  std::optional<T> ask(Request request, std::span<const std::byte> payload = {}) {
    if (!send(static_cast<std::uint32_t>(request), payload)) return std::nullopt;
    const auto answer = reply();
    if (!answer || answer->payload.size() != sizeof(T)) return std::nullopt;
    return read_once<T>(answer->payload.data());
  }

  // ------------------------------------------------------------ the usual ones

  void negotiate(std::uint64_t features = usual_features,
                 std::uint64_t protocol = usual_protocol_features) {
    (void)send(static_cast<std::uint32_t>(Request::set_protocol_features), bytes_of(protocol));
    (void)send(static_cast<std::uint32_t>(Request::set_features), bytes_of(features));
  }
  Outcome set_memory(const GuestMemory& memory, std::initializer_list<std::size_t> which) {
    const auto [payload, fds] = table_of(memory, which);
    return tell(Request::set_mem_table, payload, fds);
  }
  /// The payload and the descriptors of SET_MEM_TABLE.
  static std::pair<std::vector<std::byte>, std::vector<int>> table_of(
      const GuestMemory& memory, std::initializer_list<std::size_t> which) {
    std::vector<std::byte> payload(sizeof(MemoryTableHeader));
    std::vector<int> fds;
    const MemoryTableHeader header{static_cast<std::uint32_t>(which.size()), 0};
    std::memcpy(payload.data(), &header, sizeof header);
    for (const std::size_t i : which) {
      const auto region = bytes_of(memory.regions()[i]);
      payload.insert(payload.end(), region.begin(), region.end());
      fds.push_back(memory.fds()[i].get());
    }
    return {payload, fds};
  }
  Outcome num(std::uint32_t index, std::uint32_t size) {
    return tell(Request::set_vring_num, VringState{index, size});
  }
  Outcome addr(std::uint32_t index, const RingSetup& setup) {
    return tell(Request::set_vring_addr,
                VringAddr{index, 0, std::to_underlying(setup.descriptors),
                          std::to_underlying(setup.used), std::to_underlying(setup.available), 0});
  }
  Outcome base(std::uint32_t index, std::uint32_t value) {
    return tell(Request::set_vring_base, VringState{index, value});
  }
  Outcome enable(std::uint32_t index, std::uint32_t on) {
    return tell(Request::set_vring_enable, VringState{index, on});
  }
  Outcome vring_fd(Request request, std::uint64_t index, const UniqueFd& fd) {
    return tell(request, index, {fd.get()});
  }
  std::optional<std::uint32_t> get_base(std::uint32_t index) {
    const VringState state{index, 0};
    const auto answer = ask<VringState>(Request::get_vring_base, bytes_of(state));
    if (!answer || answer->index != index) return std::nullopt;
    return answer->value;
  }

  [[nodiscard]] bool connected() const { return session_ != nullptr; }
  [[nodiscard]] Session& session() { return *session_; }
  /// Lets the session take what came elsewhere than on its socket.
  void turn() {
    if (!loop_.turn()) std::abort();
  }
  void disconnect() { session_.reset(); }
  /// As when the front-end's process ends: nobody has told the session yet.
  void die() { socket_ = UniqueFd(); }
  [[nodiscard]] int socket() const { return socket_.get(); }
  [[nodiscard]] const std::vector<std::string>& log() const { return log_; }

  [[nodiscard]] static UniqueFd event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC)); }
  /// What was added to an eventfd since the last look.
  [[nodiscard]] static std::uint64_t count(const UniqueFd& event) {
    ::fcntl(event.get(), F_SETFL, O_NONBLOCK);
    std::uint64_t value = 0;
    return ::read(event.get(), &value, sizeof value) == sizeof value ? value : 0;
  }

 private:
  EventLoop loop_ = std::move(*EventLoop::create());
  UniqueFd socket_;
  MessageReader reader_;
  std::vector<std::string> log_;
  std::unique_ptr<Session> session_;
};

}  // namespace vhost::fakes
