#include "libvhost/frontend/driver_ring.hpp"

#include <array>
#include <thread>

#include <gtest/gtest.h>

namespace vhost::frontend {
namespace {

/// The device's side, as a decent device would be, on the ring's own memory.
class FakeDevice {
 public:
  explicit FakeDevice(SplitDriverRing& ring) : ring_(ring) {}

  [[nodiscard]] std::uint16_t available() const { return u16(ring_.driver_area(), 2).load(); }
  [[nodiscard]] std::uint16_t head(std::uint16_t position) const {
    return u16(ring_.driver_area(), 4 + position % ring_.size() * 2u)
        .load(std::memory_order_relaxed);
  }
  [[nodiscard]] SplitDesc descriptor(std::size_t index) const {
    return read_once<SplitDesc>(ring_.descriptor_area().data() + index * sizeof(SplitDesc));
  }
  [[nodiscard]] std::uint16_t used_event() const {
    return u16(ring_.driver_area(), 4 + ring_.size() * 2u).load();
  }
  void use(std::uint32_t id, std::uint32_t bytes = 0) {
    const auto index = u16(ring_.device_area(), 2).load();
    const UsedElem element{id, bytes};
    std::memcpy(ring_.device_area().data() + 4 + index % ring_.size() * sizeof element, &element,
                sizeof element);
    set_used_index(static_cast<std::uint16_t>(index + 1));
    full_barrier();  // it is visible before we look whether the driver wants to be called
  }
  void set_used_index(std::uint16_t index) { u16(ring_.device_area(), 2).store(index); }
  void set_flags(std::uint16_t flags) { u16(ring_.device_area(), 0).store(flags); }
  void set_avail_event(std::uint16_t event) {
    u16(ring_.device_area(), 4 + ring_.size() * sizeof(UsedElem)).store(event);
  }

 private:
  static std::atomic_ref<std::uint16_t> u16(std::span<std::byte> area, std::size_t at) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(area.data() + at));
  }
  SplitDriverRing& ring_;
};

class DriverRingTest : public testing::Test {
 protected:
  DriverRingTest() { EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20)); }
  SplitDriverRing make(RingOptions options) {
    auto ring = SplitDriverRing::create(memory_, options);
    EXPECT_TRUE(ring);
    return std::move(*ring);
  }
  static constexpr std::array<Segment, 1> header{Segment{0x1000, 16}};
  static constexpr std::array<Segment, 2> data{Segment{0x2000, 512}, Segment{0x3000, 1}};

  SharedMemory memory_;
  Completion completion_;
};

TEST_F(DriverRingTest, SizesAreThePowersOfTwoUpTo32768) {
  EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20));
  EXPECT_TRUE(SplitDriverRing::create(memory_, {.size = 1}));
  EXPECT_TRUE(SplitDriverRing::create(memory_, {.size = 32768}));
  EXPECT_FALSE(SplitDriverRing::create(memory_, {.size = 0}));
  EXPECT_FALSE(SplitDriverRing::create(memory_, {.size = 96}));
}

TEST_F(DriverRingTest, DirectChainLinksReadableThenWritable) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, data, 7));
  EXPECT_TRUE(ring.publish());
  ASSERT_EQ(device.available(), 1);
  const SplitDesc first = device.descriptor(device.head(0));
  EXPECT_EQ(first.addr, 0x1000u);
  EXPECT_EQ(first.flags, desc_next);
  const SplitDesc second = device.descriptor(first.next);
  EXPECT_EQ(second.flags, desc_next | desc_write);
  const SplitDesc third = device.descriptor(second.next);
  EXPECT_EQ(third.flags, desc_write);
  EXPECT_EQ(third.addr, 0x3000u);
}

TEST_F(DriverRingTest, IndirectChainTakesOneDescriptor) {
  auto ring = make({.size = 8, .indirect = 4});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, data, 7));
  EXPECT_EQ(ring.free_descriptors(), 7);
  EXPECT_FALSE(ring.publish() && device.available() != 1);
  const SplitDesc only = device.descriptor(device.head(0));
  EXPECT_EQ(only.flags, desc_indirect);
  EXPECT_EQ(only.length, 3 * sizeof(SplitDesc));
}

TEST_F(DriverRingTest, ChainLongerThanTheIndirectTableIsDirect) {
  auto ring = make({.size = 8, .indirect = 2});
  ASSERT_TRUE(ring.add(header, data, 7));
  EXPECT_EQ(ring.free_descriptors(), 5);
}

TEST_F(DriverRingTest, NothingIsSeenBeforePublish) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));
  ASSERT_TRUE(ring.add(header, {}, 2));
  EXPECT_EQ(device.available(), 0);
  EXPECT_TRUE(ring.publish());
  EXPECT_EQ(device.available(), 2);
  EXPECT_FALSE(ring.publish());  // nothing new
}

