#pragma once
#include "tests/unit/session/session_fixture.hpp"

/* A session whose driver's addresses an IOMMU translates: misses go out on the channel, updates and
 * invalidations come while rings run. */
namespace vhost::tests {
inline constexpr std::uint64_t page = 4096;
/// From where the guest's memory is to what the driver calls it.
inline constexpr std::uint64_t shift = std::uint64_t{1} << 36;
inline constexpr std::uint64_t data = GuestMemory::low + (1 << 20);

class SessionIommuTest : public SessionTest {
 protected:
  SessionIommuTest() {
    std::array<int, 2> pair{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    ours_ = UniqueFd(pair[0]);
    theirs_ = UniqueFd(pair[1]);
  }

  void begin(std::uint64_t protocol = FakeFrontend::usual_protocol_features, bool channel = true) {
    frontend_.negotiate(FakeFrontend::usual_features | bit(feature::access_platform), protocol);
    if (channel) {
      ASSERT_TRUE(frontend_.send(static_cast<std::uint32_t>(Request::set_backend_req_fd), {},
                                 std::array{theirs_.get()}));
    }
  }
  /// Ring 0, but for its enable.
  void set_up() {
    ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
    RingSetup setup = driver_.setup();
    setup.descriptors = FrontendAddress{driver_.descriptors_at() + shift};
    setup.available = FrontendAddress{driver_.available_at() + shift};
    setup.used = FrontendAddress{driver_.used_at() + shift};
    ASSERT_EQ(frontend_.num(0, 8), Outcome::done);
    ASSERT_EQ(frontend_.addr(0, setup), Outcome::done);
    ASSERT_EQ(frontend_.vring_fd(Request::set_vring_err, 0, error_), Outcome::done);
    ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  }
  /// Ring 0 runs, and its areas are known.
  void run() {
    begin();
    set_up();
    ASSERT_EQ(update(GuestMemory::low), 0u);
    ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
    ASSERT_TRUE(runs());
  }
  bool runs() { return device_.running.contains(0); }

  /// What the session answers.
  std::optional<std::uint64_t> tell(const IotlbMessage& message) {
    return frontend_.ask<std::uint64_t>(Request::iotlb_msg, bytes_of(message));
  }
  std::optional<std::uint64_t> update(std::uint64_t guest, std::uint8_t access = 3,
                                      std::uint64_t bytes = page) {
    return tell({guest + shift, bytes, memory_.frontend(guest), access, 2, {}});
  }
  std::optional<std::uint64_t> invalidate(std::uint64_t iova, std::uint64_t bytes) {
    return tell({iova, bytes, 0, 0, 3, {}});
  }
  /// The misses that came on the channel until now, and whether they ask for a reply.
  std::vector<IotlbMessage> misses() {
    frontend_.turn();
    std::vector<IotlbMessage> all;
    while (true) {
      auto message = reader_.read(ours_.get());
      if (!message || !*message) return all;
      EXPECT_EQ((*message)->request, static_cast<std::uint32_t>(BackendRequest::iotlb_msg));
      asks_for_reply_ = ((*message)->flags & header_need_reply) != 0;
      all.push_back(payload_as<IotlbMessage>(**message));
    }
  }
  void reply(std::uint64_t value) {
    ASSERT_TRUE(send_message(ours_.get(), static_cast<std::uint32_t>(BackendRequest::iotlb_msg),
                             header_reply, bytes_of(value)));
    frontend_.turn();
  }
  Pop pop() { return device_.ring(0).pop(chain_); }
  bool logged(const std::string& words) {
    return std::ranges::any_of(frontend_.log(), [&](const std::string& line) {
      return line.find(words) != std::string::npos;
    });
  }

  UniqueFd ours_, theirs_;
  UniqueFd error_ = FakeFrontend::event();
  MessageReader reader_;
  bool asks_for_reply_ = false;
  std::vector<iovec> room_ = std::vector<iovec>(64);
  Chain chain_{room_};
};

}  // namespace vhost::tests
