#include "tests/unit/ring/inflight_fixture.hpp"
#include "tests/unit/ring/translated_ring.hpp"

/* Chains of one buffer come out several at a time; whatever is anything else is left to pop(). */
namespace vhost::tests {
namespace {

template <class Driver>
class RingSinglesTest : public RingTest<Driver> {
 protected:
  using Ring = typename Driver::DeviceRing;

  U16s add(int count, std::uint32_t length = 16, bool writable = false) {
    U16s heads;
    for (int i = 0; i < count; ++i) {
      heads.push_back(
          this->driver_.add({{data_at + static_cast<std::uint64_t>(i) * 4096, length, writable}}));
    }
    return heads;
  }
  /// The heads of at most so many.
  U16s pop_singles(Ring& ring, std::size_t most = 8) {
    const std::size_t count = ring.pop_singles(std::span(singles_).first(most));
    U16s heads;
    for (const Single& single : std::span(singles_).first(count)) heads.push_back(single.head);
    return heads;
  }

  std::array<Single, 8> singles_{};
};
TYPED_TEST_SUITE(RingSinglesTest, AllDrivers);

TYPED_TEST(RingSinglesTest, AreWhereTheDriverSays) {
  this->driver_.add({{data_at + 100, 300}});
  this->driver_.add({{data_at + 700, 50, true}});
  auto ring = this->make();
  ASSERT_EQ(this->pop_singles(ring).size(), 2u);
  EXPECT_EQ(this->singles_[0].begin, this->device_view(data_at + 100));
  EXPECT_EQ(this->singles_[0].bytes, 300u);
  EXPECT_FALSE(this->singles_[0].writable);
  EXPECT_EQ(this->singles_[1].begin, this->device_view(data_at + 700));
  EXPECT_EQ(this->singles_[1].bytes, 50u);
  EXPECT_TRUE(this->singles_[1].writable);
}

TYPED_TEST(RingSinglesTest, ComeInTheDriversOrderAsManyAsThereIsRoomFor) {
  const U16s heads = this->add(5);
  auto ring = this->make();
  EXPECT_EQ(this->pop_singles(ring, 0), U16s{});
  EXPECT_EQ(this->pop_singles(ring, 2), (U16s{heads[0], heads[1]}));
  EXPECT_EQ(this->pop_singles(ring, 3), (U16s{heads[2], heads[3], heads[4]}));
  EXPECT_EQ(this->pop_singles(ring), U16s{});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
}

TYPED_TEST(RingSinglesTest, AreInFlightAndGoBackAsChainsDo) {
  const U16s heads = this->add(3);
  auto ring = this->make();
  this->pop_singles(ring);
  EXPECT_EQ(ring.in_flight(), 3u);
  ring.unpop(heads[2]);
  EXPECT_EQ(ring.in_flight(), 2u);
  EXPECT_EQ(this->pop_singles(ring), U16s{heads[2]});
  for (const std::uint16_t head : heads) ring.push(head, 7);
  EXPECT_EQ(ring.publish(), Notify::yes);
  EXPECT_EQ(ring.in_flight(), 0u);
  for (const std::uint16_t head : heads) {
    const auto used = this->driver_.take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    EXPECT_EQ(used->length, 7u);
  }
}

TYPED_TEST(RingSinglesTest, EndWhereAChainHasTwoBuffers) {
  const U16s first = this->add(1);
  const auto two = this->driver_.add({{data_at, 1}, {data_at + 10, 2}});
  const U16s last = this->add(1);
  auto ring = this->make();
  EXPECT_EQ(this->pop_singles(ring), first);
  EXPECT_EQ(this->pop_singles(ring), U16s{});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->chain_.head, two);
  EXPECT_EQ(this->pop_singles(ring), last);
}

TYPED_TEST(RingSinglesTest, EndAtAnIndirectTable) {
  const std::array<Buffer, 1> buffers{{{data_at, 1}}};
  const auto head = this->driver_.add_indirect(buffers, data_at + 0x1000);
  auto ring = this->make();
  EXPECT_EQ(this->pop_singles(ring), U16s{});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->chain_.head, head);
}

