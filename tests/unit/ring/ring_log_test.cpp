#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/fakes/dirty_pages.hpp"
#include "tests/unit/ring/ring_fixture.hpp"

/* What a ring writes into the guest's memory is marked in the dirty log: all of it, and little
 * else. The memory is compared page by page with what it was. */
namespace vhost::tests {
namespace {

using fakes::DirtyPages;
using Pages = std::set<std::uint64_t>;
constexpr std::uint64_t page = DirtyLog::page_bytes;

Pages pages_of(std::uint64_t at, std::uint64_t bytes) {
  Pages pages;
  for (std::uint64_t i = at / page; bytes != 0 && i <= (at + bytes - 1) / page; ++i) {
    pages.insert(i);
  }
  return pages;
}

std::uint64_t used_area(const FakeSplitDriver& driver) {
  return driver.used_at();
}
std::uint64_t used_area(const FakePackedDriver& driver) {
  return driver.device_event_at();
}

template <class Driver>
class RingLogTest : public RingTest<Driver> {
 protected:
  using Ring = typename Driver::DeviceRing;

  explicit RingLogTest(DriverOptions options = {.size = 16, .event_idx = true})
      : RingTest<Driver>(options) {
    logged_ = std::make_shared<const MemoryMap>(this->map_->logged_in(pages_.map()));
  }

  /// A ring whose writes are logged, its own areas' too unless told otherwise.
  Ring make_logged(bool log_used = true) {
    RingSetup setup = this->driver_.setup();
    setup.log_used = log_used;
    setup.log_address = used_area(this->driver_);
    auto ring = Ring::create(setup, logged_);
    EXPECT_TRUE(ring);
    EXPECT_TRUE(pages_.take().empty()) << "it has written nothing";
    return std::move(*ring);
  }

  /// The whole of the guest's memory.
  [[nodiscard]] std::map<std::uint64_t, std::vector<std::byte>> snapshot() const {
    std::map<std::uint64_t, std::vector<std::byte>> all;
    for (const MemoryRegion& region : this->memory_.regions()) {
      const std::byte* const begin = this->memory_.at(region.guest_address);
      all[region.guest_address].assign(begin, begin + region.size_bytes);
    }
    return all;
  }
  [[nodiscard]] Pages changed_since(
      const std::map<std::uint64_t, std::vector<std::byte>>& before) const {
    Pages changed;
    for (const auto& [start, bytes] : before) {
      for (std::uint64_t at = 0; at < bytes.size(); at += page) {
        if (std::memcmp(bytes.data() + at, this->memory_.at(start + at), page) != 0) {
          changed.insert((start + at) / page);
        }
      }
    }
    return changed;
  }
  /// Pops one chain and fills what is writable in it.
  void pop_and_fill(Ring& ring) {
    ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
    for (const iovec& piece : this->chain_.writable()) {
      std::memset(piece.iov_base, 0xab, piece.iov_len);
    }
  }

