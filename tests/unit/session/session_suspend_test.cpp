#include "tests/unit/session/session_fixture.hpp"

/* Requests that a stop leaves in flight, for this back-end or another to carry out. */
namespace vhost::tests {
namespace {

using namespace protocol_feature;

class SessionSuspendTest : public SessionTest {
 protected:
  static constexpr std::uint64_t all = FakeFrontend::usual_protocol_features;

  void negotiate_with(std::uint64_t protocol) {
    frontend_.negotiate(FakeFrontend::usual_features, protocol);
  }
  /// A region for the first so many rings.
  void keep_inflight(std::uint16_t rings = FakeDevice::queues) {
    region_ = std::move(*make_inflight_region(rings, 8));
    ASSERT_EQ(frontend_.tell(Request::set_inflight_fd, region_.description, {region_.file.get()}),
              Outcome::done);
  }
  /// A ring with one of two chains in flight.
  void start_busy(std::uint32_t index) {
    start(index);
    head_ = driver_.add({{GuestMemory::far, 1}});
    driver_.add({{GuestMemory::far, 1}});
    ASSERT_EQ(device_.ring(static_cast<std::uint16_t>(index)).pop(chain_), Pop::ready);
  }
  std::optional<std::uint32_t> skip_drain(std::uint32_t index) {
    const VringState state{index, 0};
    const auto answer =
        frontend_.ask<VringState>(Request::get_vring_base_skip_drain, bytes_of(state));
    if (!answer || answer->index != index) return std::nullopt;
    return answer->value;
  }
  Outcome accept(std::uint64_t protocol) {
    return frontend_.tell(Request::set_protocol_features, protocol);
  }

  InflightRegion region_;
  std::uint16_t head_ = 0;
  std::vector<iovec> room_ = std::vector<iovec>(4);
  Chain chain_{room_};
};

TEST_F(SessionSuspendTest, IsOfferedWhereTheDeviceOffersIt) {
  const auto offers = [](std::uint64_t protocol) {
    FakeDevice device;
    device.protocol = protocol;
    FakeFrontend frontend(device);
    const auto offered = frontend.ask<std::uint64_t>(Request::get_protocol_features);
    return std::pair(has(*offered, get_vring_base_inflight),
                     has(*offered, get_vring_base_skip_drain));
  };
  EXPECT_EQ(offers(UINT64_MAX), std::pair(true, true));
  EXPECT_EQ(offers(bit(inflight_shmfd) | bit(get_vring_base_inflight)), std::pair(true, false));
  EXPECT_EQ(offers(bit(inflight_shmfd)), std::pair(false, false));
}

TEST_F(SessionSuspendTest, IsAcceptedOnlyWithWhatItNeeds) {
  negotiate();
  const std::uint64_t without =
      all & ~(bit(inflight_shmfd) | bit(get_vring_base_inflight) | bit(get_vring_base_skip_drain));
  EXPECT_EQ(accept(without), Outcome::done);
  EXPECT_EQ(accept(without | bit(get_vring_base_inflight)), Outcome::refused);
  EXPECT_EQ(accept(without | bit(get_vring_base_skip_drain)), Outcome::refused);
  EXPECT_EQ(accept(without | bit(inflight_shmfd) | bit(get_vring_base_skip_drain)),
            Outcome::refused);
  EXPECT_EQ(accept(all & ~bit(inflight_shmfd)), Outcome::refused);
  EXPECT_EQ(accept(without | bit(inflight_shmfd) | bit(get_vring_base_inflight)), Outcome::done);
  EXPECT_EQ(accept(all), Outcome::done);
}

TEST_F(SessionSuspendTest, TheMessageEndsAConnectionThatDidNotNegotiateIt) {
  negotiate_with(all & ~bit(get_vring_base_skip_drain));
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(skip_drain(1), std::nullopt);
  EXPECT_FALSE(frontend_.connected()) << "its answer has no form for a no";
  EXPECT_EQ(device_.suspends[1], 0);
}

TEST_F(SessionSuspendTest, TheMessageLeavesInFlightWhatTheNextStartTakesUp) {
  negotiate();
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(skip_drain(1), 1u) << "behind what was taken";
  EXPECT_EQ(device_.suspends[1], 1);
  EXPECT_EQ(device_.stops[1], 0);
  EXPECT_FALSE(device_.begun) << "it may be served elsewhere";
  EXPECT_FALSE(driver_.take_used());

  ASSERT_EQ(frontend_.base(1, 1), Outcome::done);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 1, kick_), Outcome::done);
  ASSERT_EQ(device_.starts[1], 2);
  EXPECT_EQ(device_.starts_to_end[1], 0);
  ASSERT_EQ(device_.ring(1).pop(chain_), Pop::ready);
  EXPECT_EQ(chain_.head, head_);
}

