#include <random>

#include "tests/unit/ring/ring_fixture.hpp"

/* Who wants to be told of what: calls to the driver, kicks from it, positions and memory. */
namespace vhost::tests {
namespace {

class SplitEventTest : public SplitRingTest {
 protected:
  SplitEventTest() : SplitRingTest({.size = 16, .event_idx = true}) {}
};

TEST_F(SplitRingTest, CallsNobodyWhoWantsNoInterrupt) {
  driver_.add({{data_at, 1}});
  driver_.want_no_calls();
  SplitRing ring = make();
  EXPECT_EQ(serve(ring), Notify::no);
}

TEST_F(SplitRingTest, CallsOnceForABatch) {
  for (int i = 0; i < 4; ++i) driver_.add({{data_at, 1}});
  SplitRing ring = make();
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(ring.pop(chain_), Pop::ready);
    ring.push(chain_.head, 0);
  }
  EXPECT_EQ(ring.publish(), Notify::yes);
  EXPECT_EQ(ring.publish(), Notify::no);
}

TEST_F(SplitRingTest, WritesNoEventFieldThatWasNotNegotiated) {
  // avail_event would lie behind the used ring, where the driver may keep something else.
  memory_.store(driver_.used_at() + SplitLayout{8}.avail_event_at(), std::uint16_t{0x5a5a});
  SplitRing ring = make();
  (void)ring.arm_kick();
  ring.disarm_kick();
  EXPECT_EQ(driver_.avail_event(), 0x5a5a);
}

TEST_F(SplitRingTest, ClearsTheNoNotifyOfADeadPredecessor) {
  memory_.store(driver_.used_at(), used_no_notify);
  SplitRing ring = make();
  (void)ring.arm_kick();
  EXPECT_EQ(driver_.used_flags(), 0u);
}

TEST_F(SplitRingTest, StartsWhereTheFrontEndSays) {
  driver_.start_at(65534);
  SplitRing ring = make(65534);
  EXPECT_EQ(ring.base(), 65534u);
  for (int i = 0; i < 4; ++i) {
    const auto id = driver_.add({{data_at, 1}});
    serve(ring);
    EXPECT_EQ(driver_.take_used()->id, id);
  }
  EXPECT_EQ(ring.base(), 2u);
  EXPECT_EQ(driver_.used_idx(), 2u);
}

TEST_F(SplitRingTest, GoesOnBehindWhatWasUsedIfTheBaseCannotBe) {
  driver_.start_at(100);
  const std::uint32_t size = driver_.setup().size;
  for (const std::uint32_t base : {0U, 99U, 101 + size, 0xffffU}) {
    EXPECT_EQ(make(base).base(), 100U) << base;
  }
  for (const std::uint32_t base : {100U, 101U, 100 + size}) {
    EXPECT_EQ(make(base).base(), base) << "that may be in flight";
  }
}

TEST_F(SplitRingTest, BaseDoesNotCountWhatIsNotPopped) {
  driver_.add({{data_at, 1}});
  driver_.add({{data_at, 1}});
  SplitRing ring = make();
  EXPECT_EQ(ring.base(), 0u);
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.base(), 1u);
}

TEST_F(SplitRingTest, ServesTheLargestRing) {
  FakeSplitDriver driver(memory_, {.size = 32768});
  auto ring = SplitRing::create(driver.setup(), map_);
  ASSERT_TRUE(ring);
  for (std::uint16_t i = 0; i < 32768; ++i) driver.add({{data_at, 1}});
  for (int i = 0; i < 32768; ++i) ASSERT_EQ(ring->pop(chain_), Pop::ready);
  EXPECT_EQ(ring->pop(chain_), Pop::empty);
}

TEST_F(SplitRingTest, ServesARingOfOne) {
  FakeSplitDriver driver(memory_, {.size = 1});
  auto ring = SplitRing::create(driver.setup(), map_);
  for (int i = 0; i < 3; ++i) {
    driver.add({{data_at, 1}});
    serve(*ring);
    EXPECT_TRUE(driver.take_used());
  }
}

TEST_F(SplitRingTest, RefusesAreasThatAreNotInOneRegion) {
  const RingSetup good = driver_.setup();
  const auto end = GuestMemory::frontend_low + GuestMemory::low_bytes;
  for (const std::uint64_t bad : {std::uint64_t{0}, end, end - 16, UINT64_MAX - 15}) {
    RingSetup setup = good;
    setup.descriptors = FrontendAddress{bad};
    EXPECT_FALSE(SplitRing::create(setup, map_)) << std::hex << bad;
    setup = good;
    setup.available = FrontendAddress{bad};
    EXPECT_FALSE(SplitRing::create(setup, map_)) << std::hex << bad;
    setup = good;
    setup.used = FrontendAddress{bad};
    EXPECT_FALSE(SplitRing::create(setup, map_)) << std::hex << bad;
  }
}

