#include "libvhost/frontend/packed_driver_ring.hpp"

#include <unistd.h>

#include <array>
#include <map>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "libvhost/frontend/any_driver_ring.hpp"
#include "libvhost/ring/ring.hpp"

/* The driver's packed ring against the device's, on the same memory. */
namespace vhost::frontend {
namespace {

using U16s = std::vector<std::uint16_t>;

class PackedDriverRingTest : public testing::Test {
 protected:
  PackedDriverRingTest() {
    EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20));
    data_ = *memory_.allocate(4096);
  }
  PackedDriverRing make(RingOptions options) {
    auto ring = PackedDriverRing::create(memory_, options);
    EXPECT_TRUE(ring);
    return std::move(*ring);
  }
  [[nodiscard]] std::shared_ptr<const MemoryMap> map() const {
    std::vector<UniqueFd> fds;
    fds.emplace_back(::dup(memory_.regions()[0]->fd()));
    const std::array regions{memory_.regions()[0]->wire()};
    return std::make_shared<const MemoryMap>(std::move(*MemoryMap::of(regions, fds, {})));
  }
  [[nodiscard]] static RingSetup setup(const VringAddr& at, const RingOptions& options,
                                       std::uint32_t base) {
    return {options.size,
            FrontendAddress{at.descriptors},
            FrontendAddress{at.available},
            FrontendAddress{at.used},
            base,
            options.event_idx,
            options.indirect != 0,
            options.packed};
  }
  PackedRing device(const PackedDriverRing& ring, RingOptions options,
                    std::uint32_t base = new_packed_base) {
    options.packed = true;
    return std::move(*PackedRing::create(setup(ring.addresses(0), options, base), map()));
  }
  Notify serve(PackedRing& device, std::uint32_t written = 0) {
    EXPECT_EQ(device.pop(chain_), Pop::ready);
    device.push(chain_.head, written);
    return device.publish();
  }
  [[nodiscard]] PackedDesc& slot(const PackedDriverRing& ring, std::size_t index) {
    return reinterpret_cast<PackedDesc*>(ring.addresses(0).descriptors)[index];
  }
  [[nodiscard]] Segment segment(std::uint32_t bytes) const { return data_.segment(0, bytes); }

  SharedMemory memory_;
  Buffer data_;
  Completion completion_;
  std::vector<iovec> room_ = std::vector<iovec>(64);
  Chain chain_{room_};
};

TEST_F(PackedDriverRingTest, SizesAreAllUpTo32768) {
  EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20));
  for (const std::uint16_t size : U16s{1, 2, 3, 96, 32767, 32768}) {
    EXPECT_TRUE(PackedDriverRing::create(memory_, {.size = size})) << size;
  }
  for (const std::uint16_t size : U16s{0, 32769, 65535}) {
    EXPECT_FALSE(PackedDriverRing::create(memory_, {.size = size})) << size;
  }
}

TEST_F(PackedDriverRingTest, ADirectChainTakesASlotForEachSegment) {
  auto ring = make({.size = 5});
  auto device = this->device(ring, {.size = 5});
  const std::array readable{segment(16)};
  const std::array writable{segment(512), segment(1)};
  ASSERT_TRUE(ring.add(readable, writable, 7));
  EXPECT_EQ(ring.free_descriptors(), 2);
  EXPECT_TRUE(ring.publish());
  ASSERT_EQ(device.pop(chain_), Pop::ready);
  EXPECT_EQ(chain_.readable().size(), 1u);
  EXPECT_EQ(chain_.writable().size(), 2u);
  device.push(chain_.head, 513);
  (void)device.publish();
  ASSERT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(completion_.cookie, 7u);
  EXPECT_EQ(completion_.written_bytes, 513u);
  EXPECT_EQ(ring.free_descriptors(), 5);
  EXPECT_EQ(ring.poll(completion_), Poll::empty);
}

TEST_F(PackedDriverRingTest, AnIndirectChainTakesOne) {
  const RingOptions options{.size = 5, .indirect = 3};
  auto ring = make(options);
  auto device = this->device(ring, options);
  const std::array parts{segment(16), segment(17), segment(18)};
  ASSERT_TRUE(ring.add(parts, {}, 7));
  EXPECT_EQ(ring.free_descriptors(), 4);
  ASSERT_TRUE(ring.publish());
  EXPECT_EQ(slot(ring, 0).flags & desc_indirect, desc_indirect);
  ASSERT_EQ(device.pop(chain_), Pop::ready);
  EXPECT_EQ(chain_.readable().size(), 3u);
  const std::array more{segment(1), segment(1), segment(1), segment(1)};
  EXPECT_TRUE(ring.add(more, {}, 8)) << "longer than the table, so direct";
  EXPECT_EQ(ring.free_descriptors(), 0);
  EXPECT_FALSE(ring.add(std::span(more).first(1), {}, 9));
}

