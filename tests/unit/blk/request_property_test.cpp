#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "backends/blk/request.hpp"

namespace blk {
namespace {

/// Chains as a hostile driver might make them, the same ones in every run.
class BlkRequestProperties : public testing::Test {
 protected:
  BlkRequestProperties() {
    disk_.size_bytes = 64 * sector_bytes;
    disk_.can_discard = true;
    disk_.max_discard_sectors = 40;
    disk_.can_write_zeroes = true;
    disk_.max_write_zeroes_sectors = 40;
    disk_.set_serial("a-serial");
  }

  std::uint64_t upto(std::uint64_t last) { return random_() % (last + 1); }

  /// A sector near one of the places where arithmetic goes wrong.
  std::uint64_t sector() {
    static constexpr std::uint64_t places[]{0, 32, 64, 1ULL << 32, 1ULL << 55, ~0ULL - 70};
    return places[upto(std::size(places) - 1)] + upto(70);
  }

  std::vector<std::byte> readable() {
    static constexpr std::uint32_t types[]{0, 1, 4, 5, 8, 11, 13, 14};
    const RequestHeader header{types[upto(7)], 0, sector()};
    std::vector<std::byte> bytes(16 + upto(3) * 512);
    std::memcpy(bytes.data(), &header, sizeof header);
    if (upto(1) == 0) bytes.resize(16 + upto(max_segments + 2) * sizeof(Segment));
    for (std::size_t at = 16; at + sizeof(Segment) <= bytes.size(); at += sizeof(Segment)) {
      const Segment segment{upto(9) == 0 ? sector() : upto(40),
                            static_cast<std::uint32_t>(upto(25)),
                            upto(60) == 0 ? static_cast<std::uint32_t>(random_()) : 0};
      std::memcpy(bytes.data() + at, &segment, sizeof segment);
    }
    if (upto(9) == 0) bytes.resize(upto(bytes.size()));
    return bytes;
  }

  std::vector<iovec> cut(std::span<std::byte> bytes) {
    std::vector<iovec> pieces;
    while (!bytes.empty()) {
      const auto size = static_cast<std::size_t>(upto(upto(1) == 0 ? 20 : bytes.size()));
      const auto piece = bytes.first(std::min(size, bytes.size()));
      pieces.push_back({piece.data(), piece.size()});
      bytes = bytes.subspan(piece.size());
    }
    return pieces;
  }

  std::mt19937_64 random_{20240229};
  Disk disk_;
};

TEST_F(BlkRequestProperties, WhateverIsSubmittedLiesInsideTheDisk) {
  int submitted = 0;
  for (int i = 0; i < 20'000; ++i) {
    auto out = readable();
    std::vector<std::byte> in(upto(3) * 512 + upto(2));
    auto out_pieces = cut(out), in_pieces = cut(in);
    Request request;
    if (parse(GuestBytes(out_pieces), GuestBytes(in_pieces), disk_, request)) continue;
    ++submitted;
    ASSERT_NE(request.status, nullptr);
    ASSERT_LE(request.offset_bytes, disk_.size_bytes);
    ASSERT_LE(request.length_bytes, disk_.size_bytes - request.offset_bytes);
    std::uint64_t in_pieces_bytes = 0;
    for (const iovec& piece : request.data) in_pieces_bytes += piece.iov_len;
    ASSERT_EQ(in_pieces_bytes, request.length_bytes);
    for (const Range& range : request.ranges()) {
      ASSERT_GT(range.length_bytes, 0u);
      ASSERT_LE(range.offset_bytes, disk_.size_bytes);
      ASSERT_LE(range.length_bytes, disk_.size_bytes - range.offset_bytes);
    }
  }
  EXPECT_GT(submitted, 2000);  // or the chains were all nonsense
}

TEST_F(BlkRequestProperties, TheSameBytesAreTheSameRequestHoweverTheyAreCut) {
  for (int i = 0; i < 20'000; ++i) {
    auto out = readable();
    std::vector<std::byte> in(upto(3) * 512 + upto(2));
    std::vector<iovec> whole_out{{out.data(), out.size()}}, whole_in{{in.data(), in.size()}};
    auto cut_out = cut(out), cut_in = cut(in);
    Request whole, pieces;
    const auto expected = parse(GuestBytes(whole_out), GuestBytes(whole_in), disk_, whole);
    ASSERT_EQ(parse(GuestBytes(cut_out), GuestBytes(cut_in), disk_, pieces), expected);
    ASSERT_EQ(pieces.op, whole.op);
    ASSERT_EQ(pieces.status, whole.status);
    ASSERT_EQ(pieces.offset_bytes, whole.offset_bytes);
    ASSERT_EQ(pieces.length_bytes, whole.length_bytes);
    ASSERT_EQ(pieces.range_count, whole.range_count);
    const Status answer = expected.value_or(Status::ok);
    ASSERT_EQ(used_length(pieces, answer), used_length(whole, answer));
  }
}

}  // namespace
}  // namespace blk
