#include <unistd.h>

#include <algorithm>

#include "tests/fakes/event.hpp"
#include "tests/unit/session/session_fixture.hpp"

/* The life of a ring: what it needs to start, what stops it, where it goes on. */
namespace vhost::tests {
namespace {

TEST_F(SessionTest, RunsARingThatWasEnabledBeforeTheFeatures) {
  // As QEMU does for network devices.
  frontend_.tell(Request::set_protocol_features, FakeFrontend::usual_protocol_features);
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  negotiate();
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  configure(0);
  EXPECT_TRUE(device_.running.empty());
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_EQ(device_.running.count(0), 1u);
}

TEST_F(SessionTest, RefusesRingsThatDoNotExist) {
  negotiate();
  for (const std::uint32_t index : {4u, 5u, 255u, 256u, 65535u, 65536u, UINT32_MAX}) {
    EXPECT_EQ(frontend_.num(index, 8), Outcome::refused) << index;
    EXPECT_EQ(frontend_.addr(index, driver_.setup()), Outcome::refused) << index;
    EXPECT_EQ(frontend_.base(index, 0), Outcome::refused) << index;
    EXPECT_EQ(frontend_.enable(index, 1), Outcome::refused) << index;
    for (const auto request :
         {Request::set_vring_kick, Request::set_vring_call, Request::set_vring_err}) {
      EXPECT_EQ(frontend_.vring_fd(request, index, call_), Outcome::refused) << index;
    }
  }
  EXPECT_TRUE(frontend_.connected());
  EXPECT_FALSE(frontend_.get_base(4));
  EXPECT_FALSE(frontend_.connected()) << "GET_VRING_BASE has no way to say no";
}

TEST_F(SessionTest, KnowsItsLastRing) {
  negotiate();
  start(3);
  EXPECT_EQ(frontend_.get_base(3), 0u);
}

TEST_F(SessionTest, TakesRingSizesThatArePowersOfTwoUpTo32768) {
  negotiate();
  for (const std::uint32_t size : {1u, 2u, 256u, 32768u}) {
    EXPECT_EQ(frontend_.num(0, size), Outcome::done) << size;
  }
  for (const std::uint32_t size : {0u, 3u, 32767u, 32769u, 65536u, 1u << 31, UINT32_MAX}) {
    EXPECT_EQ(frontend_.num(0, size), Outcome::refused) << size;
  }
}

TEST_F(SessionTest, RefusesAreasThatAreNotAligned) {
  negotiate();
  const RingSetup good = driver_.setup();
  for (const auto part : {&RingSetup::descriptors, &RingSetup::available, &RingSetup::used}) {
    RingSetup bad = good;
    bad.*part = FrontendAddress{std::to_underlying(bad.*part) + 1};
    EXPECT_EQ(frontend_.addr(0, bad), Outcome::refused);
  }
  EXPECT_EQ(frontend_.tell(Request::set_vring_addr, VringAddr{0, 2, 0, 0, 0, 0}), Outcome::refused);
}

TEST_F(SessionTest, RefusesABaseOfMoreThan16Bits) {
  negotiate();
  EXPECT_EQ(frontend_.base(0, 0x10000), Outcome::refused);
  EXPECT_EQ(frontend_.base(0, 0xffff), Outcome::done);
}

TEST_F(SessionTest, StartsOnceAndOnlyWhenAllIsThereInAnyOrder) {
  enum Step { memory, num, addr, base, kick, enable };
  std::vector<Step> order{memory, num, addr, base, kick, enable};
  driver_.start_at(77);
  do {
    if (order.back() == base) continue;  // a ring may do without it, and runs already
    FakeDevice device;
    FakeFrontend frontend(device);
    frontend.negotiate();
    for (std::size_t i = 0; i < order.size(); ++i) {
      EXPECT_TRUE(device.starts.empty());
      switch (order[i]) {
        case memory: EXPECT_EQ(frontend.set_memory(memory_, {0, 1, 2}), Outcome::done); break;
        case num: EXPECT_EQ(frontend.num(1, 8), Outcome::done); break;
        case addr: EXPECT_EQ(frontend.addr(1, driver_.setup()), Outcome::done); break;
        case base: EXPECT_EQ(frontend.base(1, 77), Outcome::done); break;
        case kick:
          EXPECT_EQ(frontend.vring_fd(Request::set_vring_kick, 1, kick_), Outcome::done);
          break;
        case enable: EXPECT_EQ(frontend.enable(1, 1), Outcome::done); break;
      }
    }
    EXPECT_EQ(device.starts[1], 1);
    EXPECT_EQ(device.ring(1).base(), 77u);
    EXPECT_EQ(device.ring(1).size(), 8u);
  } while (std::ranges::next_permutation(order).found);
}

TEST_F(SessionTest, StartsWithAKickThatCameBeforeTheEnable) {
  negotiate();
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  configure(0);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(kick_.get(), &one, sizeof one), 8);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_EQ(device_.starts[0], 0);
  EXPECT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_EQ(device_.starts[0], 1);
  EXPECT_EQ(FakeFrontend::count(kick_), 1u) << "the kick is the device's to take";
}

TEST_F(SessionTest, WithoutProtocolFeaturesRingsAreBornEnabled) {
  frontend_.negotiate(FakeFrontend::usual_features & ~bit(feature::protocol_features));
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  configure(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_EQ(device_.starts[0], 1);
}

TEST_F(SessionTest, GivesTheDeviceTheNegotiatedRing) {
  negotiate();
  start(0);
  const auto setup = device_.running.at(0);
  EXPECT_NE(setup.kick, nullptr);
  EXPECT_EQ(setup.call, nullptr);
  driver_.used_event(0);
  EXPECT_FALSE(device_.ring(0).arm_kick());
  EXPECT_EQ(driver_.avail_event(), 0u);
}

TEST_F(SessionTest, RefusesAnEnableThatIsNeither) {
  negotiate();
  EXPECT_EQ(frontend_.enable(0, 2), Outcome::refused);
  EXPECT_EQ(frontend_.enable(3, 1), Outcome::done) << "a ring nobody configured may be enabled";
}

TEST_F(SessionTest, GetVringBaseStopsTheRingUntilTheNextKick) {
  negotiate();
  start(2, 1234);
  EXPECT_EQ(frontend_.get_base(2), 1234u);
  EXPECT_EQ(device_.stops[2], 1);
  EXPECT_EQ(frontend_.enable(2, 1), Outcome::done);
  EXPECT_EQ(device_.starts[2], 1) << "it waits for a kick descriptor";
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 2, kick_), Outcome::done);
  EXPECT_EQ(device_.starts[2], 2);
  EXPECT_EQ(device_.ring(2).base(), 1234u);
}

