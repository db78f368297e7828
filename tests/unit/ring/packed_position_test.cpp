#include <random>
#include <set>

#include "tests/unit/ring/ring_fixture.hpp"

/* Where a packed ring goes on, and how it comes round. */
namespace vhost::tests {
namespace {

TEST(PackedPosition, ComesRoundAfterTwiceTheRing) {
  for (const std::uint32_t size : {1u, 2u, 3u, 7u, 256u, 32767u, 32768u}) {
    PackedPosition position;
    std::set<std::uint16_t> seen;
    for (std::uint32_t i = 0; i < 2 * size; ++i) {
      EXPECT_TRUE(seen.insert(position.bits()).second);
      EXPECT_LT(position.index, size);
      EXPECT_EQ(position.ahead_of(PackedPosition{}, size), i);
      EXPECT_EQ(PackedPosition::of(position.bits()), position);
      position.advance(1, size);
    }
    EXPECT_EQ(position, PackedPosition{});
  }
}

TEST(PackedPosition, GoesBackWhereItCameFrom) {
  std::mt19937 random(3);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint32_t size = 1 + random() % 32768;
    const PackedPosition start{static_cast<std::uint16_t>(random() % size), random() % 2 == 0};
    const auto step = static_cast<std::uint32_t>(random() % (size + 1));
    PackedPosition position = start;
    position.advance(step, size);
    EXPECT_EQ(position.ahead_of(start, size), step);
    position.go_back(step, size);
    ASSERT_EQ(position, start);
  }
}

class PackedBaseTest : public PackedRingTest {
 protected:
  [[nodiscard]] Result<PackedRing> at(std::uint32_t base) {
    return PackedRing::create(driver_.setup(base), map_);
  }
  static std::uint32_t base_of(PackedPosition available, PackedPosition used) {
    return available.bits() | std::uint32_t{used.bits()} << 16;
  }
};

TEST_F(PackedBaseTest, GoesOnAtEveryPositionInBothLaps) {
  for (const bool wrap : {true, false}) {
    for (std::uint16_t index = 0; index < 8; ++index) {
      GuestMemory memory;
      FakePackedDriver driver(memory);
      const std::uint32_t base = driver.start_at({index, wrap});
      auto ring = PackedRing::create(driver.setup(base), memory.map());
      ASSERT_TRUE(ring);
      EXPECT_EQ(ring->base(), base);
      for (int i = 0; i < 40; ++i) {  // chains of one to five, over all ends
        std::vector<Buffer> buffers(1 + static_cast<std::size_t>(i) % 5, Buffer{data_at, 1, true});
        const auto id = driver.add(buffers);
        ASSERT_EQ(ring->pop(chain_), Pop::ready) << index << wrap << i;
        ASSERT_EQ(chain_.writable().size(), buffers.size());
        ring->push(chain_.head, 1);
        (void)ring->publish();
        ASSERT_EQ(driver.take_used()->id, id);
      }
      EXPECT_EQ(ring->base() & 0xffff, driver.next().bits());
      EXPECT_EQ(ring->base() >> 16, driver.next().bits());
    }
  }
}

TEST_F(PackedBaseTest, TakesTheLowHalfForBothWhereTheHighOneIsMissing) {
  for (const std::uint32_t low : {0x8000u, 0x8003u, 0x0005u, 0x0000u}) {
    const auto ring = at(low);
    ASSERT_TRUE(ring);
    EXPECT_EQ(ring->base(), low | low << 16);
  }
}

TEST_F(PackedBaseTest, KeepsPositionsThatAreApart) {
  for (const std::uint32_t base : {base_of({3, true}, {1, true}), base_of({1, false}, {6, true}),
                                   base_of({5, false}, {5, true})}) {
    const auto ring = at(base);
    ASSERT_TRUE(ring);
    EXPECT_EQ(ring->base(), base);
  }
}

TEST_F(PackedBaseTest, TakesAUsedPositionThatCannotBeForTheAvailableOne) {
  for (const std::uint32_t base : {base_of({1, true}, {3, true}), base_of({6, true}, {5, false}),
                                   base_of({3, true}, {3 + 4, true})}) {
    const auto ring = at(base);
    ASSERT_TRUE(ring);
    EXPECT_EQ(ring->base(), (base & 0xffff) | base << 16);
  }
}

TEST_F(PackedBaseTest, RefusesAPositionBehindTheRingsEnd) {
  EXPECT_TRUE(at(base_of({7, true}, {7, true})));
  EXPECT_FALSE(at(base_of({8, true}, {8, true})));
  EXPECT_FALSE(at(base_of({8, true}, {7, true})));
  EXPECT_FALSE(at(0x7fff));
}

TEST_F(PackedBaseTest, HasAnySizeUpTo32768) {
  for (const std::uint16_t size : U16s{1, 2, 3, 5, 100, 255, 257, 1000, 32767, 32768}) {
    GuestMemory memory;
    FakePackedDriver driver(memory, {.size = size});
    auto ring = PackedRing::create(driver.setup(), memory.map());
    ASSERT_TRUE(ring) << size;
    EXPECT_EQ(ring->size(), size);
    for (std::uint32_t i = 0; i < 2u * size + 3; ++i) {
      driver.add({{data_at, 1}});
      ASSERT_EQ(ring->pop(chain_), Pop::ready) << size << " at " << i;
      ring->push(chain_.head, 0);
      (void)ring->publish();
      ASSERT_TRUE(driver.take_used());
    }
  }
}

TEST_F(PackedBaseTest, RefusesOtherSizes) {
  for (const std::uint16_t size : U16s{0, 32769, 65535}) {
    RingSetup setup = driver_.setup();
    setup.size = size;
    EXPECT_FALSE(PackedRing::create(setup, map_)) << size;
  }
}

TEST_F(PackedBaseTest, RefusesAnyAreaThatIsNotThere) {
  constexpr std::uint64_t end = GuestMemory::frontend_low + GuestMemory::low_bytes;
  RingSetup setup = driver_.setup();
  setup.descriptors = FrontendAddress{end - 8 * sizeof(PackedDesc)};
  setup.available = setup.used = FrontendAddress{end - 4};
  EXPECT_TRUE(PackedRing::create(setup, map_));
  for (const auto part : {&RingSetup::descriptors, &RingSetup::available, &RingSetup::used}) {
    RingSetup bad = setup;
    bad.*part = FrontendAddress{std::to_underlying(setup.*part) + 4};
    EXPECT_FALSE(PackedRing::create(bad, map_));
  }
}

TEST_F(PackedBaseTest, RefusesARingWhoseDescriptorsAreNotAligned) {
  RingSetup setup = driver_.setup();
  setup.descriptors = FrontendAddress{std::to_underlying(setup.descriptors) + 8};
  setup.available = setup.used = FrontendAddress{std::to_underlying(setup.used) + 0x100};
  EXPECT_TRUE(PackedRing::create(setup, map_));
  setup.descriptors = FrontendAddress{std::to_underlying(setup.descriptors) - 4};
  EXPECT_FALSE(PackedRing::create(setup, map_));
}

TEST_F(PackedBaseTest, RefusesEventAreasThatAreNotAligned) {
  for (const auto part : {&RingSetup::available, &RingSetup::used}) {
    RingSetup bad = driver_.setup();
    bad.*part = FrontendAddress{std::to_underlying(bad.*part) + 2};
    EXPECT_FALSE(PackedRing::create(bad, map_));
  }
}

}  // namespace
}  // namespace vhost::tests