TEST_F(PackedDriverRingTest, NothingIsSeenBeforeItIsPublishedOrExposed) {
  auto ring = make({.size = 5});
  auto device = this->device(ring, {.size = 5});
  const std::array parts{segment(1), segment(2)};
  ASSERT_TRUE(ring.add(parts, {}, 1));
  ASSERT_TRUE(ring.add(std::span(parts).first(1), {}, 2));
  EXPECT_EQ(device.pop(chain_), Pop::empty);
  ring.expose();
  EXPECT_EQ(device.pop(chain_), Pop::ready);
  EXPECT_EQ(device.pop(chain_), Pop::ready);
  EXPECT_TRUE(ring.publish()) << "the kick for it is due all the same";
  EXPECT_FALSE(ring.publish());
}

TEST_F(PackedDriverRingTest, APlacedChainIsOfferedAgainAndAgain) {
  auto ring = make({.size = 5});
  auto device = this->device(ring, {.size = 5});
  const std::array parts{segment(16), segment(17)};
  const auto head = ring.place(parts, {}, 3);
  ASSERT_TRUE(head);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(ring.offer(*head));
    EXPECT_FALSE(ring.offer(*head)) << "the device has it";
    EXPECT_FALSE(ring.remove(*head));
    (void)ring.publish();
    serve(device);
    ASSERT_EQ(ring.poll(completion_), Poll::done);
    EXPECT_EQ(completion_.head, *head);
  }
  EXPECT_TRUE(ring.remove(*head));
  EXPECT_FALSE(ring.offer(*head));
  EXPECT_EQ(ring.free_descriptors(), 5);
}

TEST_F(PackedDriverRingTest, WhatTheDeviceDidNotWriteHasNoLength) {
  auto ring = make({.size = 5});
  auto device = this->device(ring, {.size = 5});
  ASSERT_TRUE(ring.add({}, std::array{segment(100)}, 7));
  (void)ring.publish();
  serve(device, 0);
  ASSERT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(completion_.written_bytes, 0u);
}

TEST_F(PackedDriverRingTest, AUsedIdThatItDidNotGiveBreaksIt) {
  for (const std::uint16_t lie : U16s{1, 5, 65535}) {
    auto ring = make({.size = 5});
    ASSERT_TRUE(ring.add({}, std::array{segment(100)}, 7));
    (void)ring.publish();
    slot(ring, 0) = {0, 0, lie, desc_available | desc_used};
    EXPECT_EQ(ring.poll(completion_), Poll::broken) << lie;
    EXPECT_EQ(ring.poll(completion_), Poll::broken);
    EXPECT_NE(ring.broken_because(), nullptr);
    EXPECT_EQ(ring.outstanding(), 1u);
    ring.reset();
    EXPECT_EQ(ring.outstanding(), 0u);
    EXPECT_EQ(ring.poll(completion_), Poll::empty);
    EXPECT_EQ(ring.free_descriptors(), 5);
  }
}

TEST_F(PackedDriverRingTest, AUsedIdComesOnce) {
  auto ring = make({.size = 5});
  ASSERT_TRUE(ring.add({}, std::array{segment(1)}, 7));
  ASSERT_TRUE(ring.add({}, std::array{segment(1)}, 8));
  (void)ring.publish();
  slot(ring, 0) = slot(ring, 1) = {0, 0, 0, desc_available | desc_used};
  EXPECT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(ring.poll(completion_), Poll::broken);
}

TEST_F(PackedDriverRingTest, OffersAgainWhatDidNotComeBackInItsOrder) {
  auto ring = make({.size = 7});
  auto device = this->device(ring, {.size = 7});
  const std::array parts{segment(1), segment(2)};
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(ring.add(parts, {}, i));
  (void)ring.publish();
  ASSERT_EQ(device.pop(chain_), Pop::ready);
  ASSERT_EQ(device.pop(chain_), Pop::ready);
  device.push(chain_.head, 0);  // the second before the first
  (void)device.publish();
  ASSERT_EQ(ring.poll(completion_), Poll::done);
  EXPECT_EQ(completion_.cookie, 1u);
  ASSERT_EQ(ring.poll(completion_), Poll::empty);

  ring.offer_again();
  EXPECT_EQ(ring.outstanding(), 2u);
  auto next = this->device(ring, {.size = 7}, ring.base_after_crash());
  for (const std::uint64_t cookie : {0u, 2u}) {
    serve(next);
    ASSERT_EQ(ring.poll(completion_), Poll::done);
    EXPECT_EQ(completion_.cookie, cookie);
  }
  EXPECT_EQ(next.pop(chain_), Pop::empty);
}