TEST_F(DriverRingTest, FullRingRefusesAndKeepsEverything) {
  auto ring = make({.size = 4});
  ASSERT_TRUE(ring.add(header, data, 1));
  EXPECT_FALSE(ring.add(header, data, 2));
  EXPECT_TRUE(ring.add(header, {}, 3));
  EXPECT_EQ(ring.free_descriptors(), 0);
  EXPECT_EQ(ring.outstanding(), 2u);
}

TEST_F(DriverRingTest, CompletionsComeInTheDevicesOrderWithTheirCookies) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, data, 11));
  ASSERT_TRUE(ring.add(header, data, 22));
  std::ignore = ring.publish();
  device.use(device.head(1), 513);
  device.use(device.head(0), 1);
  ASSERT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(completion_.cookie, 22u);
  EXPECT_EQ(completion_.written_bytes, 513u);
  ASSERT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(completion_.cookie, 11u);
  EXPECT_EQ(ring.poll(completion_), Poll::empty);
  EXPECT_EQ(ring.free_descriptors(), 8);
}

TEST_F(DriverRingTest, RunsRoundTheIndexManyTimes) {
  auto ring = make({.size = 4, .event_idx = true});
  FakeDevice device(ring);
  for (std::uint32_t i = 0; i < 200000; ++i) {
    ASSERT_TRUE(ring.add(header, data, i));
    std::ignore = ring.publish();
    device.use(device.head(static_cast<std::uint16_t>(i)));
    ASSERT_EQ(ring.poll(completion_), Poll::done);
    ASSERT_EQ(completion_.cookie, i);
  }
}

TEST_F(DriverRingTest, PlacedChainIsOfferedAgainWithoutRewriting) {
  auto ring = make({.size = 4});
  FakeDevice device(ring);
  const auto head = ring.place(header, data, 5);
  ASSERT_TRUE(head);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(ring.offer(*head));
    EXPECT_FALSE(ring.offer(*head));  // the device has it
    EXPECT_FALSE(ring.remove(*head));
    std::ignore = ring.publish();
    device.use(*head);
    ASSERT_EQ(ring.poll(completion_), Poll::done);
  }
  EXPECT_TRUE(ring.remove(*head));
  EXPECT_FALSE(ring.offer(*head));
  EXPECT_EQ(ring.free_descriptors(), 4);
}

TEST_F(DriverRingTest, NoNotifySuppressesTheKick) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  device.set_flags(used_no_notify);
  ASSERT_TRUE(ring.add(header, {}, 1));
  EXPECT_FALSE(ring.publish());
  device.set_flags(0);
  ASSERT_TRUE(ring.add(header, {}, 2));
  EXPECT_TRUE(ring.publish());
}

TEST_F(DriverRingTest, AvailEventAsksForTheKickAtOneEntry) {
  auto ring = make({.size = 8, .event_idx = true});
  FakeDevice device(ring);
  device.set_flags(used_no_notify);  // means nothing with EVENT_IDX
  device.set_avail_event(1);
  ASSERT_TRUE(ring.add(header, {}, 1));
  EXPECT_FALSE(ring.publish());
  ASSERT_TRUE(ring.add(header, {}, 2));
  EXPECT_TRUE(ring.publish());
  ASSERT_TRUE(ring.add(header, {}, 3));
  EXPECT_FALSE(ring.publish());
}

TEST_F(DriverRingTest, CallsAreSuppressedUntilArmed) {
  auto ring = make({.size = 8});
  const auto flags = [&] { return read_once<std::uint16_t>(ring.driver_area().data()); };
  EXPECT_EQ(flags(), avail_no_interrupt);
  EXPECT_FALSE(ring.arm_calls());
  EXPECT_EQ(flags(), 0);
  ring.disarm_calls();
  EXPECT_EQ(flags(), avail_no_interrupt);
}

TEST_F(DriverRingTest, ArmingNamesTheNextUsedEntry) {
  auto ring = make({.size = 8, .event_idx = true});
  FakeDevice device(ring);
  EXPECT_FALSE(ring.arm_calls());
  EXPECT_TRUE(passed_event(device.used_event(), 1, 0));
  ring.disarm_calls();
  EXPECT_FALSE(passed_event(device.used_event(), 8, 0));
}

TEST_F(DriverRingTest, ArmingSeesWhatCameJustBefore) {
  auto ring = make({.size = 8, .event_idx = true});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));
  std::ignore = ring.publish();
  device.use(device.head(0));
  EXPECT_TRUE(ring.arm_calls());
}

TEST_F(DriverRingTest, UsedIdBeyondTheRingBreaksIt) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));
  std::ignore = ring.publish();
  device.use(8);
  EXPECT_EQ(ring.poll(completion_), Poll::broken);
  EXPECT_EQ(ring.poll(completion_), Poll::broken);
  EXPECT_NE(ring.broken_because(), nullptr);
  EXPECT_EQ(ring.outstanding(), 1u);
}

