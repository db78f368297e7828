#include <array>
#include <atomic>
#include <functional>
#include <random>
#include <thread>

#include "tests/unit/ring/ring_fixture.hpp"

/* A guest that rewrites its descriptors while they are read. */
namespace vhost::tests {
namespace {

/// Pops from new rings for a second while `rewrite` changes what they read: all that comes out is
/// guest memory, and both outcomes come.
template <class Test>
class DoubleFetchTest : public Test {
 protected:
  void expect_memory_only(const std::function<void(std::minstd_rand&)>& rewrite) {
    std::atomic<bool> stop = false;
    std::thread mutator([&] {
      std::minstd_rand random(5);
      while (!stop.load(std::memory_order_relaxed)) rewrite(random);
    });
    int ready = 0;
    int broken = 0;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (std::chrono::steady_clock::now() < until) {
      auto ring = this->make();
      std::array<Single, 2> singles;
      const std::size_t count = ring.pop_singles(singles);
      for (const Single& single : std::span(singles).first(count)) {
        ASSERT_TRUE(inside({single.begin, single.bytes}));
      }
      const Pop answer = ring.pop(this->chain_);
      if (answer == Pop::broken) ++broken;
      if (answer != Pop::ready) continue;
      ++ready;
      for (const iovec& piece : this->chain_.readable()) ASSERT_TRUE(inside(piece));
      for (const iovec& piece : this->chain_.writable()) ASSERT_TRUE(inside(piece));
    }
    stop = true;
    mutator.join();
    EXPECT_GT(ready, 0);
    EXPECT_GT(broken, 0);
  }

 private:
  [[nodiscard]] bool inside(const iovec& piece) const {
    MemoryMap::Hint hint;
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    for (const MemoryRegion& region : this->memory_.regions()) {
      const auto all =
          this->map_->prefix(GuestAddress{region.guest_address}, region.size_bytes, hint);
      if (begin >= all.data() && piece.iov_len <= all.size() &&
          begin <= all.data() + all.size() - piece.iov_len) {
        return true;
      }
    }
    return false;
  }
};
using SplitDoubleFetchTest = DoubleFetchTest<SplitRingTest>;
using PackedDoubleFetchTest = DoubleFetchTest<PackedRingTest>;

constexpr std::uint64_t table_at = data_at + 0x10000;
constexpr std::array<std::uint64_t, 6> some_addresses{
    data_at, GuestMemory::high - 32, GuestMemory::far, 0xdead0000, UINT64_MAX - 8, table_at};
constexpr std::array<std::uint32_t, 6> some_lengths{0,       16,         64,
                                                    0x10000, UINT32_MAX, UINT32_MAX - 15};
constexpr std::array<std::uint16_t, 8> some_flags{0, 1, 2, 3, 4, 5, 4, 1};

TEST_F(SplitDoubleFetchTest, PointsOnlyIntoGuestMemoryWhateverIsRewrittenMeanwhile) {
#if defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "the race is the test";
#endif
  const std::vector<Buffer> buffers(4, Buffer{data_at, 64, true});
  driver_.write_table(buffers, table_at);
  driver_.descriptor(0, {data_at, 64, desc_next, 1});
  driver_.descriptor(1, {table_at, 64, desc_indirect, 0});
  driver_.avail_entry(0, 0);
  driver_.avail_idx(1);
  auto* direct = reinterpret_cast<volatile SplitDesc*>(memory_.at(driver_.descriptors_at()));
  auto* table = reinterpret_cast<volatile SplitDesc*>(memory_.at(table_at));
  expect_memory_only([&](std::minstd_rand& random) {
    volatile SplitDesc& victim = random() % 2 == 0 ? direct[random() % 2] : table[random() % 4];
    switch (random() % 4) {
      case 0: victim.addr = some_addresses[random() % 6]; break;
      case 1: victim.length = some_lengths[random() % 6]; break;
      case 2: victim.flags = some_flags[random() % 8]; break;
      default: victim.next = static_cast<std::uint16_t>(random() % 4 == 0 ? 60000 : random() % 4);
    }
  });
}

TEST_F(PackedDoubleFetchTest, PointsOnlyIntoGuestMemoryWhateverIsRewrittenMeanwhile) {
#if defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "the race is the test";
#endif
  const std::vector<Buffer> buffers(4, Buffer{data_at, 64, true});
  driver_.write_table(buffers, table_at);
  auto* direct = reinterpret_cast<volatile PackedDesc*>(memory_.at(driver_.descriptors_at()));
  auto* table = reinterpret_cast<volatile PackedDesc*>(memory_.at(table_at));
  expect_memory_only([&](std::minstd_rand& random) {
    const bool in_ring = random() % 2 == 0;
    volatile PackedDesc& victim = in_ring ? direct[random() % 3] : table[random() % 4];
    switch (random() % 4) {
      case 0: victim.addr = some_addresses[random() % 6]; break;
      case 1: victim.length = some_lengths[random() % 6]; break;
      case 2:
        victim.flags = static_cast<std::uint16_t>(some_flags[random() % 8] |
                                                  (in_ring ? desc_available : std::uint16_t{0}));
        break;
      default: victim.id = static_cast<std::uint16_t>(random() % 4 == 0 ? 60000 : random() % 4);
    }
  });
}

}  // namespace
}  // namespace vhost::tests
