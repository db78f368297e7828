#include <algorithm>

#include "tests/unit/session/session_fixture.hpp"

/* Configuration space, status, reset and the back-end's own channel. */
namespace vhost::tests {
namespace {

class SessionDeviceTest : public SessionTest {
 protected:
  SessionDeviceTest() { negotiate(); }

  static std::vector<std::byte> config(std::uint32_t offset, std::uint32_t size, std::size_t bytes,
                                       std::uint32_t flags = 0) {
    const ConfigHeader header{offset, size, flags};
    std::vector<std::byte> payload(sizeof header + bytes);
    std::memcpy(payload.data(), &header, sizeof header);
    return payload;
  }
  std::optional<Message> get(const std::vector<std::byte>& payload) {
    if (!frontend_.send(static_cast<std::uint32_t>(Request::get_config), payload)) return {};
    return frontend_.reply();
  }
  std::optional<std::uint64_t> status() {
    return frontend_.ask<std::uint64_t>(Request::get_status);
  }
  Outcome set_status(std::uint64_t value) { return frontend_.tell(Request::set_status, value); }
};

TEST_F(SessionDeviceTest, ReadsTheConfigurationInAnyPieces) {
  for (const std::uint32_t size : {1u, 36u, 57u, 60u, 61u, 255u, 256u}) {
    for (const std::uint32_t offset : {0u, 1u, 32u, 59u, 60u, 1000u, UINT32_MAX}) {
      const auto answer = get(config(offset, size, size));
      ASSERT_TRUE(answer);
      ASSERT_EQ(answer->payload.size(), sizeof(ConfigHeader) + size);
      std::vector<std::byte> expected(size);
      device_.read_config(offset, expected);
      EXPECT_TRUE(std::ranges::equal(std::span(answer->payload).subspan(12), expected));
      const auto header = read_once<ConfigHeader>(answer->payload.data());
      EXPECT_EQ(header.offset_bytes, offset);
      EXPECT_EQ(header.size_bytes, size);
    }
  }
}

TEST_F(SessionDeviceTest, SaysNoToAConfigurationOfAnImpossibleSize) {
  for (const auto& payload : {config(0, 0, 0), config(0, 257, 257), config(0, 8, 9),
                              config(0, 9, 8), config(0, UINT32_MAX, 4)}) {
    const auto answer = get(payload);
    ASSERT_TRUE(answer);
    EXPECT_TRUE(answer->payload.empty()) << "no payload means an error";
    EXPECT_TRUE(frontend_.connected());
  }
}

TEST_F(SessionDeviceTest, WritesTheConfigurationWhereTheDeviceLetsIt) {
  auto payload = config(FakeDevice::writable_offset, 1, 1);
  payload.back() = std::byte{1};
  EXPECT_EQ(frontend_.tell(Request::set_config, payload), Outcome::done);
  EXPECT_EQ(device_.written, std::byte{1});
  EXPECT_EQ(frontend_.tell(Request::set_config, config(0, 1, 1)), Outcome::refused);
  EXPECT_EQ(frontend_.tell(Request::set_config, config(32, 2, 1)), Outcome::refused);
  EXPECT_EQ(frontend_.tell(Request::set_config, config(32, 1, 1, 2)), Outcome::refused);
}

TEST_F(SessionDeviceTest, KeepsTheStatus) {
  EXPECT_EQ(status(), 0u);
  EXPECT_EQ(set_status(0xf), Outcome::done);
  EXPECT_EQ(status(), 0xfu);
  EXPECT_EQ(set_status(0x100), Outcome::refused);
  EXPECT_EQ(status(), 0xfu);
}

TEST_F(SessionDeviceTest, TakesFeaturesOkBackWhenItRefusedTheFeatures) {
  EXPECT_EQ(frontend_.tell(Request::set_features, bit(63)), Outcome::refused);
  EXPECT_EQ(set_status(status::acknowledge | status::driver | status::features_ok), Outcome::done);
  EXPECT_EQ(status(), std::uint64_t{status::acknowledge | status::driver});
  EXPECT_EQ(set_status(0), Outcome::done);
  EXPECT_EQ(set_status(0xb), Outcome::done);
  EXPECT_EQ(status(), 0xbu);
}

TEST_F(SessionDeviceTest, StopsAsQemu72Does) {
  start(0, 9);
  EXPECT_EQ(set_status(0), Outcome::done);
  EXPECT_EQ(device_.stops[0], 0) << "the rings outlast the status";
  EXPECT_EQ(frontend_.enable(0, 0), Outcome::done);
  EXPECT_EQ(frontend_.get_base(0), 9u);
}

TEST_F(SessionDeviceTest, StopsAsQemu10Does) {
  start(0, 9);
  EXPECT_EQ(frontend_.enable(0, 0), Outcome::done);
  EXPECT_EQ(frontend_.get_base(0), 9u);
  EXPECT_EQ(set_status(0), Outcome::done);
  EXPECT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_EQ(device_.stops[0], 1);
}

TEST_F(SessionDeviceTest, ResetForgetsTheRingsAndKeepsTheConnection) {
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_call, 0, call_), Outcome::done);
  start(0, 9);
  ASSERT_EQ(set_status(0xf), Outcome::done);
  EXPECT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_TRUE(device_.running.empty());
  EXPECT_EQ(device_.accepted, 0u);
  EXPECT_EQ(status(), 0u);
  EXPECT_EQ(frontend_.session().info().features, 0u);
  EXPECT_EQ(frontend_.session().info().protocol_features, FakeFrontend::usual_protocol_features);
  EXPECT_EQ(frontend_.get_base(0), 0u);

