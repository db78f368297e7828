#include "tests/unit/ring/ring_fixture.hpp"

/* Split descriptor chains that a driver must not build, and the longest that it may. */
namespace vhost::tests {
namespace {

constexpr std::uint64_t table_at = data_at + 0x10000;

TEST_F(SplitRingTest, RejectsALoopOfOne) {
  driver_.descriptor(0, {data_at, 4, desc_next, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsALoopOfTwo) {
  driver_.descriptor(0, {data_at, 4, desc_next, 1});
  driver_.descriptor(1, {data_at, 4, desc_next, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsALoopOfBuffersWithoutBytes) {
  driver_.descriptor(0, {data_at, 0, desc_next, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsANextOutOfRange) {
  for (const std::uint16_t next : U16s{8, 9, 32768, 65535}) {
    driver_.descriptor(0, {data_at, 4, desc_next, next});
    SplitRing ring = make();
    driver_.avail_entry(0, 0);
    driver_.avail_idx(1);
    EXPECT_EQ(ring.pop(chain_), Pop::broken) << next;
  }
}

TEST_F(SplitRingTest, IgnoresNextWithoutItsFlag) {
  driver_.descriptor(0, {data_at, 4, 0, 999});
  EXPECT_EQ(pop_first(), Pop::ready);
}

TEST_F(SplitRingTest, RejectsAHeadOutOfRange) {
  for (const std::uint16_t head : U16s{8, 9, 32768, 65535}) {
    SplitRing ring = make();
    driver_.avail_entry(0, head);
    driver_.avail_idx(1);
    EXPECT_EQ(ring.pop(chain_), Pop::broken) << head;
    EXPECT_EQ(ring.base(), 0u);
  }
}

TEST_F(SplitRingTest, AcceptsAnAvailableIndexAheadByTheWholeRing) {
  for (std::uint16_t i = 0; i < 8; ++i) {
    driver_.descriptor(i, {data_at, 4, 0, 0});
    driver_.offer(i);
  }
  SplitRing ring = make();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.pop(chain_), Pop::empty);
}

TEST_F(SplitRingTest, RejectsAnAvailableIndexAheadByMore) {
  driver_.descriptor(0, {data_at, 4, 0, 0});
  for (const std::uint16_t jump : U16s{9, 16, 32768, 65535}) {
    SplitRing ring = make();
    driver_.avail_idx(jump);
    EXPECT_EQ(ring.pop(chain_), Pop::broken) << jump;
  }
}

TEST_F(SplitRingTest, RejectsAJumpThatArmKickSawFirst) {
  driver_.descriptor(0, {data_at, 4, 0, 0});
  SplitRing ring = make();
  driver_.avail_idx(9);
  EXPECT_TRUE(ring.arm_kick());
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(SplitRingTest, RejectsAnAvailableIndexThatWentBack) {
  driver_.start_at(100);
  SplitRing ring = make(100);
  driver_.avail_idx(99);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(SplitRingTest, RejectsAHeadThatIsInFlight) {
  driver_.descriptor(0, {data_at, 4, 0, 0});
  driver_.offer(0);
  driver_.offer(0);
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  EXPECT_EQ(ring.in_flight(), 1u);
}

TEST_F(SplitRingTest, BrokenItStillGivesBackWhatIsInFlight) {
  driver_.add({{data_at, 4, true}});
  driver_.offer(200);
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  const std::uint16_t head = chain_.head;
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  ring.push(head, 4);
  EXPECT_EQ(ring.publish(), Notify::yes);
  EXPECT_EQ(driver_.take_used()->id, head);
  EXPECT_FALSE(ring.arm_kick()) << "there is nothing to wait for, nor to look at";
}

TEST_F(SplitRingTest, BreaksBeyondTwoToThe32Bytes) {
  memory_.add({std::uint64_t{1} << 36, std::uint64_t{1} << 31, 0x7c0000000000, 0});
  map_ = memory_.map({0, 1, 2, 3});
  const std::uint32_t half = 1u << 31;
  const Buffer big{std::uint64_t{1} << 36, half};
  driver_.add({big, {big.address, half - 1}});
  SplitRing ring = make();
  EXPECT_EQ(ring.pop(chain_), Pop::ready) << "2^32 - 1 bytes";
  driver_.add({big, big, {big.address, 1}});
  EXPECT_EQ(ring.pop(chain_), Pop::broken) << "2^32 + 1 bytes";
}

// ---------------------------------------------------------------- indirect tables

TEST_F(SplitRingTest, FollowsAnIndirectTable) {
  const std::vector<Buffer> buffers{{data_at, 16}, {data_at + 512, 64, true}};
  driver_.add_indirect(buffers, table_at);
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(lengths(), (Lengths{16, 64}));
}

TEST_F(SplitRingTest, FollowsAnIndirectTableBehindDirectDescriptors) {
  const std::vector<Buffer> buffers{{data_at + 512, 64}, {data_at, 1, true}};
  driver_.write_table(buffers, table_at);
  driver_.descriptor(0, {data_at, 16, desc_next, 5});
  driver_.descriptor(5, {table_at, 32, desc_indirect, 0});
  driver_.offer(0);
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(lengths(), (Lengths{16, 64, 1}));
}

TEST_F(SplitRingTest, FollowsNextWithinAnIndirectTableInAnyOrder) {
  memory_.store(table_at, SplitDesc{data_at, 1, desc_next, 2});
  memory_.store(table_at + 16, SplitDesc{data_at, 3, 0, 0});
  memory_.store(table_at + 32, SplitDesc{data_at, 2, desc_next, 1});
  driver_.descriptor(0, {table_at, 48, desc_indirect, 0});
  driver_.offer(0);
  SplitRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(lengths(), (Lengths{1, 2, 3}));
}

TEST_F(SplitRingTest, ReadsAnIndirectTableThatCrossesRegions) {
  const std::vector<Buffer> buffers{{data_at, 1}, {data_at, 2}, {data_at, 3}, {data_at, 4}};
  for (const std::uint64_t before : {8u, 16u, 24u, 40u}) {  // also within an entry
    GuestMemory memory;
    FakeSplitDriver driver(memory);
    driver.add_indirect(buffers, GuestMemory::high - before);
    auto ring = SplitRing::create(driver.setup(), memory.map());
    ASSERT_EQ(ring->pop(chain_), Pop::ready) << before;
    EXPECT_EQ(lengths(), (Lengths{1, 2, 3, 4}));
  }
}

TEST_F(SplitRingTest, RejectsIndirectTablesOfAnImpossibleLength) {
  memory_.store(table_at, SplitDesc{data_at, 1, 0, 0});
  for (const std::uint32_t length : {0u, 1u, 15u, 17u, 24u, UINT32_MAX}) {
    driver_.descriptor(0, {table_at, length, desc_indirect, 0});
    SplitRing ring = make();
    driver_.avail_entry(0, 0);
    driver_.avail_idx(1);
    EXPECT_EQ(ring.pop(chain_), Pop::broken) << length;
  }
}

TEST_F(SplitRingTest, ReadsNoMoreOfAHugeIndirectTableThanIsThere) {
  // 2^32 - 16 bytes, most of them outside guest memory.
  memory_.store(GuestMemory::far, SplitDesc{data_at, 1, 0, 65535});
  driver_.descriptor(0, {GuestMemory::far, UINT32_MAX - 15, desc_indirect, 0});
  EXPECT_EQ(pop_first(), Pop::ready) << "the one entry that is read is there";
  memory_.store(GuestMemory::far, SplitDesc{data_at, 1, desc_next, 65535});
  EXPECT_EQ(make().pop(chain_), Pop::broken);
}

TEST_F(SplitRingTest, RejectsAnIndirectTableOutsideGuestMemory) {
  for (const std::uint64_t at : {std::uint64_t{0}, UINT64_MAX - 15, GuestMemory::far - 16}) {
    driver_.descriptor(0, {at, 16, desc_indirect, 0});
    SplitRing ring = make();
    driver_.avail_entry(0, 0);
    driver_.avail_idx(1);
    EXPECT_EQ(ring.pop(chain_), Pop::broken) << at;
  }
}

TEST_F(SplitRingTest, RejectsANextOutOfTheIndirectTable) {
  memory_.store(table_at, SplitDesc{data_at, 1, desc_next, 2});
  driver_.descriptor(0, {table_at, 32, desc_indirect, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsALoopInAnIndirectTable) {
  memory_.store(table_at, SplitDesc{data_at, 1, desc_next, 0});
  driver_.descriptor(0, {table_at, 16, desc_indirect, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsAnIndirectTableWithinOne) {
  memory_.store(table_at, SplitDesc{table_at + 64, 16, desc_indirect, 0});
  memory_.store(table_at + 64, SplitDesc{data_at, 1, 0, 0});
  driver_.descriptor(0, {table_at, 16, desc_indirect, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsAnIndirectTableBehindAnEntryOfOne) {
  memory_.store(table_at, SplitDesc{data_at, 1, desc_next, 1});
  memory_.store(table_at + 16, SplitDesc{table_at + 64, 16, desc_indirect, 0});
  memory_.store(table_at + 64, SplitDesc{data_at, 1, 0, 0});
  driver_.descriptor(0, {table_at, 32, desc_indirect, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, RejectsIndirectTogetherWithNext) {
  memory_.store(table_at, SplitDesc{data_at, 1, 0, 0});
  driver_.descriptor(0, {table_at, 16, desc_indirect | desc_next, 1});
  driver_.descriptor(1, {data_at, 1, 0, 0});
  EXPECT_EQ(pop_first(), Pop::broken);
}

TEST_F(SplitRingTest, IgnoresTheWriteFlagOfAnIndirectDescriptor) {
  memory_.store(table_at, SplitDesc{data_at, 1, 0, 0});
  driver_.descriptor(0, {table_at, 16, desc_indirect | desc_write, 0});
  ASSERT_EQ(pop_first(), Pop::ready);
  EXPECT_EQ(chain_.readable().size(), 1u);
}

TEST_F(SplitRingTest, RejectsIndirectThatWasNotNegotiated) {
  memory_.store(table_at, SplitDesc{data_at, 1, 0, 0});
  driver_.descriptor(0, {table_at, 16, desc_indirect, 0});
  driver_.offer(0);
  RingSetup setup = driver_.setup();
  setup.indirect = false;
  SplitRing ring = make(setup);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(SplitRingTest, ServesAnIndirectTableOf1024EntriesOnASmallRing) {
  const std::vector<Buffer> buffers(1024, Buffer{data_at, 4});
  driver_.add_indirect(buffers, table_at);
  EXPECT_EQ(make().pop(chain_), Pop::ready);
}

TEST_F(SplitRingTest, RejectsAnIndirectTableOf1025Entries) {
  const std::vector<Buffer> buffers(1025, Buffer{data_at, 4});
  driver_.add_indirect(buffers, table_at);
  EXPECT_EQ(make().pop(chain_), Pop::broken);
}

}  // namespace
}  // namespace vhost::tests
