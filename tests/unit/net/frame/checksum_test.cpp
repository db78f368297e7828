#include "backends/net/frame/checksum.hpp"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "tests/unit/net/frame/packet_fixture.hpp"

namespace net::tests {
namespace {

std::size_t in_network_order(std::uint16_t value) {
  return std::byteswap(value);
}

std::size_t sum_in_pieces(std::span<const std::byte> bytes, std::size_t piece) {
  Checksum checksum;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    checksum.add(bytes.subspan(at, std::min(piece, bytes.size() - at)));
  }
  return in_network_order(checksum.sum());
}

Bytes random_bytes(std::size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  Bytes bytes(count);
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

TEST(Checksum, IsTheOneOfTheRfc) {
  // RFC 1071, 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
  const std::array<std::uint8_t, 8> bytes{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  Checksum checksum;
  checksum.add(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(in_network_order(checksum.sum()), 0xddf2);
  EXPECT_EQ(in_network_order(checksum.value()), 0x220d);
}

TEST(Checksum, OfNothingIsAllOnes) {
  Checksum checksum;
  checksum.add({});
  EXPECT_EQ(checksum.sum(), 0);
  EXPECT_EQ(checksum.value(), 0xffff);
}

TEST(Checksum, SumsAnyLength) {
  const Bytes bytes = random_bytes(400);
  for (std::size_t length = 0; length <= bytes.size(); ++length) {
    const auto part = std::span(bytes).first(length);
    EXPECT_EQ(sum_in_pieces(part, 400), naive_sum(part)) << length;
  }
}

TEST(Checksum, SumsFromAnyAddress) {
  const Bytes bytes = random_bytes(400);
  for (std::size_t begin = 0; begin < 70; ++begin) {
    const auto part = std::span(bytes).subspan(begin);
    EXPECT_EQ(sum_in_pieces(part, 400), naive_sum(part)) << begin;
  }
}

TEST(Checksum, DoesNotCareWherePiecesEnd) {
  const Bytes bytes = random_bytes(9001);
  for (const std::size_t piece : {1UL, 2UL, 3UL, 7UL, 63UL, 64UL, 65UL, 127UL, 4096UL, 9000UL}) {
    EXPECT_EQ(sum_in_pieces(bytes, piece), naive_sum(bytes)) << piece;
  }
}

TEST(Checksum, CarriesEveryOverflow) {
  const Bytes ones(65536 + 1, std::byte{0xff});
  EXPECT_EQ(sum_in_pieces(ones, ones.size()), naive_sum(ones));
  EXPECT_EQ(sum_in_pieces(std::span(ones).first(65536), 65536), 0xffff);
  EXPECT_EQ(sum_in_pieces(ones, 1), naive_sum(ones));
}

TEST(Checksum, TakesFieldsAsTheyLie) {
  Checksum checksum;
  checksum.add_field(std::byteswap(std::uint16_t{0xfff0}));
  checksum.add_field(std::byteswap(std::uint16_t{0x0123}));
  EXPECT_EQ(in_network_order(checksum.sum()), 0x0114);
}

}  // namespace
}  // namespace net::tests