TEST_F(SessionTest, GetVringBaseOfAStoppedRingTellsWhatWasSet) {
  negotiate();
  EXPECT_EQ(frontend_.get_base(0), 0u);
  EXPECT_EQ(frontend_.base(0, 99), Outcome::done);
  EXPECT_EQ(frontend_.get_base(0), 99u);
  EXPECT_TRUE(device_.stops.empty());
}

TEST_F(SessionTest, RefusesToReconfigureARunningRing) {
  negotiate();
  start(0);
  EXPECT_EQ(frontend_.num(0, 16), Outcome::refused);
  EXPECT_EQ(frontend_.base(0, 1), Outcome::refused);
  RingSetup moved = driver_.setup();
  moved.used = FrontendAddress{std::to_underlying(moved.used) + 4096};
  EXPECT_EQ(frontend_.addr(0, moved), Outcome::refused);
  EXPECT_EQ(frontend_.addr(0, driver_.setup()), Outcome::done) << "the same place again";
  EXPECT_EQ(frontend_.tell(Request::set_features, bit(feature::version_1)), Outcome::refused);
  EXPECT_EQ(frontend_.tell(Request::set_features, FakeFrontend::usual_features), Outcome::done);
  EXPECT_EQ(device_.starts[0], 1);
  EXPECT_EQ(device_.stops[0], 0);
}

TEST_F(SessionTest, HandsOverANewCallDescriptorWhileItRuns) {
  negotiate();
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_call, 0, call_), Outcome::done);
  start(0);
  const UniqueFd other = FakeFrontend::event();
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_call, 0, other), Outcome::done);
  EXPECT_EQ(device_.call_changes, 1);
  device_.running.at(0).call->signal();
  EXPECT_EQ(FakeFrontend::count(other), 1u);
  EXPECT_EQ(frontend_.tell(Request::set_vring_call, vring_no_fd), Outcome::done);
  EXPECT_EQ(device_.running.at(0).call, nullptr);
  EXPECT_EQ(device_.stops[0], 0);
}