  DirtyPages pages_{(GuestMemory::far + GuestMemory::far_bytes) / page / 8};
  std::shared_ptr<const MemoryMap> logged_;
};
TYPED_TEST_SUITE(RingLogTest, Drivers);

TYPED_TEST(RingLogTest, MarksTheDataAndTheRingWhenAChainIsShown) {
  auto ring = this->make_logged();
  this->driver_.add({{data_at, 100}, {data_at + page, 2 * page, true}});
  this->pop_and_fill(ring);
  EXPECT_TRUE(this->pages_.take().empty());
  ring.push(this->chain_.head, 2 * page);
  (void)ring.publish();
  Pages expected = pages_of(data_at + page, 2 * page);
  expected.merge(pages_of(used_area(this->driver_), 1));
  EXPECT_EQ(this->pages_.take(), expected) << "not what was only read";
}

TYPED_TEST(RingLogTest, MarksWhatCrossesARegionInBothOfThem) {
  auto ring = this->make_logged(false);
  this->driver_.add({{GuestMemory::high - 10, 20, true}, {GuestMemory::far, 1, true}});
  this->pop_and_fill(ring);
  ring.push(this->chain_.head, 21);
  (void)ring.publish();
  Pages expected = pages_of(GuestMemory::high - 10, 20);
  expected.merge(pages_of(GuestMemory::far, 1));
  EXPECT_EQ(this->pages_.take(), expected);
}

TYPED_TEST(RingLogTest, MarksAgainWhatTheFrontEndHasSeenMeanwhile) {
  auto ring = this->make_logged();
  for (int i = 0; i < 40; ++i) {
    this->driver_.add({{data_at, 1, true}});
    this->pop_and_fill(ring);
    ring.push(this->chain_.head, 1);
    (void)ring.publish();
    ASSERT_TRUE(this->pages_.take().contains(data_at / page));
    ASSERT_TRUE(this->driver_.take_used());
  }
}

TYPED_TEST(RingLogTest, MarksTheRingOnlyWhereThatIsAskedFor) {
  auto ring = this->make_logged(false);
  this->driver_.add({{data_at, 1, true}});
  this->pop_and_fill(ring);
  ring.push(this->chain_.head, 1);
  (void)ring.publish();
  EXPECT_EQ(this->pages_.take(), pages_of(data_at, 1));
  (void)ring.arm_kick();
  ring.disarm_kick();
  EXPECT_TRUE(this->pages_.take().empty());
}

TYPED_TEST(RingLogTest, MarksThatItAskedForKicks) {
  auto ring = this->make_logged();
  const Pages expected = pages_of(used_area(this->driver_), 1);
  EXPECT_FALSE(ring.arm_kick());
  EXPECT_EQ(this->pages_.take(), expected);
  ring.disarm_kick();
  EXPECT_EQ(this->pages_.take(), expected);
}

TYPED_TEST(RingLogTest, MarksNothingForAChainThatWasTakenBack) {
  auto ring = this->make_logged(false);
  this->driver_.add({{data_at, 1, true}});
  this->driver_.add({{data_at + page, 1, true}});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  const std::uint16_t first = this->chain_.head;
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  ring.unpop(this->chain_.head);
  ring.push(first, 1);
  (void)ring.publish();
  EXPECT_EQ(this->pages_.take(), pages_of(data_at, 1));
}

/// What a migration that failed leaves behind.
TYPED_TEST(RingLogTest, MarksNothingOnceTheLogIsTakenAwayAndAllWhenItIsBack) {
  auto ring = this->make_logged();
  const auto serve = [&] {
    this->driver_.add({{data_at, 1, true}});
    this->pop_and_fill(ring);
    ring.push(this->chain_.head, 1);
    (void)ring.publish();
    EXPECT_TRUE(this->driver_.take_used());
    return this->pages_.take().contains(data_at / page);
  };
  EXPECT_TRUE(serve());
  ASSERT_TRUE(ring.move_to(this->map_));
  EXPECT_FALSE(serve());
  ASSERT_TRUE(ring.move_to(this->logged_));
  EXPECT_TRUE(serve());
}

TYPED_TEST(RingLogTest, GoesOnInAnotherLogWithWhatIsInFlight) {
  auto ring = this->make_logged(false);
  this->driver_.add({{data_at, 1, true}});
  this->pop_and_fill(ring);
  DirtyPages other(this->pages_.bytes());
  ASSERT_TRUE(ring.move_to(std::make_shared<const MemoryMap>(this->map_->logged_in(other.map()))));
  ring.push(this->chain_.head, 1);
  (void)ring.publish();
  EXPECT_TRUE(this->pages_.take().empty());
  EXPECT_EQ(other.take(), pages_of(data_at, 1));
}

/// A log that ends before the ring's own, and before the buffers.
TYPED_TEST(RingLogTest, SurvivesALogThatIsTooShort) {
  const DirtyPages tiny(1);
  RingSetup setup = this->driver_.setup();
  setup.log_used = true;
  setup.log_address = UINT64_MAX - 1;
  auto ring = TestFixture::Ring::create(
      setup, std::make_shared<const MemoryMap>(this->map_->logged_in(tiny.map())));
  ASSERT_TRUE(ring);
  this->driver_.add({{data_at, 1, true}});
  this->pop_and_fill(*ring);
  ring->push(this->chain_.head, 1);
  (void)ring->publish();
  (void)ring->arm_kick();
  EXPECT_TRUE(this->driver_.take_used());
}

/// Random chains, served in any order, and the log cleared at any time.
TYPED_TEST(RingLogTest, EveryByteThatChangedLiesInAMarkedPage) {
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

/// The used ring is logged where the front-end says, which need not be where it is.
class SplitLogTest : public RingLogTest<FakeSplitDriver> {};

TEST_F(SplitLogTest, MarksTheUsedRingAtItsLogAddress) {
  RingSetup setup = driver_.setup();
  setup.log_used = true;
  setup.log_address = GuestMemory::far - page * 4 + page - 4;  // the elements are on the next page
  auto ring = SplitRing::create(setup, logged_);
  driver_.add({{data_at, 1}});
  ASSERT_EQ(ring->pop(chain_), Pop::ready);
  ring->push(chain_.head, 0);
  (void)ring->publish();
  const std::uint64_t first = GuestMemory::far / page - 4;
  EXPECT_EQ(pages_.take(), (Pages{first, first + 1}));
}

}  // namespace
}  // namespace vhost::tests
