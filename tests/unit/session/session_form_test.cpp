#include "tests/unit/session/session_fixture.hpp"

/* The form of messages: sizes, descriptors, bits, gates; and how a refusal is told. */
namespace vhost::tests {
namespace {

/// The payload sizes around what a rule allows.
std::vector<std::size_t> sizes_around(const RequestRule& rule) {
  std::vector<std::size_t> sizes{0, rule.payload_least, rule.payload_most, rule.payload_most + 1};
  if (rule.payload_least > 0) sizes.push_back(rule.payload_least - 1);
  return sizes;
}

TEST(SessionForm, KeepsNoDescriptorOfAnyMessageOfAnyForm) {
  const std::size_t before = open_fds();
  const UniqueFd event = FakeFrontend::event();
  const UniqueFd file(::memfd_create("some", MFD_CLOEXEC));
  for (const RequestRule& rule : request_table) {
    for (const std::size_t size : sizes_around(rule)) {
      for (const std::size_t fds : {0u, 1u, 2u, 8u}) {
        for (const int fd : {event.get(), file.get()}) {
          for (const std::uint32_t flags : {0u, header_need_reply}) {
            FakeDevice device;
            FakeFrontend frontend(device);
            frontend.negotiate();
            const std::vector<std::byte> payload(size,
                                                 size % 2 == 0 ? std::byte{0} : std::byte{0xff});
            const std::vector<int> all(fds, fd);
            (void)frontend.send(static_cast<std::uint32_t>(rule.request), payload, all, flags);
            while (frontend.reply()) {
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(open_fds(), before + 2);
}

TEST_F(SessionTest, RefusesEveryWrongSizeAndChangesNothing) {
  for (const RequestRule& rule : request_table) {
    for (const std::size_t size : sizes_around(rule)) {
      if (size >= rule.payload_least && size <= rule.payload_most) continue;
      FakeFrontend frontend(device_);
      frontend.negotiate();
      const std::vector<std::byte> payload(size);
      const std::vector<int> fds(rule.fds_least, call_.get());
      (void)frontend.send(static_cast<std::uint32_t>(rule.request), payload, fds,
                          header_need_reply);
      if (frontend.connected()) {
        EXPECT_EQ(frontend.session().info().refused, 1u) << rule.name << " with " << size;
        EXPECT_TRUE(frontend.reply()) << rule.name << " with " << size;
      }
    }
  }
}

TEST_F(SessionTest, RefusesDescriptorsThatAMessageDoesNotHave) {
  negotiate();
  EXPECT_EQ(frontend_.tell(Request::set_vring_num, VringState{0, 8}, {call_.get()}),
            Outcome::refused);
  EXPECT_EQ(frontend_.tell(Request::set_owner, {}, std::array{call_.get()}), Outcome::refused);
  EXPECT_TRUE(frontend_.connected());
}

TEST_F(SessionTest, RefusesUnknownRequestsWhereItIsAskedTo) {
  for (const std::uint32_t request : {0u, 6u, 23u, 41u, 1000u, UINT32_MAX}) {
    FakeFrontend frontend(device_);
    frontend.negotiate();
    EXPECT_EQ(frontend.tell(static_cast<Request>(request)), Outcome::refused) << request;
    EXPECT_TRUE(frontend.connected());
  }
}

TEST_F(SessionTest, ClosesOnAnUnknownRequestThatAsksForNoAnswer) {
  negotiate();
  EXPECT_FALSE(frontend_.send(1000, {}));
  ASSERT_FALSE(frontend_.log().empty());
}

TEST_F(SessionTest, RefusesWhateverWasNotNegotiated) {
  for (const RequestRule& rule : request_table) {
    if (rule.gate == Gate::none || rule.gate == Gate::protocol_features_offered) continue;
    FakeFrontend frontend(device_);
    // Everything but what the rule wants.
    std::uint64_t protocol = FakeFrontend::usual_protocol_features;
    std::uint64_t features = FakeFrontend::usual_features;
    if (rule.gate >= Gate{0}) protocol &= ~bit(static_cast<unsigned>(rule.gate));
    if (rule.gate == Gate::protocol_features_accepted) {
      features &= ~bit(feature::protocol_features);
    }
    frontend.negotiate(features, protocol);
    const std::vector<std::byte> payload(rule.payload_least);
    const std::vector<int> fds(rule.fds_least, call_.get());
    const auto request = static_cast<std::uint32_t>(rule.request);
    if (frontend.send(request, payload, fds, header_need_reply)) {
      EXPECT_EQ(frontend.session().info().refused, 1u) << rule.name;
    }
  }
}

TEST_F(SessionTest, AcknowledgesOnlyAfterThatWasNegotiated) {
  EXPECT_EQ(frontend_.tell(Request::set_owner), Outcome::silent);
  negotiate();
  EXPECT_EQ(frontend_.tell(Request::set_owner), Outcome::done);
  EXPECT_TRUE(frontend_.send(static_cast<std::uint32_t>(Request::set_owner), {}));
  EXPECT_FALSE(frontend_.reply()) << "nobody asked";
}

TEST_F(SessionTest, RepliesOnceToARequestThatHasAReplyAndAsksForOne) {
  negotiate();
  EXPECT_TRUE(
      frontend_.send(static_cast<std::uint32_t>(Request::get_features), {}, {}, header_need_reply));
  const auto answer = frontend_.reply();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->flags, header_version | header_reply) << "QEMU wants exactly these";
  EXPECT_FALSE(frontend_.reply());
}

TEST_F(SessionTest, ClosesOnAnotherProtocolVersion) {
  negotiate();
  const Header header{static_cast<std::uint32_t>(Request::get_features), 2, 0};
  ASSERT_EQ(::write(frontend_.socket(), &header, sizeof header), 12);
  EXPECT_FALSE(frontend_.session().on_readable());
}

TEST_F(SessionTest, ClosesOnAMessageThatComesAsAReply) {
  negotiate();
  EXPECT_FALSE(frontend_.send(static_cast<std::uint32_t>(Request::set_owner), {}, {},
                              header_reply | header_need_reply));
}

TEST_F(SessionTest, WaitsForTheRestOfAMessage) {
  const Header header{static_cast<std::uint32_t>(Request::get_features), 1, 0};
  const auto bytes = bytes_of(header);
  for (const std::byte& byte : bytes) {
    EXPECT_FALSE(frontend_.reply());
    ASSERT_EQ(::write(frontend_.socket(), &byte, 1), 1);
    ASSERT_TRUE(frontend_.session().on_readable());
  }
  EXPECT_TRUE(frontend_.reply());
}

TEST_F(SessionTest, LogsALimitedNumberOfRefusals) {
  negotiate();
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(frontend_.num(99, 8), Outcome::refused);
  EXPECT_EQ(frontend_.session().info().refused, 1000u);
  EXPECT_LE(frontend_.log().size(), 20u);
}

TEST_F(SessionTest, OffersWhatItServes) {
  EXPECT_EQ(*frontend_.ask<std::uint64_t>(Request::get_features),
            DeviceState::transport_features | bit(FakeDevice::a_feature));
  EXPECT_EQ(*frontend_.ask<std::uint64_t>(Request::get_protocol_features),
            FakeFrontend::all_protocol_features);
  negotiate();
  EXPECT_EQ(*frontend_.ask<std::uint64_t>(Request::get_queue_num), FakeDevice::queues);
  EXPECT_EQ(*frontend_.ask<std::uint64_t>(Request::get_max_mem_slots), 509u);
}

TEST_F(SessionTest, OffersOfTheDevicesProtocolFeaturesThoseItNames) {
  namespace p = protocol_feature;
  const std::uint64_t for_all =
      bit(p::mq) | bit(p::log_shmfd) | bit(p::reply_ack) | bit(p::backend_req) |
      bit(p::reset_device) | bit(p::configure_mem_slots) | bit(p::status) | bit(p::gpa_addresses);
  for (const std::uint64_t own :
       {std::uint64_t{0}, bit(p::rarp) | bit(p::mtu), bit(p::config) | bit(p::inflight_shmfd)}) {
    device_.protocol = own;
    FakeFrontend frontend(device_);
    EXPECT_EQ(frontend.ask<std::uint64_t>(Request::get_protocol_features), for_all | own);
  }
}

TEST_F(SessionTest, OffersNoProtocolFeatureThatNobodyServes) {
  device_.protocol =
      bit(protocol_feature::pagefault) | bit(protocol_feature::backend_send_fd) | bit(63);
  FakeFrontend frontend(device_);
  EXPECT_EQ(frontend.ask<std::uint64_t>(Request::get_protocol_features),
            DeviceState::session_protocol_features);
}

TEST_F(SessionTest, RefusesTheMessagesOfProtocolFeaturesThatTheDeviceDoesNotName) {
  device_.protocol = 0;
  for (const RequestRule& rule : request_table) {
    if (rule.gate < Gate{0} ||
        has(DeviceState::session_protocol_features, static_cast<unsigned>(rule.gate))) {
      continue;
    }
    FakeFrontend frontend(device_);
    frontend.negotiate(FakeFrontend::usual_features, DeviceState::session_protocol_features);
    const auto feature = bit(static_cast<unsigned>(rule.gate));
    EXPECT_EQ(frontend.tell(Request::set_protocol_features,
                            DeviceState::session_protocol_features | feature),
              Outcome::refused)
        << rule.name;
    const std::vector<std::byte> payload(rule.payload_least);
    const std::vector<int> fds(rule.fds_least, call_.get());
    const bool can_say_no = rule.request != Request::get_vring_base_skip_drain;
    EXPECT_EQ(
        frontend.send(static_cast<std::uint32_t>(rule.request), payload, fds, header_need_reply),
        can_say_no)
        << rule.name;
    if (!can_say_no) continue;
    EXPECT_EQ(frontend.session().info().refused, 2u) << rule.name;
  }
}

TEST_F(SessionTest, CountsTheQueuesAsTheDeviceSays) {
  device_.offered = 2;
  negotiate();
  EXPECT_EQ(frontend_.ask<std::uint64_t>(Request::get_queue_num), 2u);
  start(3);  // there are as many rings as ever
}

TEST_F(SessionTest, RefusesFeaturesThatWereNotOffered) {
  negotiate();
  const std::uint64_t wrong = FakeFrontend::usual_features | bit(feature::notify_on_empty);
  EXPECT_EQ(frontend_.tell(Request::set_features, wrong), Outcome::refused);
  EXPECT_EQ(frontend_.session().info().features, FakeFrontend::usual_features);
  EXPECT_EQ(frontend_.tell(Request::set_protocol_features, bit(63)), Outcome::refused);
  EXPECT_EQ(device_.accepted, FakeFrontend::usual_features);
}

}  // namespace
}  // namespace vhost::tests