TEST_F(SessionTest, ANewKickDescriptorKeepsTheRingsPlace) {
  negotiate();
  start(0, 5);
  const UniqueFd other = FakeFrontend::event();
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, other), Outcome::done);
  EXPECT_EQ(device_.starts[0], 2);
  EXPECT_EQ(device_.ring(0).base(), 5u);
}

TEST_F(SessionTest, RefusesDescriptorsThatAreNotEventfds) {
  negotiate();
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd reader(pipe[0]), writer(pipe[1]);
  const UniqueFd file(::memfd_create("[eventfd]", MFD_CLOEXEC));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const std::size_t before = open_fds();
  for (const auto request :
       {Request::set_vring_kick, Request::set_vring_call, Request::set_vring_err}) {
    for (const UniqueFd* fd : {&reader, &writer, &file, &socket}) {
      EXPECT_EQ(frontend_.vring_fd(request, 0, *fd), Outcome::refused);
    }
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(SessionTest, DoesNotHangOnAnEventfdThatIsFull) {
  negotiate();
  const std::uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(::write(call_.get(), &full, sizeof full), 8);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_call, 0, call_), Outcome::done);
  start(0);
  device_.running.at(0).call->signal();
}

TEST_F(SessionTest, DoesNotHangInTellingThatARingCannotStart) {
  negotiate();
  const fakes::Event error;
  const UniqueFd end(::dup(error.get()));
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_err, 0, end), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {2}), Outcome::done);  // the ring is not there
  configure(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_EQ(error.count(), 1U);
  error.make_blocking_and_full();
  EXPECT_TRUE(fakes::ends(error, [&] { (void)frontend_.enable(0, 1); }));
}

TEST_F(SessionTest, PollsWithoutAKickDescriptor) {
  negotiate();
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  configure(0);
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  for (const auto request :
       {Request::set_vring_call, Request::set_vring_err, Request::set_vring_kick}) {
    EXPECT_EQ(frontend_.tell(request, vring_no_fd), Outcome::done);
  }
  EXPECT_EQ(device_.starts[0], 1);
  EXPECT_EQ(device_.running.at(0).kick, nullptr);
}

TEST_F(SessionTest, RefusesNoFdWithADescriptorAndADescriptorMissing) {
  negotiate();
  for (const auto request :
       {Request::set_vring_call, Request::set_vring_err, Request::set_vring_kick}) {
    EXPECT_EQ(frontend_.tell(request, vring_no_fd, {call_.get()}), Outcome::refused);
    EXPECT_EQ(frontend_.tell(request, std::uint64_t{0}), Outcome::refused);
    EXPECT_EQ(frontend_.tell(request, std::uint64_t{0x200}, {call_.get()}), Outcome::refused);
  }
}

TEST_F(SessionTest, DisconnectStopsEveryRing) {
  negotiate();
  start(0);
  configure(1);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 1, kick_), Outcome::done);
  ASSERT_EQ(frontend_.enable(1, 1), Outcome::done);
  EXPECT_EQ(frontend_.session().info().running_rings, 2u);
  frontend_.disconnect();
  EXPECT_TRUE(device_.running.empty());
  EXPECT_EQ(device_.accepted, 0u);
}

TEST_F(SessionTest, ResetOwnerStopsTheRingsAndKeepsTheConnection) {
  negotiate();
  start(0, 3);
  EXPECT_EQ(frontend_.tell(Request::reset_owner), Outcome::done);
  EXPECT_TRUE(device_.running.empty());
  EXPECT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_EQ(device_.ring(0).base(), 3u);
}

TEST_F(SessionTest, ResetOwnerStopsRingsThatWereBornEnabledForGood) {
  frontend_.negotiate(FakeFrontend::usual_features & ~bit(feature::protocol_features));
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  configure(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  ASSERT_EQ(frontend_.tell(Request::reset_owner), Outcome::done);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  EXPECT_EQ(device_.starts[0], 1) << "no message about the ring has come";
}

}  // namespace
}  // namespace vhost::tests
