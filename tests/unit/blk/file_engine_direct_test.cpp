/*
 * Direct I/O with requests that are not aligned: bounce buffers and the second descriptor.
 */
#include "backends/blk/file_engine.hpp"
#include "tests/unit/blk/engine_fixture.hpp"

namespace blk {
namespace {

using testing_tools::Pages;

/// As a file on a disk with sectors of 4096 bytes; direct wherever the file system can be.
class DirectTest : public testing_tools::EngineTest {
 protected:
  DirectTest() {
    image_.file = open(O_DIRECT);
    image_.buffered = open(0);
    image_.direct = true;
    image_.memory_alignment = 512;
    image_.offset_alignment = 4096;
  }
  [[nodiscard]] static bool is_at(const io_uring_sqe& entry, Pages& pages) {
    const auto begin = reinterpret_cast<std::uint64_t>(pages.at(0));
    return entry.addr >= begin && entry.addr < begin + pages.bytes().size();
  }
};

TEST_F(DirectTest, AlignedRequestsAreMovedAsTheyLie) {
  Pages out(2);
  out.fill(1);
  Slot& slot = data(Op::write, 8192, {out.piece(512, 4096)});
  start(slot);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_TRUE(is_at(operations[0], out));
  EXPECT_EQ(operations[0].fd, 0);
  EXPECT_EQ(bounced(), 0u);
  settle();
  EXPECT_TRUE(std::ranges::equal(file_bytes(8192, 4096), out.bytes().subspan(512, 4096)));
}

TEST_F(DirectTest, MisalignedMemoryGoesThroughABuffer) {
  Pages out(2);
  Pages in(2);
  out.fill(2);
  Slot& write = data(Op::write, 4096, {out.piece(1, 1000), out.piece(2000, 3096)});
  start(write);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_FALSE(is_at(operations[0], out));
  EXPECT_EQ(operations[0].addr % 4096, 0u);
  EXPECT_EQ(operations[0].fd, 0);
  settle();
  EXPECT_EQ(status_of(write), Status::ok);
  EXPECT_EQ(run(data(Op::read, 4096, {in.piece(3, 4000), in.piece(5000, 96)})), Status::ok);
  EXPECT_TRUE(std::ranges::equal(in.bytes().subspan(3, 1000), out.bytes().subspan(1, 1000)));
  EXPECT_TRUE(std::ranges::equal(in.bytes().subspan(1003, 3000), out.bytes().subspan(2000, 3000)));
  EXPECT_TRUE(std::ranges::equal(in.bytes().subspan(5000, 96), out.bytes().subspan(5000, 96)));
  EXPECT_EQ(in.bytes()[2], std::byte{0});
  EXPECT_EQ(in.bytes()[4003], std::byte{0});
  EXPECT_EQ(in.bytes()[5096], std::byte{0});
  EXPECT_EQ(bounced(), 2u);
}

TEST_F(DirectTest, PiecesThatAreNoWholeBlocksGoThroughABuffer) {
  Pages out(2);
  start(data(Op::write, 0, {out.piece(0, 512), out.piece(512, 3584)}));
  const auto operation = prepared().at(0);
  EXPECT_EQ(operation.opcode, IORING_OP_WRITE);
  EXPECT_FALSE(is_at(operation, out));
  EXPECT_EQ(bounced(), 1u);
}

TEST_F(DirectTest, MisalignedPlacesGoThroughThePageCache) {
  Pages out(2);
  Pages in(2);
  out.fill(3);
  Slot& place = data(Op::write, 512, {out.piece(1, 4096)});
  start(place);
  Slot& length = data(Op::write, 8192, {out.piece(1, 512)});
  start(length);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 2u);
  for (const auto& entry : operations) {
    EXPECT_EQ(entry.fd, 1);
    EXPECT_TRUE(is_at(entry, out));
  }
  settle();
  EXPECT_EQ(status_of(place), Status::ok);
  EXPECT_EQ(status_of(length), Status::ok);
  EXPECT_TRUE(std::ranges::equal(file_bytes(512, 4096), out.bytes().subspan(1, 4096)));
  EXPECT_EQ(run(data(Op::read, 512, {in.piece(1, 4096)})), Status::ok);
  EXPECT_TRUE(std::ranges::equal(in.bytes().subspan(1, 4096), out.bytes().subspan(1, 4096)));
  EXPECT_EQ(bounced(), 0u);
}

TEST_F(DirectTest, MoreMisalignedRequestsThanBuffersWaitForTheirTurn) {
  std::vector<Pages> out(10, Pages(2));
  std::vector<Slot*> slots;
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].fill(static_cast<int>(i) + 1);
    slots.push_back(&data(Op::write, i * 4096, {out[i].piece(1, 4096)}));
    start(*slots.back());
  }
  settle();
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(status_of(*slots[i]), Status::ok);
    EXPECT_TRUE(std::ranges::equal(file_bytes(i * 4096, 4096), out[i].bytes().subspan(1, 4096)));
  }
  EXPECT_EQ(bounced(), 10u);
}

