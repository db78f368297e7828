#include <algorithm>
#include <string>
#include <vector>

#include "tests/unit/blk/request_fixture.hpp"

namespace blk {
namespace {

using BlkRequest = testing_tools::RequestFixture;

constexpr std::uint32_t secure_erase = 14;

// Framing.

TEST_F(BlkRequest, ReadsIntoEverythingBeforeTheStatusByte) {
  header(Type::in, 2);
  ASSERT_EQ(parse_cut({16}, {512, 1}), submit);
  EXPECT_EQ(request_.op, Op::read);
  EXPECT_EQ(request_.offset_bytes, 1024u);
  EXPECT_EQ(request_.length_bytes, 512u);
  ASSERT_EQ(request_.data.size(), 1u);
  EXPECT_EQ(request_.data[0].iov_base, in_.data());
  EXPECT_EQ(request_.status, in_.data() + 512);
}

TEST_F(BlkRequest, WritesEverythingBehindTheHeader) {
  header(Type::out, 7);
  ASSERT_EQ(parse_cut({16, 500, 12}, {1}), submit);
  EXPECT_EQ(request_.op, Op::write);
  EXPECT_EQ(request_.offset_bytes, 7 * 512u);
  EXPECT_EQ(request_.length_bytes, 512u);
  ASSERT_EQ(request_.data.size(), 2u);
  EXPECT_EQ(request_.data[0].iov_base, out_.data() + 16);
}

TEST_F(BlkRequest, HeaderMayComeInPiecesAndShareTheLastWithData) {
  header(Type::out, 1);
  ASSERT_EQ(parse_cut({4, 11, 1 + 512}, {1}), submit);
  EXPECT_EQ(request_.offset_bytes, 512u);
  EXPECT_EQ(request_.length_bytes, 512u);
  EXPECT_EQ(request_.data[0].iov_base, out_.data() + 16);
}

TEST_F(BlkRequest, HeaderMayComeByteByByte) {
  header(Type::flush);
  EXPECT_EQ(parse_cut(std::vector<std::size_t>(16, 1), {1}), submit);
  EXPECT_EQ(request_.op, Op::flush);
}

TEST_F(BlkRequest, StatusByteMayShareAPieceWithData) {
  header(Type::in);
  ASSERT_EQ(parse_cut({16}, {513}), submit);
  EXPECT_EQ(request_.length_bytes, 512u);
  EXPECT_EQ(request_.data[0].iov_len, 512u);
  EXPECT_EQ(request_.status, in_.data() + 512);
}

TEST_F(BlkRequest, EmptyPiecesMeanNothing) {
  header(Type::in);
  ASSERT_EQ(parse_cut({0, 8, 0, 8, 0}, {0, 512, 0, 1, 0}), submit);
  EXPECT_EQ(request_.length_bytes, 512u);
  EXPECT_EQ(request_.status, in_.data() + 512);
}

TEST_F(BlkRequest, TakesMorePiecesThanTheDriverWasTold) {
  disk_.size_bytes = 2000 * sector_bytes;
  in_.resize(1500 * 512 + 1);
  header(Type::in);
  std::vector<std::size_t> room(1500, 512);
  room.push_back(1);
  ASSERT_EQ(parse_cut({16}, room), submit);
  EXPECT_EQ(request_.data.size(), 1500u);
  EXPECT_EQ(request_.length_bytes, 1500u * 512);
}

TEST_F(BlkRequest, RefusesShortHeader) {
  header(Type::flush);
  EXPECT_EQ(parse_cut({15}, {1}), Status::io_error);
  EXPECT_EQ(parse_cut({}, {1}), Status::io_error);
  EXPECT_EQ(parse_cut({16}, {1}), submit);
}

TEST_F(BlkRequest, IgnoresReadableBytesBehindTheHeaderOfARead) {
  header(Type::in);
  EXPECT_EQ(parse_cut({17}, {513}), submit);
}

TEST_F(BlkRequest, HasNowhereToAnswerWithoutAWritableByte) {
  header(Type::out);
  EXPECT_EQ(parse_cut({16 + 512}, {}), Status::io_error);
  EXPECT_EQ(request_.status, nullptr);
  EXPECT_EQ(used_length(request_, Status::io_error), 0u);
  EXPECT_EQ(parse_cut({16 + 512}, {0}), Status::io_error);
  EXPECT_EQ(request_.status, nullptr);
}

TEST_F(BlkRequest, UsesTheHeaderItCopiedAndNotWhatTheGuestMakesOfIt) {
  header(Type::in, 1);
  ASSERT_EQ(parse_cut({16}, {513}), submit);
  header(Type::out, 100);
  EXPECT_EQ(request_.op, Op::read);
  EXPECT_EQ(request_.offset_bytes, 512u);
}

// Bounds.

TEST_F(BlkRequest, ReadsTheLastSectorAndNotOneMore) {
  header(Type::in, 7);
  EXPECT_EQ(parse_cut({16}, {512, 1}), submit);
  EXPECT_EQ(parse_cut({16}, {1024, 1}), Status::io_error);
  header(Type::in, 8);
  EXPECT_EQ(parse_cut({16}, {512, 1}), Status::io_error);
}

TEST_F(BlkRequest, ReadsTheWholeDiskAndNotMore) {
  header(Type::in);
  EXPECT_EQ(parse_cut({16}, {8 * 512, 1}), submit);
  EXPECT_EQ(parse_cut({16}, {9 * 512, 1}), Status::io_error);
}

TEST_F(BlkRequest, RefusesSectorWhoseByteOffsetOverflows) {
  for (const std::uint64_t sector : {1ULL << 55, (1ULL << 55) + 1, ~0ULL, ~0ULL - 7, 1ULL << 63}) {
    header(Type::in, sector);
    EXPECT_EQ(parse_cut({16}, {512, 1}), Status::io_error) << sector;
    header(Type::out, sector);
    EXPECT_EQ(parse_cut({16 + 512}, {1}), Status::io_error) << sector;
  }
}

TEST_F(BlkRequest, RefusesPartialSectors) {
  for (const std::size_t length : {1u, 511u, 513u, 1023u}) {
    header(Type::out);
    EXPECT_EQ(parse_cut({16 + length}, {1}), Status::io_error) << length;
    header(Type::in);
    EXPECT_EQ(parse_cut({16}, {length, 1}), Status::io_error) << length;
  }
}

TEST_F(BlkRequest, AnswersARequestOfNoBytesAtOnce) {
  header(Type::in, 8);
  EXPECT_EQ(parse_cut({16}, {1}), Status::ok);
  header(Type::out);
  EXPECT_EQ(parse_cut({16}, {1}), Status::ok);
  header(Type::in, 9);
  EXPECT_EQ(parse_cut({16}, {1}), Status::io_error);
}

// Types.

TEST_F(BlkRequest, TakesAFlushWithItsLegacyNumberToo) {
  header(Type::flush_out);
  EXPECT_EQ(parse_cut({16}, {1}), submit);
  EXPECT_EQ(request_.op, Op::flush);
}

TEST_F(BlkRequest, IgnoresDataAndSectorOfAFlush) {
  header(Type::flush, 1000);
  EXPECT_EQ(parse_cut({16 + 5}, {3}), submit);
}

TEST_F(BlkRequest, AnswersUnknownTypesWithUnsupported) {
  for (const std::uint32_t type :
       {2u, 3u, 6u, 7u, 9u, 10u, 12u, secure_erase, 15u, 16u, 77u, 0x8000'0000u, 0xffff'ffffu}) {
    header(type);
    EXPECT_EQ(parse_cut({16 + 512}, {1}), Status::unsupported) << type;
    EXPECT_EQ(request_.op, Op::other) << type;
  }
}

TEST_F(BlkRequest, ReadOnlyDiskRefusesEverythingThatChangesIt) {
  disk_.read_only = true;
  header(Type::out);
  EXPECT_EQ(parse_cut({16 + 512}, {1}), Status::io_error);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}}), Status::io_error);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 0}}), Status::io_error);
  header(secure_erase);
  EXPECT_NE(parse_cut({32}, {1}).value_or(Status::ok), Status::ok);
}

