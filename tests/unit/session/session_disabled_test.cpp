#include <unistd.h>

#include "tests/unit/session/session_fixture.hpp"

/* Rings that are disabled while others run, and enabled again. */
namespace vhost::tests {
namespace {

TEST_F(SessionTest, DisableStopsAndEnableGoesOnWhereItWas) {
  negotiate();
  start(0);
  driver_.add({{GuestMemory::far, 1}});
  std::vector<iovec> room(4);
  Chain chain(room);
  ASSERT_EQ(device_.ring(0).pop(chain), Pop::ready);
  device_.ring(0).push(chain.head, 0);
  (void)device_.ring(0).publish();
  EXPECT_EQ(frontend_.enable(0, 0), Outcome::done);
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_EQ(frontend_.enable(0, 0), Outcome::done);
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_EQ(device_.starts[0], 2);
  EXPECT_EQ(device_.ring(0).base(), 1u);
  EXPECT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_EQ(device_.starts[0], 2);
}

/// Two pairs of rings, as of a network device; the first pair stays enabled. The rings lie on top
/// of each other, so only ring 3 is given chains.
class SessionPairsTest : public SessionTest {
 protected:
  SessionPairsTest() {
    negotiate();
    EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
    for (std::uint32_t index = 0; index < 4; ++index) {
      configure(index);
      EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, index, kick_), Outcome::done);
      EXPECT_EQ(frontend_.enable(index, 1), Outcome::done);
    }
    EXPECT_EQ(device_.running.size(), 4u);
  }
  void enable_second_pair(std::uint32_t value) {
    for (const std::uint32_t index : {2u, 3u}) {
      EXPECT_EQ(frontend_.enable(index, value), Outcome::done);
    }
  }
  /// Ring 3 serves one chain; returns its head.
  std::uint16_t serve() {
    std::vector<iovec> room(4);
    Chain chain(room);
    EXPECT_EQ(device_.ring(3).pop(chain), Pop::ready);
    device_.ring(3).push(chain.head, 0);
    (void)device_.ring(3).publish();
    return chain.head;
  }
};

TEST_F(SessionPairsTest, GoesOnWithWhatWasOfferedWhileItsPairWasDisabled) {
  for (int i = 0; i < 3; ++i) {
    const auto before = driver_.add({{GuestMemory::far, 1}});
    EXPECT_EQ(serve(), before);
    enable_second_pair(0);
    EXPECT_EQ(device_.running.size(), 2u) << "the first pair goes on";
    const auto meanwhile = driver_.add({{GuestMemory::far, 1}});
    enable_second_pair(1);
    ASSERT_EQ(device_.running.size(), 4u);
    EXPECT_EQ(device_.starts[0], 1);
    EXPECT_EQ(serve(), meanwhile);
    for (const auto head : {before, meanwhile}) EXPECT_EQ(driver_.take_used()->id, head);
    EXPECT_FALSE(driver_.take_used());
  }
}

TEST_F(SessionPairsTest, KeepsTheKickDescriptorOfADisabledRingAndWhatCameThroughIt) {
  enable_second_pair(0);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(kick_.get(), &one, sizeof one), 8);
  enable_second_pair(1);
  ASSERT_NE(device_.running.at(3).kick, nullptr);
  EXPECT_EQ(FakeFrontend::count(kick_), 1u) << "the kick is the device's to take";
}

TEST_F(SessionPairsTest, GivesARingThatIsEnabledAgainTheCallDescriptorThatCameMeanwhile) {
  enable_second_pair(0);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_call, 3, call_), Outcome::done);
  EXPECT_EQ(device_.call_changes, 0) << "it is not the device's now";
  enable_second_pair(1);
  device_.running.at(3).call->signal();
  EXPECT_EQ(FakeFrontend::count(call_), 1u);
}