TEST_F(DirectTest, ABufferGoesToWhoWaitedLongestEvenIfItsOwnerFailed) {
  Pages out(2);
  std::vector<Slot*> slots;
  for (std::size_t i = 0; i < 6; ++i) {
    slots.push_back(&data(Op::write, i * 4096, {out.piece(1, 4096)}));
    start(*slots.back());
  }
  EXPECT_EQ(prepared().size(), 4u);
  EXPECT_EQ(answer(*slots[2], -EIO), Status::io_error);
  auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].user_data, reinterpret_cast<Tag>(slots[4]));
  EXPECT_EQ(answer(*slots[4], 4096), Status::ok);
  operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].user_data, reinterpret_cast<Tag>(slots[5]));
  EXPECT_EQ(answer(*slots[5], 4096), Status::ok);
  EXPECT_TRUE(prepared().empty());
}

TEST_F(DirectTest, ARequestLargerThanABufferIsMovedInParts) {
  Pages out(151);
  Pages in(151);
  constexpr std::size_t length = std::size_t{150} * 4096;
  out.fill(4);
  EXPECT_EQ(run(data(Op::write, 4096, {out.piece(1, 9), out.piece(10, length - 9)})), Status::ok);
  EXPECT_EQ(bounced(), 3u);
  EXPECT_EQ(run(data(Op::read, 4096, {in.piece(1, length - 100), in.piece(length - 99, 100)})),
            Status::ok);
  EXPECT_TRUE(std::ranges::equal(in.bytes().subspan(1, length), out.bytes().subspan(1, length)));
}

TEST_F(DirectTest, AShortReadFillsOnlyWhatWasRead) {
  Pages in(3);
  in.fill(1);
  const std::byte before = *in.at(1 + 4096);
  Slot& slot = data(Op::read, 0, {in.piece(1, 8192)});
  start(slot);
  (void)prepared();
  EXPECT_EQ(answer(slot, 4096), std::nullopt);
  EXPECT_EQ(*in.at(1 + 4095), std::byte{0});
  EXPECT_EQ(*in.at(1 + 4096), before);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].off, 4096u);
  EXPECT_EQ(operations[0].len, 4096u);
}

TEST_F(DirectTest, AShortTransferThatLeavesMisalignedMemoryGoesOnThroughABuffer) {
  image_.memory_alignment = 4096;
  image_.offset_alignment = 512;
  Pages out(2);
  Slot& slot = data(Op::write, 0, {out.piece(0, 8192)});
  start(slot);
  EXPECT_TRUE(is_at(prepared().at(0), out));
  EXPECT_EQ(answer(slot, 512), std::nullopt);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_FALSE(is_at(operations[0], out));
  EXPECT_EQ(operations[0].off, 512u);
  EXPECT_EQ(operations[0].len, 8192u - 512);
}

TEST_F(DirectTest, DurabilityHoldsForCopiedWritesToo) {
  Pages out(2);
  durable_ = true;
  start(data(Op::write, 0, {out.piece(1, 4096)}));
  EXPECT_EQ(prepared().at(0).rw_flags, RWF_DSYNC);
}

}  // namespace
}  // namespace blk