TEST_F(SessionSuspendTest, AnOrdinaryStopEndsWhatIsInFlight) {
  negotiate();
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.get_base(1), 1u);
  EXPECT_EQ(device_.stops[1], 1);
  EXPECT_EQ(device_.suspends[1], 0);
  EXPECT_EQ(device_.starts[1], 1);
}

/// QEMU disables a ring first, however it is going to stop it.
TEST_F(SessionSuspendTest, ADisableLeavesToTheStopWhatBecomesOfIt) {
  negotiate();
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  EXPECT_EQ(device_.suspends[1], 1);
  EXPECT_EQ(skip_drain(1), 1u);
  EXPECT_EQ(device_.starts[1], 1) << "it stays in flight";
  EXPECT_EQ(device_.stops[1], 0);
}

TEST_F(SessionSuspendTest, AnOrdinaryStopAfterADisableEndsWhatThatLeft) {
  negotiate();
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  EXPECT_EQ(frontend_.get_base(1), 1u);
  EXPECT_EQ(device_.starts_to_end[1], 1);
  EXPECT_EQ(device_.stops[1], 1);
  EXPECT_TRUE(device_.running.empty());
  EXPECT_FALSE(device_.begun);
  EXPECT_EQ(frontend_.get_base(1), 1u);
  EXPECT_EQ(device_.starts[1], 2) << "once";
}

TEST_F(SessionSuspendTest, AnEnableTakesUpWhatADisableLeft) {
  negotiate();
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  EXPECT_EQ(frontend_.enable(1, 1), Outcome::done);
  EXPECT_EQ(device_.starts_to_end[1], 0);
  ASSERT_EQ(device_.ring(1).pop(chain_), Pop::ready);
  EXPECT_EQ(chain_.head, head_);
  EXPECT_EQ(frontend_.get_base(1), 1u);
  EXPECT_EQ(device_.starts[1], 2) << "nothing is left of the disable";
}

TEST_F(SessionSuspendTest, WhatIsToBeDiscardedIsNotLeft) {
  negotiate();
  keep_inflight();
  device_.discarded = 1;
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  EXPECT_EQ(device_.suspends[1], 1) << "it was not yet";
  ASSERT_TRUE(device_.running.at(1).discard);
  EXPECT_EQ(frontend_.enable(1, 1), Outcome::done);
  EXPECT_EQ(device_.suspends[1], 1);
  EXPECT_EQ(device_.stops[1], 1);
}

TEST_F(SessionSuspendTest, WithTheFirstOfTheTwoFeaturesAloneEveryStopMayLeave) {
  negotiate_with(all & ~bit(get_vring_base_skip_drain));
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.get_base(1), 1u);
  EXPECT_EQ(device_.suspends[1], 1);
  EXPECT_EQ(device_.starts[1], 1);
}

TEST_F(SessionSuspendTest, WithNeitherOfThemNoStopLeaves) {
  negotiate_with(all & ~(bit(get_vring_base_inflight) | bit(get_vring_base_skip_drain)));
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  EXPECT_EQ(frontend_.get_base(1), 1u);
  EXPECT_EQ(device_.suspends[1], 0);
  EXPECT_EQ(device_.stops[1], 1);
}

TEST_F(SessionSuspendTest, ARingWithoutASectionEndsWhatIsInFlight) {
  negotiate();
  start_busy(1);
  EXPECT_EQ(skip_drain(1), 1u);
  EXPECT_EQ(device_.suspends[1], 0);
  EXPECT_EQ(device_.stops[1], 1);
}

TEST_F(SessionSuspendTest, ARingBehindTheEndOfTheRegionEndsWhatIsInFlight) {
  negotiate();
  keep_inflight(1);
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  EXPECT_EQ(skip_drain(1), 1u);
  EXPECT_EQ(device_.suspends[1], 0);
  EXPECT_EQ(device_.stops[1], 1);
}

TEST_F(SessionSuspendTest, AnswersForARingThatDoesNotRun) {
  negotiate();
  keep_inflight();
  EXPECT_EQ(skip_drain(0), 0u);
  start_busy(1);
  EXPECT_EQ(skip_drain(1), 1u);
  EXPECT_EQ(skip_drain(1), 1u) << "as often as it likes";
  EXPECT_EQ(device_.suspends[1], 1);
  EXPECT_EQ(skip_drain(FakeDevice::queues), std::nullopt);
  EXPECT_FALSE(frontend_.connected()) << "there is no such ring";
}

TEST_F(SessionSuspendTest, AResetForgetsWhatWasLeft) {
  negotiate();
  keep_inflight();
  start_busy(1);
  EXPECT_EQ(frontend_.enable(1, 0), Outcome::done);
  ASSERT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_EQ(frontend_.get_base(1), 0u);
  EXPECT_EQ(device_.starts[1], 1);
}

}  // namespace
}  // namespace vhost::tests
