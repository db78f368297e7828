#include "tests/unit/ring/ring_log_fixture.hpp"

/* When, and where, a ring marks what it writes in the dirty log. */
namespace vhost::tests {
namespace {

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

TYPED_TEST(RingLogTest, MarksNoFurtherThanTheDeviceSaysThatItWrote) {
  auto ring = this->make_logged(false);
  const auto marked = [&](std::uint32_t touched) {
    this->driver_.add({{data_at, page}, {data_at + page, 2 * page, true}});
    EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
    ring.push(this->chain_.head, 0, touched);
    (void)ring.publish();
    EXPECT_TRUE(this->driver_.take_used());
    return this->pages_.take();
  };
  EXPECT_EQ(marked(0), Pages{});
  EXPECT_EQ(marked(page), pages_of(data_at + page, page));
  EXPECT_EQ(marked(page + 1), pages_of(data_at + page, 2 * page));
  EXPECT_EQ(marked(everywhere), pages_of(data_at + page, 2 * page));
}

TYPED_TEST(RingLogTest, CountsWhatTheDeviceWroteOverAllPieces) {
  auto ring = this->make_logged(false);
  const auto marked = [&](std::uint32_t touched) {
    this->driver_.add({{data_at, 10, true}, {data_at + page, 10, true}});
    EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
    ring.push(this->chain_.head, touched, touched);
    (void)ring.publish();
    EXPECT_TRUE(this->driver_.take_used());
    return this->pages_.take();
  };
  EXPECT_EQ(marked(10), pages_of(data_at, 1));
  EXPECT_EQ(marked(11), pages_of(data_at, 2 * page));
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

/// Half of an answer may be in it.
TYPED_TEST(RingLogTest, MarksWhatIsLeftInFlight) {
  auto ring = this->make_logged(false);
  this->driver_.add({{data_at, 1}, {data_at + page, page, true}});
  this->driver_.add({{data_at + 5 * page, 1, true}});
  this->pop_and_fill(ring);
  ring.leave();
  EXPECT_EQ(this->pages_.take(), pages_of(data_at + page, page)) << "not what was not popped";
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

/// Behind an IOMMU that moves every address by this much.
constexpr std::uint64_t moved_by = std::uint64_t{1} << 40;

std::vector<std::uint64_t> areas(const FakeSplitDriver& driver) {
  return {driver.descriptors_at(), driver.available_at(), driver.used_at()};
}
std::vector<std::uint64_t> areas(const FakePackedDriver& driver) {
  return {driver.descriptors_at(), driver.driver_event_at(), driver.device_event_at()};
}

/// What is written is found in the guest's memory, whatever the driver calls it.
TYPED_TEST(RingLogTest, MarksTheGuestsPagesWhereAnIommuTranslates) {
  const auto iotlb = *Iotlb::create(1);
  iotlb->move_to(*this->logged_);
  for (const MemoryRegion& region : this->memory_.regions()) {
    ASSERT_TRUE(iotlb->add({GuestAddress{region.guest_address + moved_by}, region.size_bytes,
                            FrontendAddress{region.frontend_address}, Access::both}));
  }
  RingSetup setup = this->driver_.setup();
  const auto at = areas(this->driver_);
  setup.descriptors = FrontendAddress{at[0] + moved_by};
  setup.available = FrontendAddress{at[1] + moved_by};
  setup.used = FrontendAddress{at[2] + moved_by};
  setup.iova = setup.log_used = true;
  setup.log_address = at[2] + moved_by;
  setup.ledger = std::make_shared<Ledger>();
  iotlb->join(0, setup.ledger);
  auto ring = TestFixture::Ring::create(
      setup, std::make_shared<const MemoryMap>(this->logged_->translated_by(iotlb)));
  ASSERT_TRUE(ring);

  this->driver_.add({{data_at + moved_by, 1}, {data_at + page + moved_by, 5000, true}});
  this->pop_and_fill(*ring);
  ring->push(this->chain_.head, 5000);
  (void)ring->publish();
  Pages expected = pages_of(data_at + page, 5000);
  expected.merge(pages_of(at[2], 1));
  expected.merge(pages_of(at[0], 1));  // of a packed ring
  const Pages marked = this->pages_.take();
  EXPECT_TRUE(std::ranges::includes(expected, marked));
  EXPECT_TRUE(std::ranges::includes(marked, pages_of(data_at + page, 5000)));
  EXPECT_TRUE(marked.contains(at[2] / page));
  EXPECT_FALSE(ring->arm_kick());
  EXPECT_EQ(this->pages_.take(), pages_of(at[2], 1));
  iotlb->join(0, nullptr);
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
