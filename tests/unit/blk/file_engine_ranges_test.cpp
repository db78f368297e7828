/*
 * Discard and write-zeroes on a file: which operation, where, and what becomes of the bytes.
 */
#include <linux/falloc.h>
#include <sys/stat.h>

#include "backends/blk/file_engine.hpp"
#include "tests/unit/blk/engine_fixture.hpp"

namespace blk {
namespace {

constexpr unsigned punch = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
constexpr unsigned zero = FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE;
constexpr std::uint64_t mib = 1 << 20;

class RangesTest : public testing_tools::EngineTest {
 protected:
  RangesTest() { image_.fallocate_alignment = 4096; }

  /// Expects one fallocate() since the last look.
  void expect_fallocate(unsigned mode, std::uint64_t offset, std::uint64_t length) {
    const auto operations = prepared();
    ASSERT_EQ(operations.size(), 1u);
    EXPECT_EQ(operations[0].opcode, IORING_OP_FALLOCATE);
    EXPECT_EQ(operations[0].len, mode);
    EXPECT_EQ(operations[0].off, offset);
    EXPECT_EQ(operations[0].addr, length);
  }
  void expect_write(std::uint64_t offset, std::uint64_t length) {
    const auto operations = prepared();
    ASSERT_EQ(operations.size(), 1u);
    EXPECT_EQ(operations[0].opcode, IORING_OP_WRITE);
    EXPECT_EQ(operations[0].off, offset);
    EXPECT_EQ(operations[0].len, length);
  }
};

TEST_F(RangesTest, DiscardPunchesTheUnitsThatItFills) {
  start(ranges(Op::discard, {{512, 12288, false}}));
  expect_fallocate(punch, 4096, 8192);
  start(ranges(Op::discard, {{4096, 4096, false}}));
  expect_fallocate(punch, 4096, 4096);
}

TEST_F(RangesTest, DiscardThatFillsNoUnitIsDone) {
  Slot& slot = ranges(Op::discard, {{512, 4096, false}, {8192, 4095, false}});
  start(slot);
  EXPECT_EQ(status_of(slot), Status::ok);
  EXPECT_TRUE(prepared().empty());
}

TEST_F(RangesTest, DiscardLeavesWhatIsAroundIt) {
  fill_file(std::byte{7});
  EXPECT_EQ(run(ranges(Op::discard, {{512, 12288, false}, {65536, 4096, false}})), Status::ok);
  EXPECT_TRUE(file_is(0, 4096, std::byte{7}));
  EXPECT_TRUE(file_is(4096, 8192, std::byte{0}));
  EXPECT_TRUE(file_is(12288, 53248, std::byte{7}));
  EXPECT_TRUE(file_is(65536, 4096, std::byte{0}));
  EXPECT_TRUE(file_is(69632, 4096, std::byte{7}));
}

TEST_F(RangesTest, DiscardThatTheStorageCannotDoIsDone) {
  Slot& slot = ranges(Op::discard, {{0, 4096, false}, {8192, 4096, false}});
  start(slot);
  (void)prepared();
  EXPECT_EQ(answer(slot, -EOPNOTSUPP), std::nullopt);
  expect_fallocate(punch, 8192, 4096);
  EXPECT_EQ(answer(slot, -EOPNOTSUPP), Status::ok);
}

TEST_F(RangesTest, ZeroesComeByTheCheapestWayThereIs) {
  start(ranges(Op::write_zeroes, {{4096, 8192, true}}));
  expect_fallocate(punch, 4096, 8192);
  start(ranges(Op::write_zeroes, {{4096, 8192, false}}));
  expect_fallocate(zero, 4096, 8192);
  image_.punch_hole_supported = false;
  start(ranges(Op::write_zeroes, {{4096, 8192, true}}));
  expect_fallocate(zero, 4096, 8192);
  image_.zero_range_supported = false;
  start(ranges(Op::write_zeroes, {{4096, 8192, true}}));
  expect_write(4096, 8192);
}

TEST_F(RangesTest, ZeroesThatDoNotFillUnitsAreWritten) {
  start(ranges(Op::write_zeroes, {{512, 8192, true}}));
  expect_write(512, 8192);
  start(ranges(Op::write_zeroes, {{4096, 512, false}}));
  expect_write(4096, 512);
}

TEST_F(RangesTest, ZeroesAreThereByWhateverWay) {
  for (const bool unmap : {false, true}) {
    for (const bool supported : {false, true}) {
      image_.punch_hole_supported = image_.zero_range_supported = supported;
      fill_file(std::byte{7});
      EXPECT_EQ(run(ranges(Op::write_zeroes, {{4096, 8192, unmap}, {20480, 512, unmap}})),
                Status::ok);
      EXPECT_TRUE(file_is(0, 4096, std::byte{7}));
      EXPECT_TRUE(file_is(4096, 8192, std::byte{0}));
      EXPECT_TRUE(file_is(12288, 8192, std::byte{7}));
      EXPECT_TRUE(file_is(20480, 512, std::byte{0}));
      EXPECT_TRUE(file_is(20992, 4096, std::byte{7}));
    }
  }
}

TEST_F(RangesTest, ZeroesAreWrittenWhereTheFileSystemTurnsOutNotToZero) {
  Slot& slot = ranges(Op::write_zeroes, {{0, 4096, false}, {8192, 4096, true}});
  start(slot);
  expect_fallocate(zero, 0, 4096);
  EXPECT_EQ(answer(slot, -EOPNOTSUPP), std::nullopt);
  expect_write(0, 4096);
  EXPECT_EQ(answer(slot, 4096), std::nullopt);
  expect_write(8192, 4096);  // not asked again for this request
  EXPECT_EQ(answer(slot, 4096), Status::ok);
}

TEST_F(RangesTest, LongZeroesAreWrittenInParts) {
  image_.zero_range_supported = false;
  Slot& slot = ranges(Op::write_zeroes, {{0, 5 * mib, false}, {8 * mib, 512, false}});
  start(slot);
  expect_write(0, 2 * mib);
  EXPECT_EQ(answer(slot, 2 * mib), std::nullopt);
  expect_write(2 * mib, 2 * mib);
  EXPECT_EQ(answer(slot, 512), std::nullopt);
  expect_write(2 * mib + 512, 2 * mib);
  EXPECT_EQ(answer(slot, -EAGAIN), std::nullopt);
  expect_write(2 * mib + 512, 2 * mib);
  EXPECT_EQ(answer(slot, 2 * mib), std::nullopt);
  expect_write(4 * mib + 512, mib - 512);
  EXPECT_EQ(answer(slot, mib - 512), std::nullopt);
  expect_write(8 * mib, 512);
  EXPECT_EQ(answer(slot, 512), Status::ok);
}

TEST_F(RangesTest, AWayFromWritingBackToTheFileSystemKeepsTheCount) {
  Slot& slot =
      ranges(Op::write_zeroes, {{512, 512, false}, {4096, 4096, false}, {8192, 512, false}});
  start(slot);
  expect_write(512, 512);
  EXPECT_EQ(answer(slot, 512), std::nullopt);
  expect_fallocate(zero, 4096, 4096);
  EXPECT_EQ(answer(slot, -EINTR), std::nullopt);
  expect_fallocate(zero, 4096, 4096);
  EXPECT_EQ(answer(slot, 0), std::nullopt);
  expect_write(8192, 512);
  EXPECT_EQ(answer(slot, 512), Status::ok);
}

TEST_F(RangesTest, AnErrorEndsTheRequest) {
  Slot& discard = ranges(Op::discard, {{0, 4096, false}, {8192, 4096, false}});
  start(discard);
  (void)prepared();
  EXPECT_EQ(answer(discard, -EIO), Status::io_error);
  EXPECT_TRUE(prepared().empty());
  Slot& zeroes = ranges(Op::write_zeroes, {{512, 512, false}});
  start(zeroes);
  EXPECT_EQ(answer(zeroes, 0), Status::io_error);
  Slot& refused = ranges(Op::write_zeroes, {{512, 512, false}});
  start(refused);
  EXPECT_EQ(answer(refused, -EOPNOTSUPP), Status::io_error);
}

TEST_F(RangesTest, AreSyncedWhereWritesAreDurable) {
  durable_ = true;
  Slot& slot = ranges(Op::discard, {{0, 4096, false}});
  start(slot);
  expect_fallocate(punch, 0, 4096);
  EXPECT_EQ(answer(slot, 0), std::nullopt);
  auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].opcode, IORING_OP_FSYNC);
  EXPECT_EQ(answer(slot, -EIO), Status::io_error);
}

TEST_F(RangesTest, DoNotChangeTheSizeOfTheFile) {
  EXPECT_EQ(run(ranges(Op::write_zeroes, {{image_bytes - 4096, 8192, false}})), Status::ok);
  EXPECT_EQ(run(ranges(Op::discard, {{image_bytes - 4096, 8192, false}})), Status::ok);
  EXPECT_EQ(std::filesystem::file_size(path_), image_bytes);
}

TEST_F(RangesTest, OfADirectImageAreWrittenThroughTheFileThatTakesThem) {
  image_.direct = true;
  image_.offset_alignment = 4096;
  image_.buffered = open(0);
  image_.zero_range_supported = false;
  start(ranges(Op::write_zeroes, {{4096, 4096, false}}));
  EXPECT_EQ(prepared().at(0).fd, 0);
  start(ranges(Op::write_zeroes, {{512, 512, false}}));
  EXPECT_EQ(prepared().at(0).fd, 1);
}

}  // namespace
}  // namespace blk
