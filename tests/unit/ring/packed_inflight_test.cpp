#include "tests/unit/ring/packed_inflight_fixture.hpp"

/* What a back-end that died owes the driver, known from the inflight section alone: the front-end's
 * base is that of a new ring. */
namespace vhost::tests {
namespace {

TEST_F(PackedInflightTest, OwesNothingAfterAnOrderlyEnd) {
  add(3);
  PackedRing first = start();
  for (int i = 0; i < 3; ++i) serve(first);
  PackedRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(second.base(), first.base()) << "not the front-end's, which is of a new ring";
  EXPECT_EQ(drain(second), Ids{});
}

TEST_F(PackedInflightTest, OwesWhatWasPopped) {
  const Ids ids = add(4);
  PackedRing first = start();
  pop(first, 3);
  PackedRing second = start();
  EXPECT_TRUE(second.owes());
  EXPECT_TRUE(second.arm_kick()) << "there is work: do not sleep";
  std::vector<Single> singles(4);
  EXPECT_EQ(second.pop_singles(singles), 0u);
  EXPECT_EQ(second.base(), driver_.base_after(6, 0));
  EXPECT_EQ(drain(second), ids) << "what was owed, and then the one never popped";
  EXPECT_FALSE(second.owes());
}

TEST_F(PackedInflightTest, OwesASingleToo) {
  const Ids ids = add(1);
  PackedRing first = start();
  std::vector<Single> singles(4);
  ASSERT_EQ(first.pop_singles(singles), 1u);
  PackedRing second = start();
  EXPECT_TRUE(second.arm_kick()) << "it is owed, though the driver has nothing new";
  EXPECT_EQ(drain(second), ids);
  EXPECT_EQ(lengths(), Lengths{10});
  EXPECT_FALSE(second.arm_kick());
}

TEST_F(PackedInflightTest, OwesChainsWhoseDescriptorsWereOverwritten) {
  const Ids ids = add(3);  // of 1, 2 and 3 slots
  PackedRing first = start();
  pop(first, 3);
  first.push(ids[1], 0);
  first.push(ids[2], 0);
  (void)first.publish();  // over the slots of the first, and of the second
  PackedRing second = start();
  EXPECT_EQ(second.base(), driver_.base_after(6, 5));
  ASSERT_EQ(drain(second), Ids{ids[0]});
  EXPECT_EQ(lengths(), Lengths{10});
  second.push(ids[0], 0);
  (void)second.publish();
  EXPECT_EQ(take_all_used(), (Ids{ids[1], ids[2], ids[0]}));
}

TEST_F(PackedInflightTest, OwesIndirectChains) {
  const std::vector<Buffer> buffers{{data_at, 16}, {data_at + 512, 64, true}};
  const auto id = driver_.add_indirect(buffers, data_at + 0x10000);
  PackedRing first = start();
  pop(first, 1);
  PackedRing second = start();
  EXPECT_EQ(drain(second), Ids{id});
  EXPECT_EQ(lengths(), (Lengths{16, 64}));
}

TEST_F(PackedInflightTest, ErasesUsedDescriptorsThatWereNotShown) {
  const Ids ids = add(1);
  const auto other = driver_.add({{data_at, 1}});
  PackedRing first = start();
  pop(first, 2);
  first.push(ids[0], 0);
  first.push(other, 0);  // is in the ring, behind the one that is not
  PackedRing second = start();
  EXPECT_EQ(drain(second), (Ids{ids[0], other}));
  second.push(ids[0], 0);
  (void)second.publish();
  EXPECT_EQ(take_all_used(), ids);
}

TEST_F(PackedInflightTest, ResubmitsInTheOrderOfTheFirstSubmission) {
  const Ids ids = add(3);
  PackedRing first = start();
  pop(first, 3);
  entry(0).counter = 40;
  entry(1).counter = 10;
  entry(3).counter = 1000;
  PackedRing second = start();
  EXPECT_EQ(drain(second), (Ids{ids[1], ids[0], ids[2]}));
  const Ids more = add(1);
  pop(second, 1);
  EXPECT_GT(entry(6).counter, 1000u);
  EXPECT_EQ(entry(6).id, more[0]);
}

TEST_F(PackedInflightTest, TakesNoEntryOfABatchBeforeItIsShown) {
  const Ids ids = add(1);
  PackedRing ring = start();
  pop(ring, 1);
  ring.push(ids[0], 0);
  const auto second = driver_.add({{data_at, 1}});
  pop(ring, 1);
  EXPECT_EQ(entry(0).id, ids[0]);
  EXPECT_EQ(entry(1).id, second);
  PackedRing next = start();
  EXPECT_EQ(drain(next), (Ids{ids[0], second}));
}

TEST_F(PackedInflightTest, MarksNothingThatHadNoRoomOrIsNoChain) {
  driver_.add({{data_at, 1}, {data_at, 1}});
  PackedRing ring = start();
  Chain small{std::span(room_).first(1)};
  EXPECT_EQ(ring.pop(small), Pop::no_room);
  EXPECT_EQ(marked(), 0);
  pop(ring, 1);
  EXPECT_EQ(marked(), 1);
  EXPECT_EQ(entry(0).num, 2);
  driver_.write({{data_at, 1, 99, 0}});
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  EXPECT_EQ(marked(), 1);
}

TEST_F(PackedInflightTest, OwesAgainWhatWasOwedAndUnpopped) {
  const Ids ids = add(3);
  PackedRing first = start();
  pop(first, 2);
  PackedRing second = start();
  pop(second, 3);
  for (const int newest : {2, 1, 0}) second.unpop(ids[static_cast<std::size_t>(newest)]);
  EXPECT_EQ(second.base(), driver_.base_after(3, 0));
  EXPECT_TRUE(second.owes());
  EXPECT_EQ(marked(), 2);
  EXPECT_EQ(drain(second), ids);
  PackedRing third = start();
  EXPECT_EQ(drain(third), ids) << "a successor owes them too";
}

TEST_F(PackedInflightTest, AFreshSectionBeginsAtTheFrontEndsBase) {
  const std::uint32_t base = driver_.start_at({7, false});
  const Ids ids = add(2);
  PackedRing first = make(driver_.setup(base), section());
  EXPECT_EQ(header().version, inflight_version);
  EXPECT_EQ(header().desc_num, odd_size);
  EXPECT_EQ(header().used_idx, 7);
  EXPECT_EQ(header().used_wrap_counter, 0);
  pop(first, 2);
  PackedRing second = start();  // killed before the first completion
  EXPECT_EQ(drain(second), ids);
  EXPECT_EQ(second.base(), first.base());
}

}  // namespace
}  // namespace vhost::tests