TEST_F(BlkRequest, ReadOnlyDiskServesReadsFlushesAndItsName) {
  disk_.read_only = true;
  header(Type::in);
  EXPECT_EQ(parse_cut({16}, {513}), submit);
  header(Type::flush);
  EXPECT_EQ(parse_cut({16}, {1}), submit);
  header(Type::get_id);
  EXPECT_EQ(parse_cut({16}, {21}), Status::ok);
}

// GET_ID.

TEST_F(BlkRequest, NamesTheDiskWithoutANulIfAllTwentyBytesAreUsed) {
  header(Type::get_id);
  ASSERT_EQ(parse_cut({16}, {20, 1}), Status::ok);
  EXPECT_EQ(room(21), "serial-of-20-bytes--x");
  EXPECT_EQ(used_length(request_, Status::ok), 21u);
}

TEST_F(BlkRequest, PadsAShortNameWithNul) {
  disk_.set_serial("short");
  header(Type::get_id);
  ASSERT_EQ(parse_cut({16}, {20, 1}), Status::ok);
  EXPECT_EQ(room(20), std::string("short") + std::string(15, '\0'));
}

TEST_F(BlkRequest, FillsAsMuchOfTheRoomAsTheNameNeeds) {
  for (const std::size_t size : {0u, 1u, 19u, 20u, 21u, 600u}) {
    std::ranges::fill(in_, std::byte{'x'});
    header(Type::get_id);
    ASSERT_EQ(parse_cut({16}, {size, 1}), Status::ok) << size;
    const std::size_t named = std::min<std::size_t>(size, 20);
    EXPECT_EQ(room(named), std::string("serial-of-20-bytes--").substr(0, named));
    EXPECT_EQ(in_[named], std::byte{'x'}) << "wrote beyond " << named;
    EXPECT_EQ(used_length(request_, Status::ok), size <= 20 ? size + 1 : 20) << size;
  }
}