TEST_F(PackedDriverRingTest, KicksWhenTheNamedSlotIsPublished) {
  const RingOptions options{.size = 5, .event_idx = true};
  auto ring = make(options);
  auto device = this->device(ring, options);
  const std::array parts{segment(1), segment(2)};
  for (int i = 0; i < 30; ++i) {
    EXPECT_FALSE(device.arm_kick());
    ASSERT_TRUE(ring.add(parts, {}, 1));
    EXPECT_TRUE(ring.publish());
    ASSERT_TRUE(ring.add(std::span(parts).first(1), {}, 2));
    EXPECT_FALSE(ring.publish()) << "it asked for the first";
    device.disarm_kick();
    ASSERT_TRUE(ring.add(parts, {}, 3));
    EXPECT_FALSE(ring.publish());
    for (int k = 0; k < 3; ++k) serve(device);
    while (ring.poll(completion_) == Poll::done) {
    }
  }
}

TEST_F(PackedDriverRingTest, GivesItsMemoryBack) {
  memory_.release(data_);
  {
    auto ring = make({.size = 250, .indirect = 32});
    auto moved = std::move(ring);
  }
  EXPECT_TRUE(memory_.remove_region(0));
}

TEST_F(PackedDriverRingTest, LosesNeitherKickNorCallBetweenTwoThreads) {
  const RingOptions options{.size = 3, .event_idx = true};
  auto ring = make(options);
  auto device = this->device(ring, options);
  constexpr std::uint32_t rounds = 20'000;
  std::atomic<std::uint32_t> calls{0};
  std::atomic<std::uint32_t> kicks{0};
  std::thread device_thread([&] {
    std::uint32_t seen = 0;
    for (std::uint32_t i = 0; i < rounds; ++i) {
      while (device.pop(chain_) == Pop::empty) {
        if (device.arm_kick()) continue;
        while (kicks.load() == seen) std::this_thread::yield();  // so a kick must come
        seen = kicks.load();
      }
      device.push(chain_.head, 0);
      if (device.publish() == Notify::yes) ++calls;
    }
  });
  std::uint32_t seen = 0;
  for (std::uint32_t i = 0; i < rounds; ++i) {
    ASSERT_TRUE(ring.add(std::array{segment(1)}, {}, i));
    if (ring.publish()) ++kicks;
    if (!ring.arm_calls()) {  // so a call must come
      while (calls.load() == seen) std::this_thread::yield();
    }
    while (ring.poll(completion_) == Poll::empty) std::this_thread::yield();
    ASSERT_EQ(completion_.cookie, i);
    ring.disarm_calls();
    seen = calls.load();
  }
  device_thread.join();
}

/// A driver and a device of ours on either layout, through long random sequences.
class AnyDriverRingTest : public PackedDriverRingTest,
                          public testing::WithParamInterface<RingOptions> {};

TEST_P(AnyDriverRingTest, AgreesWithTheDeviceOverRandomSequences) {
  const RingOptions options = GetParam();
  auto driver = AnyDriverRing::create(memory_, options);
  ASSERT_TRUE(driver);
  EXPECT_EQ(driver->is_packed(), options.packed);
  const RingSetup start = setup(driver->addresses(0), options, driver->first_base());
  const auto run = [&](auto device) {
    std::mt19937 random(5);
    std::vector<std::uint16_t> popped;
    std::map<std::uint64_t, std::size_t> out;  // by cookie: how many pieces
    std::uint64_t cookie = 0;
    for (int step = 0; step < 60'000; ++step) {
      switch (random() % 5) {
        case 0: {
          const std::vector<Segment> parts(1 + random() % 6, segment(1));
          const std::size_t split = random() % (parts.size() + 1);
          const auto all = std::span(parts);
          if (driver->add(all.first(split), all.subspan(split), cookie)) {
            out[cookie++] = parts.size();
          }
          break;
        }
        case 1: (void)driver->publish(); break;
        case 2:
          if (device.pop(chain_) == Pop::ready) popped.push_back(chain_.head);
          break;
        case 3:
          if (random() % 2 == 0) (void)device.publish();
          if (popped.empty()) break;
          std::swap(popped[random() % popped.size()], popped.back());
          device.push(popped.back(), 1);
          popped.pop_back();
          break;
        default:
          while (driver->poll(completion_) == Poll::done) {
            ASSERT_EQ(out.erase(completion_.cookie), 1u);
          }
      }
      ASSERT_EQ(driver->broken_because(), nullptr);
      ASSERT_EQ(driver->outstanding(), out.size());
      ASSERT_FALSE(device.is_broken());
    }
    EXPECT_GT(cookie, 900u);
  };
  if (options.packed) {
    run(std::move(*PackedRing::create(start, map())));
  } else {
    run(std::move(*SplitRing::create(start, map())));
  }
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, AnyDriverRingTest,
    testing::Values(RingOptions{.size = 16}, RingOptions{.size = 16, .indirect = 4},
                    RingOptions{.size = 16, .packed = true}, RingOptions{.size = 7, .packed = true},
                    RingOptions{.size = 13, .event_idx = true, .indirect = 4, .packed = true},
                    RingOptions{.size = 1, .packed = true}),
    [](const auto& test) {
      return (test.param.packed ? "Packed" : "Split") + std::to_string(test.param.size) +
             (test.param.indirect != 0 ? "Indirect" : "");
    });

}  // namespace
}  // namespace vhost::frontend
