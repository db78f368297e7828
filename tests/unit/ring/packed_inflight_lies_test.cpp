#include <random>

#include "tests/unit/ring/packed_inflight_fixture.hpp"

/* What a front-end may write into a packed ring's inflight section. */
namespace vhost::tests {
namespace {

TEST_F(PackedInflightTest, RefusesAnotherVersionAndAnotherSize) {
  (void)start();
  header().version = 2;
  EXPECT_FALSE(starts());
  header().version = 1;
  for (const std::uint16_t lie : U16s{0, odd_size - 1, odd_size + 1, 65535}) {
    header().desc_num = lie;
    EXPECT_FALSE(starts()) << lie;
  }
  header().desc_num = odd_size;
  EXPECT_TRUE(starts());
}

TEST_F(PackedInflightTest, RefusesAPositionBehindTheRing) {
  (void)start();
  for (const std::uint16_t lie : U16s{odd_size, 32768, 65535}) {
    header().used_idx = header().old_used_idx = lie;
    EXPECT_FALSE(starts()) << lie;
    header().used_idx = 0;  // it may be the one to look at
    EXPECT_FALSE(starts()) << lie;
  }
}

TEST_F(PackedInflightTest, RefusesMarksThatAreNoChains) {
  add(3);
  {
    PackedRing ring = start();
    pop(ring, 3);
  }
  const Bytes good(region_->bytes().begin(), region_->bytes().end());
  const auto refuses = [&](const auto& lie) {
    std::ranges::copy(good, region_->bytes().begin());
    EXPECT_TRUE(starts());
    std::ranges::copy(good, region_->bytes().begin());
    lie();
    EXPECT_FALSE(starts());
  };
  refuses([&] { entry(0).num = 0; });
  refuses([&] { entry(0).num = odd_size; });
  refuses([&] { entry(0).num = 65535; });
  refuses([&] { entry(1).next = 1; });
  refuses([&] { entry(1).next = odd_size; });
  refuses([&] { entry(1).next = 65535; });
  refuses([&] { entry(4).next = 0; });
  refuses([&] { entry(2).inflight = 1; });
}

TEST_F(PackedInflightTest, RefusesMoreMarksThanTheRingHasDescriptors) {
  constexpr std::uint16_t longer = 2 * odd_size;
  auto region = make_inflight_region(1, longer);
  region_ = std::make_shared<const Mapping>(
      std::move(*Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes)));
  const auto starts_in = [&] {
    return PackedRing::create(driver_.setup(), map_, {region_, region_->bytes(), longer})
        .has_value();
  };
  ASSERT_TRUE(starts_in());
  for (std::uint16_t i = 0; i < odd_size; ++i) entry(i).inflight = 1, entry(i).num = 1;
  EXPECT_TRUE(starts_in());
  entry(odd_size).inflight = 1;
  entry(odd_size).num = 1;
  EXPECT_FALSE(starts_in());
}

TEST_F(PackedInflightTest, EndsOnALoopInTheLastBatch) {
  const Ids ids = add(2);
  PackedRing first = start();
  pop(first, 2);
  first.push(ids[0], 0);
  (void)first.publish();
  header().free_head = 0;
  header().old_free_head = 9;
  entry(0).next = 0;
  header().old_used_idx = 0;
  PackedRing second = start();
  EXPECT_EQ(drain(second), Ids{ids[1]});
}

TEST_F(PackedInflightTest, BreaksOnAnOwedIdThatIsNone) {
  const Ids ids = add(2);
  (void)start();
  for (const std::uint16_t lie : U16s{odd_size, 65535}) {
    PackedRing first = start();
    if (!first.owes()) pop(first, 2);
    entry(0).id = lie;
    PackedRing second = start();
    EXPECT_EQ(second.pop(chain_), Pop::broken) << lie;
    EXPECT_FALSE(second.owes()) << "a broken ring can be stopped";
  }
  entry(0).id = ids[1];  // twice
  PackedRing ring = start();
  EXPECT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(PackedInflightTest, OnlyAOneIsAMark) {
  (void)start();
  for (std::uint16_t i = 0; i < odd_size; ++i) {
    entry(i).inflight = static_cast<std::uint8_t>(i + 2);
  }
  EXPECT_FALSE(start().owes());
}

TEST_F(PackedInflightTest, SurvivesRandomBytesInTheRegion) {
  std::mt19937 random(3);
  add(3);
  for (int round = 0; round < 3000; ++round) {
    const auto some = 1u << random() % 9;
    for (std::byte& byte : region_->bytes()) {
      byte = random() % some == 0 ? static_cast<std::byte>(random() % 3) : std::byte{0};
    }
    header().version = 1;
    header().desc_num = odd_size;
    auto ring = PackedRing::create(driver_.setup(), map_, section());
    if (!ring) continue;
    for (int i = 0; i < 40 && ring->pop(chain_) == Pop::ready; ++i) {
      ASSERT_LT(chain_.head, odd_size);
      ring->push(chain_.head, 0);
    }
    (void)ring->publish();
  }
}

TEST_F(PackedInflightTest, SectionsOfARegionDoNotShareCacheLines) {
  EXPECT_EQ(packed_inflight_section_bytes(1), 64u);
  EXPECT_EQ(packed_inflight_section_bytes(2), 128u);
  EXPECT_EQ(packed_inflight_section_bytes(32768) % 64, 0u);
}

}  // namespace
}  // namespace vhost::tests
