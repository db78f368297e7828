#include <atomic>
#include <random>
#include <thread>

#include "tests/unit/ring/ring_fixture.hpp"

/* A guest that rewrites its descriptors while they are read. */
namespace vhost::tests {
namespace {

TEST_F(SplitRingTest, PointsOnlyIntoGuestMemoryWhateverIsRewrittenMeanwhile) {
#if defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "the race is the test";
#endif
  constexpr std::uint64_t table_at = data_at + 0x10000;
  const std::vector<Buffer> buffers(4, Buffer{data_at, 64, true});
  driver_.write_table(buffers, table_at);
  driver_.descriptor(0, {data_at, 64, desc_next, 1});
  driver_.descriptor(1, {table_at, 64, desc_indirect, 0});

  const auto inside = [&](const iovec& piece) {
    MemoryMap::Hint hint;
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    for (const MemoryRegion& region : memory_.regions()) {
      const auto all = map_->prefix(GuestAddress{region.guest_address}, region.size_bytes, hint);
      if (begin >= all.data() && piece.iov_len <= all.size() &&
          begin <= all.data() + all.size() - piece.iov_len) {
        return true;
      }
    }
    return false;
  };

  std::atomic<bool> stop = false;
  std::thread mutator([&] {
    const std::uint64_t addresses[] = {data_at,    GuestMemory::high - 32, GuestMemory::far,
                                       0xdead0000, UINT64_MAX - 8,         table_at};
    const std::uint32_t lengths[] = {0, 16, 64, 0x10000, UINT32_MAX, UINT32_MAX - 15};
    const std::uint16_t flags[] = {0, 1, 2, 3, 4, 5, 4, 1};
    auto* direct = reinterpret_cast<volatile SplitDesc*>(memory_.at(driver_.descriptors_at()));
    auto* table = reinterpret_cast<volatile SplitDesc*>(memory_.at(table_at));
    std::minstd_rand random(5);
    while (!stop.load(std::memory_order_relaxed)) {
      volatile SplitDesc& victim = random() % 2 == 0 ? direct[random() % 2] : table[random() % 4];
      switch (random() % 4) {
        case 0: victim.addr = addresses[random() % 6]; break;
        case 1: victim.length = lengths[random() % 6]; break;
        case 2: victim.flags = flags[random() % 8]; break;
        default: victim.next = static_cast<std::uint16_t>(random() % 4 == 0 ? 60000 : random() % 4);
      }
    }
  });

  driver_.avail_entry(0, 0);
  driver_.avail_idx(1);
  int ready = 0;
  int broken = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (std::chrono::steady_clock::now() < until) {
    SplitRing ring = make();
    const Pop answer = ring.pop(chain_);
    if (answer == Pop::broken) ++broken;
    if (answer != Pop::ready) continue;
    ++ready;
    for (const iovec& piece : chain_.readable()) ASSERT_TRUE(inside(piece));
    for (const iovec& piece : chain_.writable()) ASSERT_TRUE(inside(piece));
  }
  stop = true;
  mutator.join();
  EXPECT_GT(ready, 0);
  EXPECT_GT(broken, 0);
}

}  // namespace
}  // namespace vhost::tests