TEST_F(SessionPairsTest, StartsNoDisabledRingForNewMemory) {
  driver_.add({{GuestMemory::far, 1}});
  (void)serve();
  enable_second_pair(0);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  EXPECT_EQ(device_.running.size(), 2u);
  enable_second_pair(1);
  EXPECT_EQ(device_.ring(3).base(), 1u);
  const auto next = driver_.add({{GuestMemory::far, 1}});
  EXPECT_EQ(serve(), next) << "in the new memory";
}

TEST_F(SessionPairsTest, TellsTheBaseOfADisabledRingAndStartsItThereAgain) {
  driver_.add({{GuestMemory::far, 1}});
  (void)serve();
  enable_second_pair(0);
  EXPECT_EQ(frontend_.get_base(3), 1u);
  EXPECT_EQ(device_.stops[3], 1) << "it was stopped already";
  enable_second_pair(1);
  EXPECT_EQ(device_.running.count(3), 0u) << "it waits for a kick descriptor";
  // The driver was loaded anew: QEMU configures the ring and leaves it enabled.
  configure(3, 1);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 3, kick_), Outcome::done);
  EXPECT_EQ(device_.ring(3).base(), 1u);
}

TEST_F(SessionPairsTest, StartsARingThatWasConfiguredWhileDisabledOnlyWhenItIsEnabled) {
  enable_second_pair(0);
  EXPECT_EQ(frontend_.get_base(3), 0u);
  configure(3, 5);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 3, kick_), Outcome::done);
  EXPECT_EQ(device_.running.count(3), 0u);
  EXPECT_EQ(frontend_.enable(3, 1), Outcome::done);
  EXPECT_EQ(device_.ring(3).base(), 5u);
}

TEST_F(SessionPairsTest, LetsADeviceDiscardWhatComesWhileARingIsDisabled) {
  device_.discarded = 3;
  driver_.add({{GuestMemory::far, 1}});
  (void)serve();
  EXPECT_FALSE(device_.running.at(3).discard);
  enable_second_pair(0);
  EXPECT_EQ(device_.running.count(2), 0u);
  ASSERT_TRUE(device_.running.at(3).discard);
  EXPECT_EQ(frontend_.session().info().running_rings, 2u);
  EXPECT_EQ(frontend_.enable(3, 0), Outcome::done);
  EXPECT_EQ(device_.starts[3], 2) << "nothing has changed";
  driver_.add({{GuestMemory::far, 1}});
  (void)serve();
  enable_second_pair(1);
  EXPECT_FALSE(device_.running.at(3).discard);
  EXPECT_EQ(device_.ring(3).base(), 2u);
  EXPECT_EQ(frontend_.session().info().running_rings, 4u);
}

TEST_F(SessionPairsTest, MovesADiscardedRingToNewMemoryAndOtherDescriptors) {
  device_.discarded = 3;
  enable_second_pair(0);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  EXPECT_EQ(device_.moves.size(), 1u);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_call, 3, call_), Outcome::done);
  EXPECT_EQ(device_.call_changes, 1);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 3, kick_), Outcome::done);
  EXPECT_EQ(device_.starts[3], 3);
  EXPECT_TRUE(device_.running.at(3).discard);
}

TEST_F(SessionPairsTest, DiscardsNothingOfARingThatWasStoppedAndNotEnabledSince) {
  device_.discarded = 3;
  enable_second_pair(0);
  EXPECT_EQ(frontend_.get_base(3), 0u);
  EXPECT_EQ(device_.running.count(3), 0u);
  EXPECT_EQ(frontend_.enable(3, 0), Outcome::done);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 3, kick_), Outcome::done);
  EXPECT_EQ(device_.running.count(3), 0u) << "it may hold what a former connection left";
  EXPECT_EQ(frontend_.enable(3, 1), Outcome::done);
  EXPECT_FALSE(device_.running.at(3).discard);
}

TEST_F(SessionPairsTest, DiscardsNothingAfterResetOwner) {
  device_.discarded = 3;
  enable_second_pair(0);
  EXPECT_EQ(frontend_.tell(Request::reset_owner), Outcome::done);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  EXPECT_TRUE(device_.running.empty());
}

}  // namespace
}  // namespace vhost::tests
