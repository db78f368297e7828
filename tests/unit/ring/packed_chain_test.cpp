#include "tests/unit/ring/ring_fixture.hpp"

/* Packed descriptor chains that a driver must not build, and the longest that it may. */
namespace vhost::tests {
namespace {

constexpr std::uint64_t table_at = data_at + 0x10000;

PackedDesc entry(std::uint32_t length, std::uint16_t flags = 0, std::uint16_t id = 0) {
  return {data_at, length, id, flags};
}

TEST_F(PackedRingTest, TakesTheIdOfTheLastDescriptor) {
  ASSERT_EQ(pop_of({entry(1, desc_next, 3), entry(2, desc_next, 99), entry(3, 0, 5)}), Pop::ready);
  EXPECT_EQ(chain_.head, 5u);
}

TEST_F(PackedRingTest, RejectsAnIdOutOfRange) {
  EXPECT_EQ(pop_of({entry(1, 0, 7)}), Pop::ready);
  for (const std::uint16_t id : U16s{8, 9, 32768, 65535}) {
    EXPECT_EQ(pop_of({entry(1, 0, id)}), Pop::broken) << id;
    EXPECT_EQ(pop_of({entry(1, desc_next, 0), entry(1, 0, id)}), Pop::broken) << id;
    std::vector<Single> singles(4);
    driver_.write({entry(1, 0, id)});
    EXPECT_EQ(make().pop_singles(singles), 0u);
  }
}

TEST_F(PackedRingTest, RejectsAnIdThatIsInFlight) {
  driver_.write({entry(1, 0, 2), entry(1, 0, 2), entry(1, 0, 3)});
  PackedRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  std::vector<Single> singles(4);
  EXPECT_EQ(ring.pop_singles(singles), 0u);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  EXPECT_EQ(ring.in_flight(), 1u);
}

TEST_F(PackedRingTest, TakesAnIdAgainOnceItWasGivenBack) {
  driver_.write({entry(1, 0, 2), entry(2, 0, 2)});
  PackedRing ring = make();
  serve(ring);
  EXPECT_EQ(ring.pop(chain_), Pop::ready);
}

TEST_F(PackedRingTest, RejectsAChainLongerThanTheRing) {
  for (std::uint16_t i = 0; i < 8; ++i) {
    driver_.descriptor(i, entry(1, desc_next | desc_available));
  }
  PackedRing ring = make();
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(PackedRingTest, RejectsAChainThatRunsIntoOnesInFlight) {
  driver_.add({{data_at, 1}, {data_at, 1}, {data_at, 1}});
  PackedRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  // Five are left. The sixth would be the first again, which is ours.
  driver_.write({entry(1, desc_next, 1), entry(1, desc_next, 1), entry(1, desc_next, 1),
                 entry(1, desc_next, 1), entry(1, desc_next, 1)});
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(PackedRingTest, TakesNoSlotThatIsOursHoweverTheDriverMarksIt) {
  for (int i = 0; i < 8; ++i) driver_.add({{data_at, 1}});
  PackedRing ring = make();
  for (int i = 0; i < 8; ++i) ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ring.push(driver_.descriptor(0).id, 0);  // not shown yet: still ours
  driver_.write({entry(1, 0, driver_.descriptor(0).id)});
  std::vector<Single> singles(4);
  EXPECT_EQ(ring.pop_singles(singles), 0u);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(PackedRingTest, WaitsForBothBits) {
  for (const unsigned flags : {0u, desc_available | unsigned{desc_used}, unsigned{desc_used}}) {
    driver_.descriptor(0, {data_at, 1, 0, static_cast<std::uint16_t>(flags)});
    PackedRing ring = make();
    std::vector<Single> singles(1);
    EXPECT_EQ(ring.pop_singles(singles), 0u) << flags;
    EXPECT_EQ(ring.pop(chain_), Pop::empty) << flags;
    EXPECT_FALSE(ring.arm_kick()) << flags;
  }
}

TEST_F(PackedRingTest, BrokenItStillGivesBackWhatIsInFlight) {
  const auto id = driver_.add({{data_at, 4, true}});
  driver_.write({entry(1, 0, 200)});
  PackedRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  EXPECT_TRUE(ring.is_broken());
  EXPECT_FALSE(ring.move_to(map_));
  ring.push(id, 4);
  EXPECT_EQ(ring.publish(), Notify::yes);
  EXPECT_EQ(driver_.take_used()->id, id);
  EXPECT_FALSE(ring.arm_kick()) << "there is nothing to wait for, nor to look at";
  std::vector<Single> singles(1);
  driver_.write({entry(1)});
  EXPECT_EQ(ring.pop_singles(singles), 0u);
}

// ---------------------------------------------------------------- used descriptors

TEST_F(PackedRingTest, SkipsAsManySlotsAsTheChainHad) {
  const auto three = driver_.add({{data_at, 1}, {data_at, 1}, {data_at, 1, true}});
  const auto one = driver_.add({{data_at, 1}});
  PackedRing ring = make();
  serve(ring);
  serve(ring);
  EXPECT_EQ(driver_.descriptor(0).id, three);
  EXPECT_EQ(driver_.descriptor(3).id, one);
  EXPECT_EQ(ring.base(), driver_.base_after(4, 4));
}

TEST_F(PackedRingTest, WritesUsedDescriptorsInTheOrderOfCompletion) {
  const auto two = driver_.add({{data_at, 1}, {data_at, 1}});
  const auto one = driver_.add({{data_at, 1}});
  PackedRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ring.push(one, 0);
  ring.push(two, 0);
  (void)ring.publish();
  EXPECT_EQ(driver_.descriptor(0).id, one);
  EXPECT_EQ(driver_.descriptor(1).id, two);
  EXPECT_EQ(driver_.take_used()->id, one);
  EXPECT_EQ(driver_.take_used()->id, two);
  EXPECT_FALSE(driver_.take_used());
}

TEST_F(PackedRingTest, ShowsTheFirstOfABurstLast) {
  for (int i = 0; i < 3; ++i) driver_.add({{data_at, 1, true}});
  PackedRing ring = make();
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(ring.pop(chain_), Pop::ready);
    ring.push(chain_.head, 1);
  }
  EXPECT_EQ(driver_.descriptor(0).flags & (desc_available | desc_used), desc_available);
  EXPECT_EQ(driver_.descriptor(1).flags, desc_available | desc_used | desc_write);
  EXPECT_EQ(driver_.descriptor(2).flags, desc_available | desc_used | desc_write);
  (void)ring.publish();
  EXPECT_EQ(driver_.descriptor(0).flags, desc_available | desc_used | desc_write);
}

TEST_F(PackedRingTest, MarksOnlyWhatItWroteAsWritten) {
  driver_.add({{data_at, 1, true}});
  driver_.add({{data_at, 1, true}});
  PackedRing ring = make();
  serve(ring);
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ring.push(chain_.head, 1);
  (void)ring.publish();
  EXPECT_EQ(driver_.descriptor(0).flags & desc_write, 0);
  EXPECT_EQ(driver_.descriptor(1).flags & desc_write, desc_write);
  EXPECT_EQ(driver_.descriptor(1).length, 1u);
}

TEST_F(PackedRingTest, UnpopsWhatWasPushedOverNowhere) {
  // The used descriptor of the first lies where the first was: the second is still there.
  const auto first = driver_.add({{data_at, 1}, {data_at, 1}});
  const auto second = driver_.add({{data_at, 7}, {data_at, 8}});
  PackedRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  ring.push(first, 0);
  ring.unpop(second);
  (void)ring.publish();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(lengths(), (Lengths{7, 8}));
  EXPECT_EQ(ring.base(), driver_.base_after(4, 2));
}

// ---------------------------------------------------------------- indirect tables

TEST_F(PackedRingTest, TakesAllEntriesOfAnIndirectTableInTheirOrder) {
  // NEXT means nothing there, nor do the ring's own flags or ids (VIRTIO 2.8.7).
  memory_.store(table_at, entry(1, desc_next | desc_available, 77));
  memory_.store(table_at + 16, entry(2));
  memory_.store(table_at + 32, entry(3, desc_write | desc_next | desc_used));
  ASSERT_EQ(pop_of({{table_at, 48, 4, desc_indirect}}), Pop::ready);
  EXPECT_EQ(lengths(), (Lengths{1, 2, 3}));
  EXPECT_EQ(chain_.writable().size(), 1u);
  EXPECT_EQ(chain_.head, 4u);
}

TEST_F(PackedRingTest, AnIndirectTableTakesOneSlot) {
  const std::vector<Buffer> buffers(5, Buffer{data_at, 1});
  driver_.add_indirect(buffers, table_at);
  PackedRing ring = make();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.base(), driver_.base_after(1));
}

TEST_F(PackedRingTest, ReadsAnIndirectTableThatCrossesRegions) {
  const std::vector<Buffer> buffers{{data_at, 1}, {data_at, 2}, {data_at, 3}, {data_at, 4}};
  for (const std::uint64_t before : {8u, 16u, 24u, 40u}) {  // also within an entry
    GuestMemory memory;
    FakePackedDriver driver(memory);
    driver.add_indirect(buffers, GuestMemory::high - before);
    auto ring = PackedRing::create(driver.setup(), memory.map());
    ASSERT_EQ(ring->pop(chain_), Pop::ready) << before;
    EXPECT_EQ(lengths(), (Lengths{1, 2, 3, 4}));
  }
}

TEST_F(PackedRingTest, RejectsIndirectTablesOfAnImpossibleLength) {
  memory_.store(table_at, entry(1));
  EXPECT_EQ(pop_of({{table_at, 16, 0, desc_indirect}}), Pop::ready);
  for (const std::uint32_t length : {0u, 1u, 15u, 17u, 24u, UINT32_MAX, UINT32_MAX - 15}) {
    EXPECT_EQ(pop_of({{table_at, length, 0, desc_indirect}}), Pop::broken) << length;
  }
}

TEST_F(PackedRingTest, RejectsAnIndirectTableOutsideGuestMemory) {
  for (const std::uint64_t at : {std::uint64_t{0}, UINT64_MAX - 15, GuestMemory::far - 16}) {
    EXPECT_EQ(pop_of({{at, 16, 0, desc_indirect}}), Pop::broken) << at;
  }
}

TEST_F(PackedRingTest, RejectsAnIndirectTableWithinOne) {
  memory_.store(table_at, PackedDesc{table_at + 64, 16, 0, desc_indirect});
  memory_.store(table_at + 64, entry(1));
  EXPECT_EQ(pop_of({{table_at, 16, 0, desc_indirect}}), Pop::broken);
  memory_.store(table_at, entry(1));
  memory_.store(table_at + 16, PackedDesc{table_at + 64, 16, 0, desc_indirect});
  EXPECT_EQ(pop_of({{table_at, 32, 0, desc_indirect}}), Pop::broken);
}

TEST_F(PackedRingTest, RejectsAnIndirectTableThatIsNotAlone) {
  memory_.store(table_at, entry(1));
  EXPECT_EQ(pop_of({{table_at, 16, 0, desc_indirect | desc_next}, entry(1)}), Pop::broken);
  EXPECT_EQ(pop_of({entry(1, desc_next), {table_at, 16, 0, desc_indirect}}), Pop::broken);
}

TEST_F(PackedRingTest, RejectsIndirectThatWasNotNegotiated) {
  memory_.store(table_at, entry(1));
  driver_.write({{table_at, 16, 0, desc_indirect}});
  RingSetup setup = driver_.setup();
  setup.indirect = false;
  EXPECT_EQ(make(setup).pop(chain_), Pop::broken);
}

TEST_F(PackedRingTest, ServesAnIndirectTableOf1024EntriesAndNoLonger) {
  driver_.write_table(std::vector<Buffer>(1025, Buffer{data_at, 4}), table_at);
  EXPECT_EQ(pop_of({{table_at, 1024 * 16, 0, desc_indirect}}), Pop::ready);
  EXPECT_EQ(pop_of({{table_at, 1025 * 16, 0, desc_indirect}}), Pop::broken);
}

}  // namespace
}  // namespace vhost::tests