TEST_F(SplitRingTest, TakesAreasThatEndWithTheirRegion) {
  const auto end = GuestMemory::frontend_low + GuestMemory::low_bytes;
  const SplitLayout layout{8};
  RingSetup setup = driver_.setup();
  setup.descriptors = FrontendAddress{end - layout.descriptors_bytes()};
  EXPECT_TRUE(SplitRing::create(setup, map_));
  setup.available = FrontendAddress{end - layout.available_bytes(false)};
  EXPECT_TRUE(SplitRing::create(setup, map_));
  setup.event_idx = true;
  EXPECT_FALSE(SplitRing::create(setup, map_)) << "used_event does not fit any more";
  setup.event_idx = false;
  setup.used = FrontendAddress{end - layout.used_bytes(false)};
  EXPECT_TRUE(SplitRing::create(setup, map_));
  setup.used = FrontendAddress{end - layout.used_bytes(false) + 4};
  EXPECT_FALSE(SplitRing::create(setup, map_));
}

TEST_F(SplitRingTest, RefusesAreasWhoseMappingIsNotAligned) {
  // Aligned in the front-end's addresses, and one byte off in the file.
  memory_.add({std::uint64_t{1} << 36, 0x10000, 0x7c0000000000, 1});
  map_ = memory_.map({0, 1, 2, 3});
  FakeSplitDriver driver(memory_, {.at = std::uint64_t{1} << 36});
  EXPECT_FALSE(SplitRing::create(driver.setup(), map_));
}

TEST_F(SplitRingTest, SurvivesARingThatLiesOnTopOfItself) {
  driver_.add({{data_at, 1, true}});
  RingSetup setup = driver_.setup();
  setup.used = setup.descriptors;
  auto ring = SplitRing::create(setup, map_);
  ASSERT_TRUE(ring);
  for (int i = 0; i < 100 && ring->pop(chain_) == Pop::ready; ++i) {
    ring->push(chain_.head, 0xffffffff);
    (void)ring->publish();
    (void)ring->arm_kick();
  }
}

// ---------------------------------------------------------------- EVENT_IDX

/// VIRTIO 2.7.10 in words: call if an entry was shown at the position that the driver named.
bool shown_at(std::uint16_t event, std::uint16_t before, std::uint16_t now) {
  for (std::uint16_t position = before; position != now; ++position) {
    if (position == event) return true;
  }
  return false;
}

TEST_F(SplitEventTest, CallsExactlyWhenTheUsedIndexPassesTheEvent) {
  std::mt19937 random(7);
  driver_.start_at(65500);
  SplitRing ring = make(65500);
  std::uint16_t shown = 65500;
  for (int round = 0; round < 5'000; ++round) {
    const auto batch = static_cast<std::uint16_t>(random() % 17);
    const auto event = static_cast<std::uint16_t>(shown + random() % 40 - 20);
    driver_.used_event(event);
    for (std::uint16_t i = 0; i < batch; ++i) driver_.add({{data_at, 1}});
    for (std::uint16_t i = 0; i < batch; ++i) {
      ASSERT_EQ(ring.pop(chain_), Pop::ready);
      ring.push(chain_.head, 0);
    }
    const auto now = static_cast<std::uint16_t>(shown + batch);
    ASSERT_EQ(ring.publish() == Notify::yes, shown_at(event, shown, now))
        << "event " << event << ", " << shown << " to " << now;
    shown = now;
    while (driver_.take_used()) {
    }
  }
}

TEST_F(SplitEventTest, AsksForAKickAtTheNextEntry) {
  driver_.start_at(65535);
  SplitRing ring = make(65535);
  EXPECT_FALSE(ring.arm_kick());
  EXPECT_EQ(driver_.avail_event(), 65535u);
  driver_.add({{data_at, 1}});
  EXPECT_TRUE(driver_.must_kick());
  serve(ring);
  EXPECT_FALSE(ring.arm_kick());
  EXPECT_EQ(driver_.avail_event(), 0u);
}

TEST_F(SplitEventTest, AsksForNoKicksWhileItPolls) {
  SplitRing ring = make();
  EXPECT_FALSE(ring.arm_kick());
  driver_.add({{data_at, 1}});
  ring.disarm_kick();
  serve(ring);
  for (int i = 0; i < 10; ++i) {
    driver_.add({{data_at, 1}});
    EXPECT_FALSE(driver_.must_kick());
    serve(ring);
  }
}

TEST_F(SplitEventTest, IgnoresTheFlagsThatBelongToTheOtherWay) {
  driver_.want_no_calls();
  driver_.used_event(0);
  driver_.add({{data_at, 1}});
  SplitRing ring = make();
  EXPECT_EQ(serve(ring), Notify::yes);
  ring.disarm_kick();
  EXPECT_EQ(driver_.used_flags(), 0u);
}

}  // namespace
}  // namespace vhost::tests
