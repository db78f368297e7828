#include "tests/unit/ring/ring_fixture.hpp"

/* What is left in flight is nobody's until the next device takes it out of the inflight section. */
namespace vhost::tests {
namespace {

template <class Driver>
class RingLeaveTest : public RingTest<Driver> {
 protected:
  using Ring = typename Driver::DeviceRing;

  RingLeaveTest() {
    const std::uint16_t size = this->driver_.setup().size;
    auto region = make_inflight_region(1, size);
    auto mapped = Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes);
    region_ = std::make_shared<const Mapping>(std::move(*mapped));
  }
  Ring start(std::uint32_t base) {
    const RingSetup setup = this->driver_.setup(base);
    return this->make(setup, {region_, region_->bytes(), setup.size});
  }
  Ring start() { return start(this->driver_.setup().base); }
  /// Of four chains three are popped, of which the second is given back and the others are left.
  std::uint32_t leave_two(const U16s& heads) {
    Ring ring = start();
    this->pop(ring, 3);
    ring.push(heads[1], 0);
    (void)ring.publish();
    ring.leave();
    EXPECT_EQ(ring.in_flight(), 0u);
    return ring.base();
  }

  std::shared_ptr<const Mapping> region_;
};
TYPED_TEST_SUITE(RingLeaveTest, Drivers);

TYPED_TEST(RingLeaveTest, TellsABaseBehindEverythingThatWasTaken) {
  EXPECT_EQ(this->leave_two(this->add(4)), this->driver_.base_after(3, 1));
}

TYPED_TEST(RingLeaveTest, TheNextDeviceHasItFirstWhicheverBaseItIsTold) {
  const U16s heads = this->add(4);
  const std::uint32_t told = this->leave_two(heads);
  for (const std::uint32_t base : {told, this->driver_.base_after_crash()}) {
    auto next = this->start(base);
    EXPECT_TRUE(next.owes());
    EXPECT_EQ(next.base(), told);
    EXPECT_EQ(this->pop(next, 3), (U16s{heads[0], heads[2], heads[3]}));
    EXPECT_EQ(next.pop(this->chain_), Pop::empty);
    next.unpop(heads[3]);
  }
}

TYPED_TEST(RingLeaveTest, ShowsTheDriverNothingOfIt) {
  const U16s heads = this->add(4);
  this->leave_two(heads);
  EXPECT_EQ(this->driver_.take_used()->id, heads[1]);
  EXPECT_FALSE(this->driver_.take_used());
}

TYPED_TEST(RingLeaveTest, IsAnsweredOnceByTheNextDevice) {
  const U16s heads = this->add(4);
  auto next = this->start(this->leave_two(heads));
  for (int i = 0; i < 3; ++i) this->serve(next);
  for (const int i : {1, 0, 2, 3}) {
    EXPECT_EQ(this->driver_.take_used()->id, heads[static_cast<std::size_t>(i)]);
  }
  EXPECT_FALSE(this->driver_.take_used());
  auto third = this->start(next.base());
  EXPECT_FALSE(third.owes());
}

TYPED_TEST(RingLeaveTest, LeavesAgainWhatItOwedAndNeverTook) {
  const U16s heads = this->add(4);
  auto second = this->start(this->leave_two(heads));
  this->pop(second, 1);
  second.leave();
  auto third = this->start(second.base());
  EXPECT_EQ(this->pop(third, 3), (U16s{heads[0], heads[2], heads[3]}));
}

TYPED_TEST(RingLeaveTest, LeavesNothingWhereNothingIsInFlight) {
  this->add(2);
  auto ring = this->start();
  for (int i = 0; i < 2; ++i) this->serve(ring);
  ring.leave();
  EXPECT_EQ(ring.base(), this->driver_.base_after(2, 2));
  EXPECT_FALSE(this->start(ring.base()).owes());
}

}  // namespace
}  // namespace vhost::tests