  ASSERT_EQ(frontend_.tell(Request::set_features, FakeFrontend::usual_features), Outcome::done);
  start(0);
  EXPECT_NE(device_.running.at(0).call, nullptr) << "a front-end sends that only once";
}

TEST_F(SessionDeviceTest, ResetsWhatNobodyConfigured) {
  EXPECT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_EQ(frontend_.tell(Request::reset_owner), Outcome::done);
}

TEST_F(SessionDeviceTest, RefusesOtherProtocolFeaturesWhileARingRuns) {
  start(0);
  EXPECT_EQ(frontend_.tell(Request::set_protocol_features, std::uint64_t{0}), Outcome::refused);
}

// ---------------------------------------------------------------- begin and rest

TEST_F(SessionDeviceTest, BeginsBeforeTheFirstRingAndRestsAfterTheLast) {
  start(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 1, kick_), Outcome::done);
  configure(1);
  ASSERT_EQ(frontend_.enable(1, 1), Outcome::done);
  ASSERT_EQ(device_.running.size(), 2u);
  EXPECT_EQ(device_.begins, 1);
  (void)frontend_.get_base(0);
  EXPECT_TRUE(device_.begun);
  (void)frontend_.get_base(1);
  EXPECT_FALSE(device_.begun);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 1, kick_), Outcome::done);
  EXPECT_TRUE(device_.begun);
  EXPECT_EQ(device_.begins, 2);
  frontend_.disconnect();
  EXPECT_FALSE(device_.begun);
  EXPECT_FALSE(device_.started_before_begin);
  EXPECT_FALSE(device_.rested_while_running);
}

TEST_F(SessionDeviceTest, DoesNotRestWhileItsOnlyRingChangesHands) {
  start(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, FakeFrontend::event()), Outcome::done);
  EXPECT_EQ(device_.starts[0], 2);
  EXPECT_EQ(device_.begins, 1);
  ASSERT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_FALSE(device_.begun);
}

TEST_F(SessionDeviceTest, EndsTheConnectionWhereTheDeviceIsServedElsewhere) {
  device_.elsewhere = true;
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  configure(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_EQ(frontend_.enable(0, 1), Outcome::closed);
  EXPECT_EQ(device_.starts[0], 0);
  EXPECT_TRUE(frontend_.log().back().contains("somebody else serves it"));
}

TEST_F(SessionDeviceTest, NeitherBeginsNorRestsForAFrontEndThatRunsNoRing) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  (void)frontend_.get_base(0);
  frontend_.disconnect();
  EXPECT_EQ(device_.begins, 0);
}

// ---------------------------------------------------------------- network devices

TEST_F(SessionDeviceTest, SetsTheMtuAlsoWhileARingRuns) {
  EXPECT_EQ(frontend_.tell(Request::net_set_mtu, std::uint64_t{1400}), Outcome::done);
  EXPECT_EQ(device_.mtu, 1400u);
  start(0);
  EXPECT_EQ(frontend_.tell(Request::net_set_mtu, FakeDevice::largest_mtu), Outcome::done);
  EXPECT_EQ(device_.mtu, FakeDevice::largest_mtu);
}

TEST_F(SessionDeviceTest, TellsThatTheDeviceRefusesAnMtu) {
  for (const std::uint64_t wrong : {FakeDevice::largest_mtu + 1, bit(16) + 1400, bit(32) + 1400}) {
    EXPECT_EQ(frontend_.tell(Request::net_set_mtu, wrong), Outcome::refused) << wrong;
  }
  EXPECT_EQ(device_.mtu, 0u);
}

TEST_F(SessionDeviceTest, TakesTheMtuAndTheAddressEachWithItsOwnProtocolFeature) {
  for (const unsigned feature : {protocol_feature::mtu, protocol_feature::rarp}) {
    FakeFrontend frontend(device_);
    frontend.negotiate(FakeFrontend::usual_features,
                       bit(protocol_feature::reply_ack) | bit(feature));
    EXPECT_EQ(frontend.tell(Request::net_set_mtu, std::uint64_t{1400}),
              feature == protocol_feature::mtu ? Outcome::done : Outcome::refused);
    EXPECT_EQ(frontend.tell(Request::send_rarp, std::uint64_t{1}),
              feature == protocol_feature::rarp ? Outcome::done : Outcome::refused);
  }
}

