#include "tests/unit/ring/inflight_fixture.hpp"
#include "tests/unit/ring/translated_ring.hpp"

/* What was popped and not used goes back, as if it had never been popped. */
namespace vhost::tests {
namespace {

template <class Driver>
class RingUnpopTest : public RingTest<Driver> {};
TYPED_TEST_SUITE(RingUnpopTest, AllDrivers);

TYPED_TEST(RingUnpopTest, GivesTheChainAgain) {
  const U16s heads = this->add(2);
  auto ring = this->make();
  this->pop(ring, 1);
  ring.unpop(heads[0]);
  EXPECT_EQ(this->pop(ring, 2), heads);
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
}

TYPED_TEST(RingUnpopTest, GivesSeveralAgainInTheDriversOrder) {
  const U16s heads = this->add(4);
  auto ring = this->make();
  this->pop(ring, 4);
  for (const int newest : {3, 2, 1}) ring.unpop(heads[static_cast<std::size_t>(newest)]);
  EXPECT_EQ(this->pop(ring, 3), (U16s{heads[1], heads[2], heads[3]}));
}

TYPED_TEST(RingUnpopTest, CountsItAsNeverPopped) {
  const U16s heads = this->add(3);
  auto ring = this->make();
  this->pop(ring, 3);
  ring.unpop(heads[2]);
  EXPECT_EQ(ring.in_flight(), 2u);
  EXPECT_EQ(ring.base(), this->driver_.base_after(2));
  ring.unpop(heads[1]);
  EXPECT_EQ(ring.in_flight(), 1u);
  EXPECT_EQ(ring.base(), this->driver_.base_after(1));
}

TYPED_TEST(RingUnpopTest, ShowsTheDriverNothing) {
  const U16s heads = this->add(1);
  auto ring = this->make();
  this->pop(ring, 1);
  ring.unpop(heads[0]);
  EXPECT_EQ(ring.publish(), Notify::no);
  EXPECT_FALSE(this->driver_.take_used());
}

TYPED_TEST(RingUnpopTest, LeavesAloneWhatWasPushedBefore) {
  const U16s heads = this->add(3);
  auto ring = this->make();
  this->pop(ring, 3);
  ring.push(heads[0], 5);
  ring.unpop(heads[2]);
  ring.push(heads[1], 6);
  (void)ring.publish();
  EXPECT_EQ(this->driver_.take_used()->id, heads[0]);
  EXPECT_EQ(this->driver_.take_used()->id, heads[1]);
  EXPECT_FALSE(this->driver_.take_used());
  EXPECT_EQ(this->pop(ring, 1), U16s{heads[2]});
}

TYPED_TEST(RingUnpopTest, StepsBackOverTheEndOfThePositions) {
  const std::uint32_t base = this->driver_.start_at_the_end();
  const U16s heads = this->add(3);
  auto ring = this->make(base);
  this->pop(ring, 3);
  for (const int newest : {2, 1, 0}) ring.unpop(heads[static_cast<std::size_t>(newest)]);
  EXPECT_EQ(ring.base(), base);
  EXPECT_EQ(this->pop(ring, 3), heads);
}

TYPED_TEST(RingUnpopTest, IsNotSleptOver) {
  const U16s heads = this->add(1);
  auto ring = this->make();
  this->pop(ring, 1);
  EXPECT_FALSE(ring.arm_kick());
  ring.unpop(heads[0]);
  EXPECT_TRUE(ring.arm_kick());
}

TYPED_TEST(RingUnpopTest, ServesARingThatIsFullOver10000TimesWithoutLoss) {
  const U16s heads = this->add(8);
  auto ring = this->make();
  for (int round = 0; round < 10'000; ++round) {
    ASSERT_EQ(this->pop(ring, 8), heads);
    ASSERT_EQ(ring.pop(this->chain_), Pop::empty);
    for (std::size_t i = heads.size(); i-- > 0;) ring.unpop(heads[i]);
  }
  EXPECT_EQ(ring.in_flight(), 0u);
}

TYPED_TEST(RingUnpopTest, IsHarmlessOnARingWithoutItsRegion) {
  const U16s heads = this->add(2);
  auto ring = this->make();
  this->pop(ring, 2);
  EXPECT_FALSE(ring.move_to(this->memory_.map({1, 2})));
  ring.unpop(heads[1]);
  EXPECT_EQ(ring.in_flight(), 1u);
  EXPECT_EQ(ring.base(), this->driver_.base_after(1))
      << "a new start goes on with the chain that was given back";
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
}

// ---------------------------------------------------------------- a driver that breaks the rules

TEST_F(SplitRingTest, UnpopsTheHeadThatWasPoppedWhateverTheDriverWroteSince) {
  const auto first = driver_.add({{data_at, 1}});
  const auto second = driver_.add({{data_at, 2}});
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  driver_.avail_entry(1, first);
  ring.unpop(second);
  EXPECT_EQ(ring.pop(chain_), Pop::broken) << "the first is still in flight";
  EXPECT_EQ(ring.in_flight(), 1u);
}

TEST_F(SplitRingTest, BreaksOnMoreThanTheRingHoldsAfterAnUnpop) {
  const auto head = driver_.add({{data_at, 1}});
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  driver_.avail_idx(9);
  ring.unpop(head);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

// ---------------------------------------------------------------- with an inflight section

TEST_F(InflightTest, OwesNothingThatWasUnpopped) {
  const U16s heads = add(3);
  SplitRing first = start();
  pop(first, 3);
  first.unpop(heads[2]);
  first.unpop(heads[1]);
  EXPECT_EQ(entry(heads[0]).inflight, 1);
  EXPECT_EQ(entry(heads[1]).inflight, 0);
  EXPECT_EQ(entry(heads[2]).inflight, 0);
  SplitRing second = start();
  EXPECT_EQ(pop(second, 1), U16s{heads[0]});
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(drain(second), (U16s{heads[1], heads[2]})) << "each once";
}

TEST_F(InflightTest, OwesInTheDriversOrderWhatWasUnpoppedAndPoppedAgain) {
  const U16s heads = add(3);
  SplitRing first = start();
  pop(first, 2);
  first.unpop(heads[1]);
  pop(first, 2);
  SplitRing second = start();
  EXPECT_EQ(drain(second), heads);
}

TEST_F(InflightTest, OwesAgainWhatWasOwedAndUnpopped) {
  const U16s heads = add(4);
  SplitRing first = start();
  pop(first, 3);
  SplitRing second = start();
  pop(second, 4);
  for (const int newest : {3, 2, 1}) second.unpop(heads[static_cast<std::size_t>(newest)]);
  EXPECT_EQ(second.base(), 3u);
  EXPECT_EQ(second.in_flight(), 1u);
  EXPECT_TRUE(second.owes());
  EXPECT_EQ(entry(heads[1]).inflight, 1);
  EXPECT_EQ(entry(heads[3]).inflight, 0);
  EXPECT_EQ(pop(second, 2), (U16s{heads[1], heads[2]}));
  EXPECT_FALSE(second.owes());
  SplitRing third = start();
  EXPECT_EQ(drain(third), heads) << "a successor owes them too";
}

TEST_F(InflightTest, KeepsNoCountOfAnOwedChainOnceItWasGivenBack) {
  const U16s heads = add(1);
  SplitRing first = start();
  pop(first, 1);
  SplitRing second = start();
  serve(second);
  ASSERT_EQ(take_all_used(), heads);
  ASSERT_EQ(add(1), heads);
  pop(second, 1);
  second.unpop(heads[0]);
  EXPECT_FALSE(second.owes()) << "this time it came from the available ring";
  EXPECT_EQ(second.base(), 1u);
}

}  // namespace
}  // namespace vhost::tests