TEST_F(DriverRingTest, UsedIdThatWasNotOfferedBreaksIt) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));
  std::ignore = ring.publish();
  device.use(device.head(0) + 1u);
  EXPECT_EQ(ring.poll(completion_), Poll::broken);
}

TEST_F(DriverRingTest, ChainUsedTwiceBreaksIt) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));
  ASSERT_TRUE(ring.add(header, {}, 2));
  std::ignore = ring.publish();
  device.use(device.head(0));
  device.use(device.head(0));
  EXPECT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(ring.poll(completion_), Poll::broken);
}

TEST_F(DriverRingTest, UsedIndexAheadOfWhatWasOfferedBreaksIt) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));
  std::ignore = ring.publish();
  device.set_used_index(2);
  EXPECT_EQ(ring.poll(completion_), Poll::broken);
}

TEST_F(DriverRingTest, ResetRevivesABrokenRingAndTakesChainsBack) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, data, 1));
  std::ignore = ring.publish();
  device.use(8);
  ASSERT_EQ(ring.poll(completion_), Poll::broken);
  ring.reset();
  EXPECT_EQ(ring.free_descriptors(), 8);
  EXPECT_EQ(device.available(), 0);
  ASSERT_TRUE(ring.add(header, data, 2));
  std::ignore = ring.publish();
  device.use(device.head(0));
  EXPECT_EQ(ring.poll(completion_), Poll::done);
}

TEST_F(DriverRingTest, OffersAgainWhatACrashedDeviceStillHad) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  for (std::uint64_t cookie : {1u, 2u, 3u}) ASSERT_TRUE(ring.add(header, {}, cookie));
  std::ignore = ring.publish();
  device.use(device.head(1));  // out of order: the base alone would lose the first
  ASSERT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(completion_.cookie, 2u);

  ring.offer_again();
  EXPECT_EQ(ring.base_after_crash(), 1);
  EXPECT_EQ(device.available(), 3);
  EXPECT_EQ(ring.cookie(device.head(1)), 1u);  // oldest first
  EXPECT_EQ(ring.cookie(device.head(2)), 3u);
  device.use(device.head(1));
  device.use(device.head(2));
  EXPECT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(ring.outstanding(), 0u);
}

TEST_F(DriverRingTest, RawDescriptorsKeepFlagsAndMapTheirLinks) {
  auto ring = make({.size = 8});
  FakeDevice device(ring);
  ASSERT_TRUE(ring.add(header, {}, 1));  // so that the raw chain does not start at 0
  const std::array<SplitDesc, 3> raw{SplitDesc{1, 1, desc_next, 1}, SplitDesc{2, 2, desc_next, 0},
                                     SplitDesc{3, 3, desc_next, 999}};
  const auto head = ring.place_raw(raw, 9);
  ASSERT_TRUE(head);
  const SplitDesc first = device.descriptor(*head);
  EXPECT_EQ(device.descriptor(first.next).addr, 2u);
  EXPECT_EQ(device.descriptor(first.next).next, *head);  // a loop
  EXPECT_TRUE(ring.offer(*head));
}

TEST_F(DriverRingTest, LegacyLayoutIsOnePieceWithTheUsedRingOnItsOwnPage) {
  auto ring = make({.size = 256, .legacy = true});
  const VringAddr at = ring.addresses(3);
  EXPECT_EQ(at.index, 3u);
  EXPECT_EQ(at.available, at.descriptors + 256 * 16);
  EXPECT_EQ(at.used % 4096, 0u);
  EXPECT_GT(at.used, at.available);
}

TEST_F(DriverRingTest, GivesItsMemoryBack) {
  {
    auto ring = make({.size = 256, .indirect = 32});
    auto moved = std::move(ring);
  }
  EXPECT_TRUE(memory_.remove_region(0));
}

TEST_F(DriverRingTest, LosesNoInterruptBetweenTwoThreads) {
  auto ring = make({.size = 4, .event_idx = true});
  FakeDevice device(ring);
  constexpr std::uint32_t rounds = 20000;
  std::atomic<std::uint32_t> calls{0};
  std::thread device_thread([&] {
    std::uint16_t next = 0;
    for (std::uint32_t i = 0; i < rounds; ++i) {
      while (device.available() == next) std::this_thread::yield();
      device.use(device.head(next++));
      if (passed_event(device.used_event(), next, static_cast<std::uint16_t>(next - 1))) ++calls;
    }
  });
  std::uint32_t seen = 0;
  for (std::uint32_t i = 0; i < rounds; ++i) {
    ASSERT_TRUE(ring.add(header, {}, i));
    std::ignore = ring.publish();
    if (!ring.arm_calls()) {  // so a call must come
      while (calls.load() == seen) std::this_thread::yield();
    }
    while (ring.poll(completion_) == Poll::empty) std::this_thread::yield();
    ring.disarm_calls();
    seen = calls.load();
  }
  device_thread.join();
}

}  // namespace
}  // namespace vhost::frontend
