#include <random>

#include "tests/unit/ring/ring_fixture.hpp"

/* Event suppression on a packed ring (VIRTIO 2.8.10 and 2.8.14). */
namespace vhost::tests {
namespace {

class PackedEventTest : public PackedRingTest {
 protected:
  PackedEventTest() : PackedRingTest({.size = 11, .event_idx = true}) {}
};

TEST_F(PackedRingTest, CallsAsTheDriversFlagsSay) {
  PackedRing ring = make();
  driver_.add({{data_at, 1}});
  EXPECT_EQ(serve(ring), Notify::yes);
  driver_.want_no_calls();
  driver_.add({{data_at, 1}});
  EXPECT_EQ(serve(ring), Notify::no);
  driver_.driver_event({0, event_always});
  driver_.add({{data_at, 1}});
  EXPECT_EQ(serve(ring), Notify::yes);
}

TEST_F(PackedRingTest, KnowsNoPositionWithoutEventIdx) {
  PackedRing ring = make();
  driver_.driver_event({5, event_at_position});
  driver_.add({{data_at, 1}});
  EXPECT_EQ(serve(ring), Notify::yes);
  EXPECT_FALSE(ring.arm_kick());
  EXPECT_EQ(driver_.device_event().flags, event_always);
}

TEST_F(PackedRingTest, CallsForNothingWhereNothingWasPushed) {
  PackedRing ring = make();
  driver_.add({{data_at, 1}});
  serve(ring);
  EXPECT_EQ(ring.publish(), Notify::no);
}

TEST_F(PackedEventTest, CallsExactlyWhenTheNamedSlotIsAmongThoseShown) {
  std::mt19937 random(7);
  PackedRing ring = make();
  PackedPosition shown;
  int calls = 0;
  for (int round = 0; round < 20'000; ++round) {
    PackedPosition event = shown;
    event.advance(static_cast<std::uint32_t>(random() % 11), 11);
    event.advance(static_cast<std::uint32_t>(random() % 11), 11);
    driver_.driver_event({event.bits(), event_at_position});
    bool named = false;
    for (auto left = driver_.free_descriptors(); left > 0;) {
      const std::size_t slots = std::min<std::size_t>(left, 1 + random() % 3);
      driver_.add(std::vector<Buffer>(slots, Buffer{data_at, 1}));
      left = random() % 4 == 0 ? 0 : left - slots;
    }
    while (ring.pop(chain_) == Pop::ready) ring.push(chain_.head, 0);
    for (; shown != driver_.next(); shown.advance(1, 11)) named |= shown == event;
    ASSERT_EQ(ring.publish() == Notify::yes, named) << round << ' ' << event.bits();
    calls += named;
    while (driver_.take_used()) {
    }
  }
  EXPECT_GT(calls, 1000);
}

TEST_F(PackedEventTest, IsNotMisledByAPositionThatIsNone) {
  PackedRing ring = make();
  for (const std::uint16_t bits : U16s{11, 12, 0x7fff, 0x800b, 0xffff}) {
    driver_.driver_event({bits, event_at_position});
    driver_.add({{data_at, 1}});
    (void)serve(ring);
    EXPECT_TRUE(driver_.take_used());
  }
}

TEST_F(PackedEventTest, ObeysFlagsThatWantAllOrNothing) {
  PackedRing ring = make();
  driver_.driver_event({0, event_always});
  driver_.add({{data_at, 1}});
  EXPECT_EQ(serve(ring), Notify::yes);
  driver_.driver_event({PackedPosition{1, true}.bits(), event_never});
  driver_.add({{data_at, 1}});
  EXPECT_EQ(serve(ring), Notify::no);
}

TEST_F(PackedEventTest, AsksForAKickAtTheNextSlotInItsLap) {
  PackedRing ring = make(driver_.start_at({10, true}));
  EXPECT_FALSE(ring.arm_kick());
  EXPECT_EQ(driver_.device_event().position, (PackedPosition{10, true}.bits()));
  EXPECT_EQ(driver_.device_event().flags, event_at_position);
  driver_.add({{data_at, 1}, {data_at, 1}});
  EXPECT_TRUE(driver_.must_kick());
  EXPECT_TRUE(ring.arm_kick());
  serve(ring);
  EXPECT_FALSE(ring.arm_kick());
  EXPECT_EQ(driver_.device_event().position, (PackedPosition{1, false}.bits()));
}

TEST_F(PackedEventTest, AsksForNoKicksWhileItPolls) {
  PackedRing ring = make();
  ring.disarm_kick();
  for (int i = 0; i < 30; ++i) {
    driver_.add({{data_at, 1}});
    EXPECT_FALSE(driver_.must_kick());
    serve(ring);
    (void)driver_.take_used();
  }
}

}  // namespace
}  // namespace vhost::tests
