#include "backends/blk/request.hpp"

#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace blk {
namespace {

constexpr std::uint32_t type_of(Type type) {
  return static_cast<std::uint32_t>(type);
}
constexpr std::uint32_t secure_erase = 14;

/// A chain written as a driver would: readable bytes, writable room, cut anywhere.
class BlkRequest : public testing::Test {
 protected:
  BlkRequest() {
    disk_.size_bytes = 8 * sector_bytes;
    disk_.can_discard = true;
    disk_.max_discard_sectors = 6;
    disk_.can_write_zeroes = true;
    disk_.max_write_zeroes_sectors = 7;
    disk_.set_serial("serial-of-20-bytes--");
  }

  void header(std::uint32_t type, std::uint64_t sector = 0) {
    const RequestHeader h{type, 0, sector};
    std::memcpy(out_.data(), &h, sizeof h);
  }
  void header(Type type, std::uint64_t sector = 0) { header(type_of(type), sector); }

  /// Header and segments, uncut.
  std::optional<Status> parse_segments(Type type, const std::vector<Segment>& segments) {
    header(type);
    std::memcpy(out_.data() + 16, segments.data(), segments.size() * sizeof(Segment));
    return parse_cut({16 + segments.size() * sizeof(Segment)}, {1});
  }

  /// Nothing: for the storage.
  std::optional<Status> parse_cut(const std::vector<std::size_t>& out,
                                  const std::vector<std::size_t>& in) {
    out_pieces_ = cut(out_, out);
    in_pieces_ = cut(in_, in);
    return parse(GuestBytes(out_pieces_), GuestBytes(in_pieces_), disk_, request_);
  }

  [[nodiscard]] std::string room(std::size_t bytes) const {
    return {reinterpret_cast<const char*>(in_.data()), bytes};
  }

  static constexpr std::optional<Status> submit = std::nullopt;

  Disk disk_;
  Request request_;
  std::vector<std::byte> out_ = std::vector<std::byte>(8192);
  std::vector<std::byte> in_ = std::vector<std::byte>(8192, std::byte{'x'});

 private:
  static std::vector<iovec> cut(std::vector<std::byte>& bytes,
                                const std::vector<std::size_t>& sizes) {
    std::vector<iovec> pieces;
    std::byte* at = bytes.data();
    for (const std::size_t size : sizes) {
      pieces.push_back({at, size});
      at += size;
    }
    return pieces;
  }

  std::vector<iovec> out_pieces_, in_pieces_;
};

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

// DISCARD and WRITE_ZEROES.

TEST_F(BlkRequest, DiscardsEveryRange) {
  ASSERT_EQ(parse_segments(Type::discard, {{0, 2, 0}, {5, 3, 0}}), submit);
  EXPECT_EQ(request_.op, Op::discard);
  ASSERT_EQ(request_.ranges().size(), 2u);
  EXPECT_EQ(request_.ranges()[1].offset_bytes, 5 * 512u);
  EXPECT_EQ(request_.ranges()[1].length_bytes, 3 * 512u);
  EXPECT_FALSE(request_.ranges()[1].unmap);
}

TEST_F(BlkRequest, WriteZeroesSaysPerRangeWhetherSpaceMayGo) {
  ASSERT_EQ(parse_segments(Type::write_zeroes, {{0, 2, 1}, {5, 3, 0}}), submit);
  EXPECT_EQ(request_.op, Op::write_zeroes);
  EXPECT_TRUE(request_.ranges()[0].unmap);
  EXPECT_FALSE(request_.ranges()[1].unmap);
}

TEST_F(BlkRequest, SegmentMayBeSplitOverPieces) {
  const Segment segments[]{{1, 2, 0}, {4, 1, 0}};
  header(Type::discard);
  std::memcpy(out_.data() + 16, segments, sizeof segments);
  ASSERT_EQ(parse_cut({8, 15, 20, 5}, {1}), submit);
  ASSERT_EQ(request_.ranges().size(), 2u);
  EXPECT_EQ(request_.ranges()[0].offset_bytes, 512u);
  EXPECT_EQ(request_.ranges()[1].offset_bytes, 4 * 512u);
}

TEST_F(BlkRequest, TakesAsManySegmentsAsItSaysAndNotOneMore) {
  for (const Type type : {Type::discard, Type::write_zeroes}) {
    EXPECT_EQ(parse_segments(type, {}), Status::io_error);
    EXPECT_EQ(parse_segments(type, std::vector<Segment>(1, {0, 1, 0})), submit);
    EXPECT_EQ(parse_segments(type, std::vector<Segment>(max_segments, {0, 1, 0})), submit);
    EXPECT_EQ(request_.ranges().size(), max_segments);
    EXPECT_EQ(parse_segments(type, std::vector<Segment>(max_segments + 1, {0, 1, 0})),
              Status::io_error);
  }
}

TEST_F(BlkRequest, RefusesAPartOfASegment) {
  header(Type::discard);
  for (const std::size_t length : {1u, 15u, 17u, 31u}) {
    EXPECT_EQ(parse_cut({16 + length}, {1}), Status::io_error) << length;
  }
}

TEST_F(BlkRequest, DiscardTakesNoFlag) {
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 1}}), Status::unsupported);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 2}}), Status::unsupported);
}