TYPED_TEST(RingSinglesTest, EndAtABufferThatCrossesRegions) {
  this->driver_.add({{GuestMemory::high - 10, 10}});
  this->driver_.add({{GuestMemory::high - 10, 11}});
  auto ring = this->make();
  EXPECT_EQ(this->pop_singles(ring).size(), 1u);
  EXPECT_EQ(this->pop_singles(ring), U16s{});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->lengths(), (Lengths{10, 1}));
}

TYPED_TEST(RingSinglesTest, MayLieInOneRegionAfterAnother) {
  this->driver_.add({{GuestMemory::far, 16}});
  this->driver_.add({{data_at, 16}});
  this->driver_.add({{GuestMemory::far + 16, 16}});
  auto ring = this->make();
  ASSERT_EQ(this->pop_singles(ring).size(), 3u);
  EXPECT_EQ(this->singles_[0].begin, this->device_view(GuestMemory::far));
  EXPECT_EQ(this->singles_[1].begin, this->device_view(data_at));
  EXPECT_EQ(this->singles_[2].begin, this->device_view(GuestMemory::far + 16));
}

TYPED_TEST(RingSinglesTest, EndAtAnEmptyBuffer) {
  this->add(1, 0);
  auto ring = this->make();
  EXPECT_EQ(this->pop_singles(ring), U16s{});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->lengths(), Lengths{});
}

TYPED_TEST(RingSinglesTest, LeaveABufferOutsideOfMemoryToPop) {
  this->add(1);
  this->driver_.add({{GuestMemory::far + GuestMemory::far_bytes - 1, 2}});
  auto ring = this->make();
  EXPECT_EQ(this->pop_singles(ring).size(), 1u);
  EXPECT_EQ(this->pop_singles(ring), U16s{});
  EXPECT_FALSE(ring.is_broken());
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
  EXPECT_EQ(this->pop_singles(ring), U16s{});
}

TYPED_TEST(RingSinglesTest, AreNoneOfARingWithoutItsRegion) {
  this->add(1);
  auto ring = this->make();
  EXPECT_FALSE(ring.move_to(this->memory_.map({1, 2})));
  EXPECT_EQ(this->pop_singles(ring), U16s{});
}

// ---------------------------------------------------------------- a driver that breaks the rules

TEST_F(SplitRingTest, SinglesEndAtAHeadThatIsInFlight) {
  const auto head = driver_.add({{data_at, 1}});
  driver_.offer(head);
  SplitRing ring = make();
  std::array<Single, 4> singles{};
  EXPECT_EQ(ring.pop_singles(singles), 1u);
  EXPECT_EQ(ring.pop_singles(singles), 0u);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(SplitRingTest, SinglesEndAtAHeadOutsideTheTable) {
  driver_.add({{data_at, 1}});
  driver_.descriptor(0x100, {data_at, 1, 0, 0});
  driver_.offer(0x100);
  SplitRing ring = make();
  std::array<Single, 4> singles{};
  EXPECT_EQ(ring.pop_singles(singles), 1u);
  EXPECT_EQ(ring.pop_singles(singles), 0u);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(SplitRingTest, SinglesAreNoneWhereTheIndexIsTooFarAhead) {
  driver_.add({{data_at, 1}});
  driver_.avail_idx(9);
  SplitRing ring = make();
  std::array<Single, 4> singles{};
  EXPECT_EQ(ring.pop_singles(singles), 0u);
  EXPECT_FALSE(ring.is_broken());
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

// ---------------------------------------------------------------- with an inflight section

TEST_F(InflightTest, OwesSinglesThatWereNotGivenBack) {
  const U16s heads = add(3);
  SplitRing first = start();
  std::array<Single, 8> singles{};
  ASSERT_EQ(first.pop_singles(std::span(singles).first(2)), 2u);
  EXPECT_EQ(entry(heads[0]).inflight, 1);
  EXPECT_EQ(entry(heads[1]).inflight, 1);
  EXPECT_EQ(entry(heads[2]).inflight, 0);
  SplitRing second = start();
  EXPECT_EQ(second.pop_singles(singles), 0u) << "what a predecessor owes comes out of pop()";
  EXPECT_EQ(pop(second, 2), (U16s{heads[0], heads[1]}));
  ASSERT_EQ(second.pop_singles(singles), 1u);
  EXPECT_EQ(singles[0].head, heads[2]);
}

}  // namespace
}  // namespace vhost::tests