TEST_F(BlkRequest, NamesTheDiskIntoPieces) {
  header(Type::get_id);
  ASSERT_EQ(parse_cut({16}, {3, 0, 10, 8}), Status::ok);
  EXPECT_EQ(room(21), "serial-of-20-bytes--x");
}

TEST_F(BlkRequest, ASlotUsedAgainRemembersNothing) {
  ASSERT_EQ(parse_segments(Type::discard, {{0, 1, 0}}), submit);
  header(Type::in, 3);
  ASSERT_EQ(parse_cut({16}, {513}), submit);
  EXPECT_TRUE(request_.ranges().empty());
  header(Type::flush);
  ASSERT_EQ(parse_cut({16}, {1}), submit);
  EXPECT_EQ(request_.length_bytes, 0u);
  EXPECT_TRUE(request_.data.empty());
}

// Used length.

TEST_F(BlkRequest, ClaimsAllItWroteForARead) {
  header(Type::in);
  ASSERT_EQ(parse_cut({16}, {1025}), submit);
  EXPECT_EQ(used_length(request_, Status::ok), 1025u);
}

TEST_F(BlkRequest, ClaimsNothingItMayNotHaveWritten) {
  header(Type::in);
  ASSERT_EQ(parse_cut({16}, {1025}), submit);
  EXPECT_EQ(used_length(request_, Status::io_error), 0u);
  header(Type::out);
  ASSERT_EQ(parse_cut({16 + 512}, {8}), submit);
  EXPECT_EQ(used_length(request_, Status::ok), 0u);
}

TEST_F(BlkRequest, ClaimsTheStatusByteOfAWrite) {
  header(Type::out);
  ASSERT_EQ(parse_cut({16 + 512}, {1}), submit);
  EXPECT_EQ(used_length(request_, Status::ok), 1u);
  EXPECT_EQ(used_length(request_, Status::io_error), 1u);
}

}  // namespace
}  // namespace blk