TEST_F(SessionDeviceTest, AnnouncesTheAddressInTheFirstSixBytes) {
  const std::array payload{std::byte{0x52}, std::byte{0x54}, std::byte{0x00}, std::byte{0x12},
                           std::byte{0x34}, std::byte{0x56}, std::byte{0xee}, std::byte{0xff}};
  start(0);
  // As QEMU sends it: no answer is asked for.
  EXPECT_TRUE(frontend_.send(static_cast<std::uint32_t>(Request::send_rarp), payload));
  EXPECT_FALSE(frontend_.reply());
  ASSERT_EQ(device_.announced.size(), 1u);
  EXPECT_TRUE(std::ranges::equal(device_.announced[0], std::span(payload).first(6)));
}

/// A device that says nothing beyond what it must.
class PlainDevice : public FakeDevice {
 public:
  std::uint16_t queues_offered() const override { return Device::queues_offered(); }
  std::uint64_t protocol_features() const override {
    return Device::protocol_features() | bit(protocol_feature::mtu) | bit(protocol_feature::rarp);
  }
  Result<void> set_mtu(std::uint64_t bytes) override { return Device::set_mtu(bytes); }
  Result<void> announce(std::array<std::byte, 6> mac) override { return Device::announce(mac); }
  Result<AnyRing> suspend_ring(std::uint16_t index) override { return Device::suspend_ring(index); }
};

TEST(SessionPlainDevice, HasAConfigurationAndNoNetwork) {
  PlainDevice device;
  FakeFrontend frontend(device);
  const std::uint64_t protocol =
      FakeFrontend::usual_protocol_features & ~(bit(protocol_feature::get_vring_base_inflight) |
                                                bit(protocol_feature::get_vring_base_skip_drain));
  frontend.negotiate(FakeFrontend::usual_features, protocol);
  EXPECT_EQ(frontend.session().info().protocol_features, protocol);
  EXPECT_EQ(frontend.ask<std::uint64_t>(Request::get_queue_num), FakeDevice::queues);
  EXPECT_EQ(frontend.tell(Request::net_set_mtu, std::uint64_t{1400}), Outcome::refused);
  EXPECT_EQ(frontend.tell(Request::send_rarp, std::uint64_t{0}), Outcome::refused);
}

TEST(SessionPlainDevice, EndsWhatIsInFlightWhereOthersLeaveIt) {
  GuestMemory memory;
  FakeSplitDriver driver(memory);
  PlainDevice device;
  device.start_ring(0, {std::move(*SplitRing::create(driver.setup(), memory.map())), {}, {}, {}});
  EXPECT_TRUE(device.suspend_ring(0));
  EXPECT_EQ(device.stops[0], 1);
}

// ---------------------------------------------------------------- the back-end's channel

class BackendChannelTest : public SessionDeviceTest {
 protected:
  BackendChannelTest() {
    std::array<int, 2> pair{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    ours_ = UniqueFd(pair[0]);
    theirs_ = UniqueFd(pair[1]);
  }
  UniqueFd ours_, theirs_;
};

TEST_F(BackendChannelTest, TellsOfAConfigurationChange) {
  ASSERT_EQ(frontend_.tell(Request::set_backend_req_fd, {}, std::array{theirs_.get()}),
            Outcome::done);
  frontend_.session().notify_config_change();
  Header header{};
  ASSERT_EQ(::recv(ours_.get(), &header, sizeof header, MSG_DONTWAIT), 12);
  EXPECT_EQ(header.request, static_cast<std::uint32_t>(BackendRequest::config_change));
  EXPECT_EQ(header.flags, header_version) << "no answer is asked for: it would deadlock";
  EXPECT_EQ(header.payload_bytes, 0u);
}

TEST_F(BackendChannelTest, TellsNobodyWithoutAChannelOrTheFeature) {
  frontend_.session().notify_config_change();
  FakeFrontend other(device_);
  other.negotiate(FakeFrontend::usual_features,
                  FakeFrontend::usual_protocol_features & ~bit(protocol_feature::config));
  ASSERT_EQ(other.tell(Request::set_backend_req_fd, {}, std::array{theirs_.get()}), Outcome::done);
  other.session().notify_config_change();
  Header header{};
  EXPECT_EQ(::recv(ours_.get(), &header, sizeof header, MSG_DONTWAIT), -1);
}

TEST_F(BackendChannelTest, DoesNotWaitForAFullChannel) {
  ASSERT_EQ(frontend_.tell(Request::set_backend_req_fd, {}, std::array{theirs_.get()}),
            Outcome::done);
  for (int i = 0; i < 20'000; ++i) frontend_.session().notify_config_change();
  EXPECT_TRUE(frontend_.connected());
}

TEST_F(BackendChannelTest, SurvivesAChannelThatIsNoSocketOrIsClosed) {
  ASSERT_EQ(frontend_.tell(Request::set_backend_req_fd, {}, std::array{call_.get()}),
            Outcome::done);
  frontend_.session().notify_config_change();
  ASSERT_EQ(frontend_.tell(Request::set_backend_req_fd, {}, std::array{theirs_.get()}),
            Outcome::done);
  ours_ = UniqueFd();
  frontend_.session().notify_config_change();
  EXPECT_TRUE(frontend_.connected());
}

}  // namespace
}  // namespace vhost::tests
