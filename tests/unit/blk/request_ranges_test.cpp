#include <cstring>
#include <vector>

#include "tests/unit/blk/request_fixture.hpp"

namespace blk {
namespace {

/// DISCARD and WRITE_ZEROES.
using BlkRequestRanges = testing_tools::RequestFixture;

TEST_F(BlkRequestRanges, DiscardsEveryRange) {
  ASSERT_EQ(parse_segments(Type::discard, {{0, 2, 0}, {5, 3, 0}}), submit);
  EXPECT_EQ(request_.op, Op::discard);
  ASSERT_EQ(request_.ranges().size(), 2u);
  EXPECT_EQ(request_.ranges()[1].offset_bytes, 5 * 512u);
  EXPECT_EQ(request_.ranges()[1].length_bytes, 3 * 512u);
  EXPECT_FALSE(request_.ranges()[1].unmap);
}

TEST_F(BlkRequestRanges, WriteZeroesSaysPerRangeWhetherSpaceMayGo) {
  ASSERT_EQ(parse_segments(Type::write_zeroes, {{0, 2, 1}, {5, 3, 0}}), submit);
  EXPECT_EQ(request_.op, Op::write_zeroes);
  EXPECT_TRUE(request_.ranges()[0].unmap);
  EXPECT_FALSE(request_.ranges()[1].unmap);
}

TEST_F(BlkRequestRanges, SegmentMayBeSplitOverPieces) {
  const Segment segments[]{{1, 2, 0}, {4, 1, 0}};
  header(Type::discard);
  std::memcpy(out_.data() + 16, segments, sizeof segments);
  ASSERT_EQ(parse_cut({8, 15, 20, 5}, {1}), submit);
  ASSERT_EQ(request_.ranges().size(), 2u);
  EXPECT_EQ(request_.ranges()[0].offset_bytes, 512u);
  EXPECT_EQ(request_.ranges()[1].offset_bytes, 4 * 512u);
}

TEST_F(BlkRequestRanges, TakesAsManySegmentsAsItSaysAndNotOneMore) {
  for (const Type type : {Type::discard, Type::write_zeroes}) {
    EXPECT_EQ(parse_segments(type, {}), Status::io_error);
    EXPECT_EQ(parse_segments(type, std::vector<Segment>(1, {0, 1, 0})), submit);
    EXPECT_EQ(parse_segments(type, std::vector<Segment>(max_segments, {0, 1, 0})), submit);
    EXPECT_EQ(request_.ranges().size(), max_segments);
    EXPECT_EQ(parse_segments(type, std::vector<Segment>(max_segments + 1, {0, 1, 0})),
              Status::io_error);
  }
}

TEST_F(BlkRequestRanges, RefusesAPartOfASegment) {
  header(Type::discard);
  for (const std::size_t length : {1u, 15u, 17u, 31u}) {
    EXPECT_EQ(parse_cut({16 + length}, {1}), Status::io_error) << length;
  }
}

TEST_F(BlkRequestRanges, DiscardTakesNoFlag) {
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 1}}), Status::unsupported);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 2}}), Status::unsupported);
}

TEST_F(BlkRequestRanges, WriteZeroesTakesNoFlagButUnmap) {
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 1}}), submit);
  for (const std::uint32_t flags : {2u, 3u, 0x8000'0000u, 0xffff'ffffu}) {
    EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, flags}}), Status::unsupported) << flags;
  }
}

TEST_F(BlkRequestRanges, RangeMayEndWithTheDiskAndNotBehindIt) {
  for (const Type type : {Type::discard, Type::write_zeroes}) {
    EXPECT_EQ(parse_segments(type, {{7, 1, 0}}), submit);
    EXPECT_EQ(parse_segments(type, {{7, 2, 0}}), Status::io_error);
    EXPECT_EQ(parse_segments(type, {{8, 1, 0}}), Status::io_error);
  }
}

TEST_F(BlkRequestRanges, RefusesRangesThatOverflow) {
  disk_.max_discard_sectors = 0xffff'ffff;
  for (const Segment& segment :
       {Segment{~0ULL, 1, 0}, Segment{1ULL << 55, 1, 0}, Segment{~0ULL, 0xffff'ffff, 0},
        Segment{0, 0x0080'0000, 0}, Segment{0, 0x0080'0001, 0}, Segment{0, 0xffff'ffff, 0}}) {
    EXPECT_EQ(parse_segments(Type::discard, {segment}), Status::io_error)
        << segment.sector << '+' << segment.num_sectors;
  }
}

TEST_F(BlkRequestRanges, RangeLengthDoesNotWrapIn32Bits) {
  disk_.size_bytes = (1ULL << 24) * sector_bytes;
  disk_.max_discard_sectors = 1U << 24;
  ASSERT_EQ(parse_segments(Type::discard, {{0, 1U << 24, 0}}), submit);
  EXPECT_EQ(request_.ranges()[0].length_bytes, 1ULL << 33);
}

TEST_F(BlkRequestRanges, SegmentMayBeAsLongAsTheDiskSaysAndNotLonger) {
  EXPECT_EQ(parse_segments(Type::discard, {{0, 6, 0}}), submit);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 7, 0}}), Status::io_error);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 7, 0}}), submit);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 8, 0}}), Status::io_error);
}

TEST_F(BlkRequestRanges, LeavesEmptyRangesOut) {
  ASSERT_EQ(parse_segments(Type::discard, {{0, 0, 0}, {3, 1, 0}, {8, 0, 0}}), submit);
  ASSERT_EQ(request_.ranges().size(), 1u);
  EXPECT_EQ(request_.ranges()[0].offset_bytes, 3 * 512u);
}

TEST_F(BlkRequestRanges, AnswersRangesThatAreAllEmptyAtOnce) {
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 0, 0}, {8, 0, 1}}), Status::ok);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{9, 0, 0}}), Status::io_error);
}

TEST_F(BlkRequestRanges, RefusesAllRangesIfTheLastIsWrong) {
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}, {8, 1, 0}}), Status::io_error);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}, {1, 1, 4}}), Status::unsupported);
}

TEST_F(BlkRequestRanges, DoesNotDoWhatItDidNotOffer) {
  disk_.can_discard = false;
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}}), Status::unsupported);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 0}}), submit);
  disk_.can_write_zeroes = false;
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 0}}), Status::unsupported);
}

}  // namespace
}  // namespace blk
