#include "tests/unit/ring/translated_ring.hpp"

/* What every ring promises to a device, whatever its layout. */
namespace vhost::tests {
namespace {

TYPED_TEST_SUITE(RingTest, AllDrivers);

TYPED_TEST(RingTest, IsEmptyBeforeTheDriverOffersAnything) {
  auto ring = this->make();
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(ring.in_flight(), 0u);
  EXPECT_EQ(ring.publish(), Notify::no);
}

TYPED_TEST(RingTest, GivesTheBuffersInTheDriversOrder) {
  this->driver_.add({{data_at, 16}, {data_at + 4096, 32}, {data_at + 64, 512, true}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->lengths(), (Lengths{16, 32, 512}));
  EXPECT_EQ(this->chain_.readable().size(), 2u);
  EXPECT_EQ(this->chain_.readable()[1].iov_base, this->device_view(data_at + 4096));
  EXPECT_EQ(this->chain_.writable()[0].iov_base, this->device_view(data_at + 64));
}

TYPED_TEST(RingTest, GivesChainsInTheOrderTheyWereOffered) {
  const auto first = this->driver_.add({{data_at, 1}});
  const auto second = this->driver_.add({{data_at, 2}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->chain_.head, first);
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->chain_.head, second);
  EXPECT_EQ(ring.in_flight(), 2u);
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
}

TYPED_TEST(RingTest, ShowsNothingBeforeItIsPublished) {
  this->driver_.add({{data_at, 1, true}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  ring.push(this->chain_.head, 1);
  EXPECT_FALSE(this->driver_.take_used());
  EXPECT_EQ(ring.publish(), Notify::yes);
  EXPECT_TRUE(this->driver_.take_used());
}

TYPED_TEST(RingTest, GivesBackInTheDevicesOrderWithTheBytesWritten) {
  const auto first = this->driver_.add({{data_at, 512, true}});
  const auto second = this->driver_.add({{data_at, 512, true}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  ring.push(second, 7);
  ring.push(first, 512);
  (void)ring.publish();
  const auto a = this->driver_.take_used();
  const auto b = this->driver_.take_used();
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->id, second);
  EXPECT_EQ(a->length, 7u);
  EXPECT_EQ(b->id, first);
  EXPECT_EQ(b->length, 512u);
  EXPECT_EQ(ring.in_flight(), 0u);
}

TYPED_TEST(RingTest, SplitsABufferWhereItCrossesRegions) {
  this->driver_.add({{GuestMemory::high - 100, 300, true}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->lengths(), (Lengths{100, 200}));
  EXPECT_EQ(this->chain_.writable()[1].iov_base, this->device_view(GuestMemory::high));
}

TYPED_TEST(RingTest, SkipsBuffersOfNoBytes) {
  this->driver_.add({{data_at, 0}, {0xdead0000, 0}, {data_at, 8}, {0, 0, true}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->lengths(), (Lengths{8}));
}

TYPED_TEST(RingTest, ServesAChainAsLongAsTheRing) {
  const std::vector<Buffer> buffers(8, Buffer{data_at, 4});
  this->driver_.add(buffers);
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->chain_.readable().size(), 8u);
}

TYPED_TEST(RingTest, LeavesAChainThatHasNoRoomInTheRing) {
  const auto id = this->driver_.add({{data_at, 1}, {data_at, 1}, {data_at, 1}});
  auto ring = this->make();
  Chain small(std::span(this->room_).first(2));
  EXPECT_EQ(ring.pop(small), Pop::no_room);
  EXPECT_EQ(ring.pop(small), Pop::no_room);
  EXPECT_EQ(ring.in_flight(), 0u);
  Chain enough(std::span(this->room_).first(3));
  ASSERT_EQ(ring.pop(enough), Pop::ready);
  EXPECT_EQ(enough.head, id);
}

TYPED_TEST(RingTest, TakesAHeadAgainAfterItWasGivenBack) {
  auto ring = this->make();
  for (int i = 0; i < 100; ++i) {
    this->driver_.add({{data_at, 1}});
    this->serve(ring);
    ASSERT_TRUE(this->driver_.take_used());
  }
}

TYPED_TEST(RingTest, GoesRoundThroughAllPositions) {
  auto ring = this->make();
  for (std::uint32_t i = 0; i < 70'000; ++i) {
    const auto id = this->driver_.add({{data_at + i % 4096, 1}});
    this->serve(ring);
    ASSERT_EQ(this->chain_.readable()[0].iov_base, this->device_view(data_at + i % 4096));
    ASSERT_EQ(this->driver_.take_used()->id, id);
  }
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
}

TYPED_TEST(RingTest, ArmKickSeesAnEntryThatWasAddedBefore) {
  auto ring = this->make();
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  this->driver_.add({{data_at, 1}});
  EXPECT_TRUE(ring.arm_kick());
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
}

TYPED_TEST(RingTest, ArmedItIsKickedForTheNextEntry) {
  auto ring = this->make();
  EXPECT_FALSE(ring.arm_kick());
  this->driver_.add({{data_at, 1}});
  EXPECT_TRUE(this->driver_.must_kick());
}

TYPED_TEST(RingTest, DisarmedItIsNotKicked) {
  auto ring = this->make();
  EXPECT_FALSE(ring.arm_kick());
  this->driver_.add({{data_at, 1}});
  ring.disarm_kick();
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
  this->driver_.add({{data_at, 1}});
  EXPECT_FALSE(this->driver_.must_kick());
}

TYPED_TEST(RingTest, GoesOnInANewMemoryMapWithTheSamePositions) {
  this->driver_.add({{data_at, 1}});
  auto ring = this->make();
  this->serve(ring);
  EXPECT_TRUE(ring.move_to(this->memory_.map({0, 1})));
  const auto second = this->driver_.add({{data_at, 1}});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->chain_.head, second);
}

TYPED_TEST(RingTest, UsesARegionOnlyAfterItWasAdded) {
  auto ring = TypeParam::DeviceRing::create(this->driver_.setup(), this->memory_.map({0}));
  ASSERT_TRUE(ring);
  this->driver_.add({{GuestMemory::far, 1}});
  EXPECT_TRUE(ring->move_to(this->map_));
  EXPECT_EQ(ring->pop(this->chain_), Pop::ready);
}

TYPED_TEST(RingTest, BreaksWhenItsOwnRegionIsTakenAway) {
  this->driver_.add({{data_at, 1}});
  auto ring = this->make();
  EXPECT_FALSE(ring.move_to(this->memory_.map({1, 2})));
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
  EXPECT_FALSE(ring.move_to(this->map_)) << "only a new start revives it";
}

TYPED_TEST(RingTest, EveryVerbIsHarmlessWithoutItsRegion) {
  this->driver_.add({{GuestMemory::far, 1}});
  auto ring = this->make();
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_FALSE(ring.move_to(this->memory_.map({1, 2})));
  ring.push(this->chain_.head, 0);
  (void)ring.publish();
  EXPECT_FALSE(ring.arm_kick());
  ring.disarm_kick();
  EXPECT_FALSE(this->driver_.take_used());
  EXPECT_EQ(ring.in_flight(), 0u);
}

TYPED_TEST(RingTest, BreaksOnABufferOutsideGuestMemory) {
  for (const Buffer& bad :
       {Buffer{0x1000, 8}, Buffer{GuestMemory::far - 8, 16},
        Buffer{GuestMemory::far + GuestMemory::far_bytes - 8, 9}, Buffer{UINT64_MAX - 3, 8},
        Buffer{UINT64_MAX, 1}, Buffer{data_at, UINT32_MAX}}) {
    typename TypeParam::Memory memory;
    TypeParam driver(memory);
    driver.add({{data_at, 4}, bad});
    auto ring = TypeParam::DeviceRing::create(driver.setup(), memory.map());
    EXPECT_EQ(ring->pop(this->chain_), Pop::broken) << std::hex << bad.address;
  }
}

TYPED_TEST(RingTest, TakesABufferThatEndsWithItsRegion) {
  this->driver_.add({{GuestMemory::far + GuestMemory::far_bytes - 8, 8}});
  auto ring = this->make();
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
}

TYPED_TEST(RingTest, BreaksOnAReadableBufferBehindAWritableOne) {
  this->driver_.add({{data_at, 4, true}, {data_at, 4, false}});
  auto ring = this->make();
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
}

}  // namespace
}  // namespace vhost::tests