TEST_F(BlkRequest, WriteZeroesTakesNoFlagButUnmap) {
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 1}}), submit);
  for (const std::uint32_t flags : {2u, 3u, 0x8000'0000u, 0xffff'ffffu}) {
    EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, flags}}), Status::unsupported) << flags;
  }
}

TEST_F(BlkRequest, RangeMayEndWithTheDiskAndNotBehindIt) {
  for (const Type type : {Type::discard, Type::write_zeroes}) {
    EXPECT_EQ(parse_segments(type, {{7, 1, 0}}), submit);
    EXPECT_EQ(parse_segments(type, {{7, 2, 0}}), Status::io_error);
    EXPECT_EQ(parse_segments(type, {{8, 1, 0}}), Status::io_error);
  }
}

TEST_F(BlkRequest, RefusesRangesThatOverflow) {
  disk_.max_discard_sectors = 0xffff'ffff;
  for (const Segment& segment :
       {Segment{~0ULL, 1, 0}, Segment{1ULL << 55, 1, 0}, Segment{~0ULL, 0xffff'ffff, 0},
        Segment{0, 0x0080'0000, 0}, Segment{0, 0x0080'0001, 0}, Segment{0, 0xffff'ffff, 0}}) {
    EXPECT_EQ(parse_segments(Type::discard, {segment}), Status::io_error)
        << segment.sector << '+' << segment.num_sectors;
  }
}

TEST_F(BlkRequest, RangeLengthDoesNotWrapIn32Bits) {
  disk_.size_bytes = (1ULL << 24) * sector_bytes;
  disk_.max_discard_sectors = 1U << 24;
  ASSERT_EQ(parse_segments(Type::discard, {{0, 1U << 24, 0}}), submit);
  EXPECT_EQ(request_.ranges()[0].length_bytes, 1ULL << 33);
}

TEST_F(BlkRequest, SegmentMayBeAsLongAsTheDiskSaysAndNotLonger) {
  EXPECT_EQ(parse_segments(Type::discard, {{0, 6, 0}}), submit);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 7, 0}}), Status::io_error);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 7, 0}}), submit);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 8, 0}}), Status::io_error);
}

TEST_F(BlkRequest, LeavesEmptyRangesOut) {
  ASSERT_EQ(parse_segments(Type::discard, {{0, 0, 0}, {3, 1, 0}, {8, 0, 0}}), submit);
  ASSERT_EQ(request_.ranges().size(), 1u);
  EXPECT_EQ(request_.ranges()[0].offset_bytes, 3 * 512u);
}

TEST_F(BlkRequest, AnswersRangesThatAreAllEmptyAtOnce) {
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 0, 0}, {8, 0, 1}}), Status::ok);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{9, 0, 0}}), Status::io_error);
}

TEST_F(BlkRequest, RefusesAllRangesIfTheLastIsWrong) {
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}, {8, 1, 0}}), Status::io_error);
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}, {1, 1, 4}}), Status::unsupported);
}

TEST_F(BlkRequest, DoesNotDoWhatItDidNotOffer) {
  disk_.can_discard = false;
  EXPECT_EQ(parse_segments(Type::discard, {{0, 1, 0}}), Status::unsupported);
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 0}}), submit);
  disk_.can_write_zeroes = false;
  EXPECT_EQ(parse_segments(Type::write_zeroes, {{0, 1, 0}}), Status::unsupported);
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
