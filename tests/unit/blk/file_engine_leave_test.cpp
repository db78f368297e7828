/*
 * Requests that the engine parts with before they are done.
 */
#include "backends/blk/file_engine.hpp"
#include "tests/unit/blk/engine_fixture.hpp"

namespace blk {
namespace {

using testing_tools::Pages;

class LeaveTest : public testing_tools::EngineTest {
 protected:
  void leave(std::vector<Slot*> slots) {
    (void)prepared();
    engine().leave(slots);
    (void)prepared();
  }
  /// The end of an operation for a request that is left; nothing may be begun behind it.
  std::optional<Status> last(Slot& slot, int result) {
    const auto status = answer(slot, result);
    EXPECT_TRUE(prepared().empty()) << "begun: result " << result;
    return status;
  }
  static constexpr std::array no_success{-ECANCELED, -EINTR, -EAGAIN, -EIO, -ENOSPC, -EOPNOTSUPP};

  Pages page_{2};
};

TEST_F(LeaveTest, AsksTheKernelToGiveUpWhatItHasOfThem) {
  Slot& first = data(Op::write, 0, {page_.piece(0, 512)});
  Slot& other = data(Op::write, 512, {page_.piece(0, 512)});
  Slot& second = data(Op::write, 1024, {page_.piece(0, 512)});
  for (Slot* const slot : {&first, &other, &second}) start(*slot);
  (void)prepared();
  const std::array leaving{&first, &second};
  engine().leave(leaving);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(operations[i].opcode, IORING_OP_ASYNC_CANCEL);
    EXPECT_EQ(operations[i].addr, reinterpret_cast<Tag>(leaving[i]));
    EXPECT_EQ(operations[i].user_data, cancel_tag);
  }
}

TEST_F(LeaveTest, IsOverWhenTheLastOperationHasEnded) {
  Slot& first = data(Op::write, 0, {page_.piece(0, 512)});
  Slot& second = data(Op::write, 512, {page_.piece(0, 512)});
  EXPECT_FALSE(engine().is_leaving());
  start(first);
  start(second);
  leave({&first, &second});
  EXPECT_TRUE(engine().is_leaving());
  EXPECT_EQ(last(first, -ECANCELED), std::nullopt);
  EXPECT_TRUE(engine().is_leaving());
  EXPECT_EQ(last(second, -ECANCELED), std::nullopt);
  EXPECT_FALSE(engine().is_leaving());
}

TEST_F(LeaveTest, DataThatIsWholeIsDone) {
  for (const Op op : {Op::read, Op::write}) {
    start(flush());  // a read that is alone might be done on the spot
    Slot& slot = data(op, 0, {page_.piece(0, 1024)});
    start(slot);
    leave({&slot});
    EXPECT_EQ(last(slot, 1024), Status::ok);
  }
}

TEST_F(LeaveTest, TheRestOfDataThatCompletesItIsDone) {
  Slot& slot = data(Op::write, 0, {page_.piece(0, 1024)});
  start(slot);
  EXPECT_EQ(answer(slot, 512), std::nullopt);
  leave({&slot});
  EXPECT_EQ(last(slot, 512), Status::ok);
}

TEST_F(LeaveTest, AShortTransferIsNotGoneOnWith) {
  for (const int result : {0, 1, 512, 1023}) {
    Slot& slot = data(Op::write, 0, {page_.piece(0, 1024)});
    start(slot);
    leave({&slot});
    EXPECT_EQ(last(slot, result), std::nullopt) << result;
  }
}

/// It may be the cancelling's, and the guest must not hear of that.
TEST_F(LeaveTest, AnErrorIsNoAnswer) {
  for (const int result : no_success) {
    Slot& moved = data(Op::write, 0, {page_.piece(0, 512)});
    Slot& flushed = flush();
    Slot& zeroed = ranges(Op::write_zeroes, {{0, 4096, false}});
    Slot& discarded = ranges(Op::discard, {{0, 4096, true}});
    for (Slot* const slot : {&moved, &flushed, &zeroed, &discarded}) {
      start(*slot);
      leave({slot});
      EXPECT_EQ(last(*slot, result), std::nullopt) << result;
    }
    EXPECT_FALSE(engine().is_leaving());
  }
}

TEST_F(LeaveTest, AFlushThatWentWellIsDone) {
  Slot& slot = flush();
  start(slot);
  leave({&slot});
  EXPECT_EQ(last(slot, 0), Status::ok);
}

TEST_F(LeaveTest, OnlyTheLastRangeMakesThemWhole) {
  for (const Op op : {Op::discard, Op::write_zeroes}) {
    Slot& slot = ranges(op, {{0, 4096, true}, {8192, 4096, true}});
    start(slot);
    leave({&slot});
    EXPECT_EQ(last(slot, 0), std::nullopt);

    Slot& further = ranges(op, {{0, 4096, true}, {8192, 4096, true}});
    start(further);
    EXPECT_EQ(answer(further, 0), std::nullopt);
    leave({&further});
    EXPECT_EQ(last(further, 0), Status::ok);
  }
}

TEST_F(LeaveTest, ARangeThatIsZeroedByWritingIsWholeAtItsEnd) {
  image_.zero_range_supported = false;
  for (const int result : {4096, 4095}) {
    Slot& slot = ranges(Op::write_zeroes, {{0, 4096, false}});
    start(slot);
    leave({&slot});
    EXPECT_EQ(last(slot, result), result == 4096 ? std::optional(Status::ok) : std::nullopt);
  }
}

TEST_F(LeaveTest, DurableRangesAreLeftBeforeTheirSync) {
  durable_ = true;
  Slot& slot = ranges(Op::discard, {{0, 4096, true}});
  start(slot);
  leave({&slot});
  EXPECT_EQ(last(slot, 0), std::nullopt);

  Slot& synced = ranges(Op::discard, {{0, 4096, true}});
  start(synced);
  EXPECT_EQ(answer(synced, 0), std::nullopt);
  leave({&synced});
  EXPECT_EQ(last(synced, 0), Status::ok);
}

// ---------------------------------------------------------------- bounce buffers

class BouncedLeaveTest : public LeaveTest {
 protected:
  BouncedLeaveTest() {
    image_.file = open(O_DIRECT);
    image_.buffered = open(0);
    image_.direct = true;
    image_.memory_alignment = 512;
    image_.offset_alignment = 512;
  }
  Slot& odd(Op op, std::uint64_t offset) { return data(op, offset, {page_.piece(1, 512)}); }
};

TEST_F(BouncedLeaveTest, WhatWaitsForABufferIsLeftAtOnce) {
  std::vector<Slot*> slots;
  for (std::uint64_t i = 0; i < 7; ++i) start(*slots.emplace_back(&odd(Op::write, i * 512)));
  EXPECT_EQ(prepared().size(), 4u) << "there are four buffers";
  leave({slots[4], slots[6]});
  EXPECT_FALSE(engine().is_leaving());
  EXPECT_EQ(answer(*slots[0], 512), Status::ok);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].user_data, reinterpret_cast<Tag>(slots[5])) << "another request goes on";
  EXPECT_EQ(answer(*slots[1], 512), Status::ok);
  EXPECT_TRUE(prepared().empty()) << "what is left does not";
}

