#include <algorithm>
#include <random>

#include "tests/unit/ring/ring_log_fixture.hpp"

/* What a ring writes into the guest's memory is marked in the dirty log: all of it, and little
 * else. The memory is compared page by page with what it was. */
namespace vhost::tests {
namespace {

template <class Driver>
class RingLogModelTest : public RingLogTest<Driver> {};
TYPED_TEST_SUITE(RingLogModelTest, Drivers);

/// Random chains, served in any order, and the log cleared at any time.
TYPED_TEST(RingLogModelTest, EveryByteThatChangedLiesInAMarkedPage) {
  struct Taken {
    std::uint16_t head = 0;
    std::vector<iovec> writable;
    Pages may;  // be marked when it is shown
  };
  auto ring = this->make_logged();
  std::mt19937 random(11);
  std::map<std::uint16_t, Pages> writable_of;
  std::vector<Taken> popped;
  Pages own = pages_of(this->driver_.descriptors_at(), 16 * sizeof(SplitDesc));
  own.merge(pages_of(used_area(this->driver_), 16 * sizeof(UsedElem) + 6));
  bool on = true;
  std::size_t shown = 0;
  std::uint64_t tables = 0;
  for (int round = 0; round < 1500; ++round) {
    // The driver's turn.
    while (this->driver_.take_used()) {
    }
    for (std::size_t free = this->driver_.free_descriptors(); free > 0 && random() % 4 != 0;
         free = this->driver_.free_descriptors()) {
      std::vector<Buffer> buffers;
      Pages may;
      const std::size_t count = 1 + random() % std::min<std::size_t>(free, 4);
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t places[] = {data_at + random() % (1 << 19),
                                        GuestMemory::high - random() % 6000,
                                        GuestMemory::far + random() % 40'000};
        const auto length = static_cast<std::uint32_t>(1 + random() % 9000);
        const bool writable = i > 0 || random() % 2 == 0;
        buffers.push_back({places[random() % 3], length, writable});
        if (!writable) continue;
        may.merge(pages_of(buffers.back().address, length));
      }
      // A readable one must not come behind a writable one.
      std::ranges::stable_sort(buffers, {}, &Buffer::writable);
      const std::uint64_t table = data_at + (1 << 19) + (1 << 15) + tables++ % 64 * 256;
      const auto id = random() % 3 == 0 ? this->driver_.add_indirect(buffers, table)
                                        : this->driver_.add(buffers);
      writable_of[id] = std::move(may);
    }

    // The front-end's: sometimes it stops logging, which it may do only between two chains.
    if (popped.empty() && random() % 8 == 0) {
      on = !on;
      ASSERT_TRUE(ring.move_to(on ? this->logged_ : this->map_));
    }

    // The device's.
    const auto before = this->snapshot();
    Pages allowed = own;
    Pages owed;
    for (int step = 0; step < 6; ++step) {
      switch (random() % 5) {
        case 0: {
          if (ring.pop(this->chain_) != Pop::ready) break;
          const auto pieces = this->chain_.writable();
          popped.push_back(
              {this->chain_.head, {pieces.begin(), pieces.end()}, writable_of[this->chain_.head]});
          break;
        }
        case 1: {
          std::array<Single, 3> singles{};
          const std::size_t count = ring.pop_singles(singles);
          for (const Single& one : std::span(singles).first(count)) {
            Taken taken{one.head, {}, writable_of[one.head]};
            if (one.writable) taken.writable = {{one.begin, one.bytes}};
            popped.push_back(std::move(taken));
          }
          break;
        }
        case 2: {
          if (popped.empty()) break;
          std::swap(popped[random() % popped.size()], popped.back());
          Taken taken = std::move(popped.back());
          popped.pop_back();
          for (const iovec& piece : taken.writable) {
            if (random() % 4 != 0) std::memset(piece.iov_base, round, piece.iov_len);
          }
          ring.push(taken.head, 1);
          allowed.merge(taken.may);
          ++shown;
          break;
        }
        case 3: (void)ring.publish(); break;
        default: (void)ring.arm_kick(); ring.disarm_kick();
      }
    }
    (void)ring.publish();
    const Pages marked = this->pages_.take();
    if (!on) {
      ASSERT_TRUE(marked.empty());
      continue;
    }
    for (const std::uint64_t one : this->changed_since(before)) {
      ASSERT_TRUE(marked.contains(one)) << "page " << one << " in round " << round;
    }
    for (const std::uint64_t one : marked) {
      ASSERT_TRUE(allowed.contains(one)) << "page " << one << " in round " << round;
    }
  }
  EXPECT_GT(shown, 1000u);
}

/// A driver for which the ring lies on several pages.
template <class Driver>
class LongRingLogTest : public RingLogTest<Driver> {
 protected:
  LongRingLogTest() : RingLogTest<Driver>({.size = 2048, .event_idx = true}) {}
};
using LongDrivers = testing::Types<FakeSplitDriver, FakePackedDriver>;
TYPED_TEST_SUITE(LongRingLogTest, LongDrivers);

TYPED_TEST(LongRingLogTest, EveryPageOfTheRingThatChangedIsMarkedAndNoOther) {
  auto ring = this->make_logged();
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const std::size_t count = 1 + random() % 900;
    for (std::size_t i = 0; i < count; ++i) this->driver_.add({{data_at, 1, false}});
    const auto before = this->snapshot();
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
      ring.push(this->chain_.head, 0);
    }
    (void)ring.publish();
    // A page may be marked where a written byte happens to be what it was.
    const Pages marked = this->pages_.take();
    const Pages changed = this->changed_since(before);
    ASSERT_TRUE(std::ranges::includes(marked, changed)) << "round " << round;
    ASSERT_LE(marked.size(), changed.size() + 1) << "round " << round;
    while (this->driver_.take_used()) {
    }
  }
}

}  // namespace
}  // namespace vhost::tests