TEST_F(BouncedLeaveTest, ABufferGoesToARequestThatStays) {
  std::vector<Slot*> slots;
  for (std::uint64_t i = 0; i < 6; ++i) start(*slots.emplace_back(&odd(Op::write, i * 512)));
  leave({slots[0], slots[4]});
  EXPECT_EQ(answer(*slots[0], -ECANCELED), std::nullopt);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].user_data, reinterpret_cast<Tag>(slots[5]));
}

TEST_F(BouncedLeaveTest, AReadReachesTheGuestOnlyIfItIsWhole) {
  const std::vector<std::byte> sector(512, std::byte{0x77});
  ASSERT_EQ(::pwrite(image_.buffered.get(), sector.data(), 512, 0), 512);
  for (const int result : {256, 512}) {
    page_.fill(0);
    std::vector<std::byte> expected(page_.bytes().begin(), page_.bytes().end());
    Slot& slot = odd(Op::read, 0);
    start(slot);
    ASSERT_FALSE(slot.progress.bounce.empty());
    std::ranges::copy(sector, slot.progress.bounce.begin());
    leave({&slot});
    EXPECT_EQ(last(slot, result), result == 512 ? std::optional(Status::ok) : std::nullopt);
    if (result == 512) std::ranges::copy(sector, expected.begin() + 1);
    EXPECT_TRUE(std::ranges::equal(page_.bytes(), expected)) << result;
  }
}

}  // namespace
}  // namespace blk
