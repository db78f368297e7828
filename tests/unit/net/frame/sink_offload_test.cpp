#include <gtest/gtest.h>

#include "backends/net/frame/offload.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"
#include "tests/unit/net/frame/packet_fixture.hpp"

/* The half of offload.hpp that a sink uses. */
namespace net::tests {
namespace {

constexpr Accepts everything{true, true, true, true, true};
constexpr Accepts nothing{};

struct Asking : Frame {
  explicit Asking(const VnetHeader& request) {
    start(100, 100);
    offload = request;
  }
};

TEST(Missing, IsNothingOfAPlainFrame) {
  const Asking frame(VnetHeader{});
  EXPECT_EQ(missing(frame, nothing), Missing::nothing);
  EXPECT_EQ(missing(frame, everything), Missing::nothing);
}

TEST(Missing, IsNothingWhereTheChecksumIsGood) {
  const Asking frame({data_valid, 0, 0, 0, 0, 0});
  EXPECT_EQ(missing(frame, nothing), Missing::nothing);
  EXPECT_EQ(missing(frame, everything), Missing::nothing);
}

TEST(Missing, IsTheChecksumWhereItIsNotTaken) {
  const Asking frame({needs_csum, 0, 0, 0, 34, 16});
  EXPECT_EQ(missing(frame, nothing), Missing::checksum);
  EXPECT_EQ(missing(frame, {.tso4 = true}), Missing::checksum);
  EXPECT_EQ(missing(frame, {.checksum = true}), Missing::nothing);
}

TEST(Missing, IsSegmentationWhereItsKindIsNotTaken) {
  const auto of = [](std::uint8_t type, Accepts accepts) {
    accepts.checksum = true;
    return missing(Asking({needs_csum, type, 0, 1000, 34, 16}), accepts);
  };
  EXPECT_EQ(of(gso::tcp4, {.tso4 = true}), Missing::nothing);
  EXPECT_EQ(of(gso::tcp6, {.tso6 = true}), Missing::nothing);
  EXPECT_EQ(of(gso::udp, {.ufo = true}), Missing::nothing);
  EXPECT_EQ(of(gso::tcp4 | gso::ecn, {.tso4 = true, .ecn = true}), Missing::nothing);
  EXPECT_EQ(of(gso::tcp4, {.tso6 = true, .ecn = true, .ufo = true}), Missing::segmentation);
  EXPECT_EQ(of(gso::tcp6, {.tso4 = true, .ecn = true, .ufo = true}), Missing::segmentation);
  EXPECT_EQ(of(gso::udp, {.tso4 = true, .tso6 = true}), Missing::segmentation);
  EXPECT_EQ(of(gso::tcp4 | gso::ecn, {.tso4 = true}), Missing::segmentation);
}

TEST(Missing, IsSegmentationWhereTheReceiverTakesNoChecksum) {
  const Asking frame({needs_csum, gso::tcp4, 0, 1000, 34, 16});
  EXPECT_EQ(missing(frame, {.tso4 = true}), Missing::segmentation);
}

TEST(SegmentsOf, IsOneOfAFrameThatIsNotToBeCut) {
  EXPECT_EQ(segments_of(Asking(VnetHeader{})), 1U);
  EXPECT_EQ(segments_of(Asking({needs_csum, gso::none, 0, 0, 34, 16})), 1U);
}

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const bool ipv6 : {false, true}) {
    for (const bool udp : {false, true}) {
      for (const std::size_t payload : {0UL, 1UL, 63UL, 64UL, 1000UL, 1001UL, 9000UL}) {
        all.push_back({.ipv6 = ipv6, .udp = udp, .payload = payload});
      }
    }
  }
  return all;
}

TEST(CompleteChecksum, IsRightWhereverPiecesEnd) {
  for (const Shape& shape : shapes()) {
    const Bytes packet = make_packet(shape);
    for (const std::size_t piece : {1UL, 3UL, 77UL, 10000UL}) {
      for (const std::size_t head : {100UL, 101UL, 128UL, 256UL}) {
        OwnedFrame owned(packet, piece, head);
        ASSERT_EQ(check(owned.frame, shape.header(), everything), std::nullopt);
        complete_checksum(owned.frame);
        EXPECT_EQ(bytes_of(owned.frame), summed(shape, packet));
        EXPECT_TRUE(checksum_is_right(shape, bytes_of(owned.frame)));
        EXPECT_TRUE(owned.frame.plain());
      }
    }
  }
}

TEST(CompleteChecksum, GoesWithTheTagThatWasPutIn) {
  const Shape shape{.payload = 777};
  OwnedFrame owned(make_packet(shape));
  ASSERT_EQ(check(owned.frame, shape.header(), everything), std::nullopt);
  owned.frame.push_tag(100);
  complete_checksum(owned.frame);
  owned.frame.pop_tag();
  EXPECT_EQ(bytes_of(owned.frame), summed(shape, make_packet(shape)));
}

/// A packet whose checksum comes out as 0.
Bytes packet_that_sums_to_zero(const Shape& shape) {
  Bytes packet = make_packet(shape);
  set16(packet, shape.data(), 0);
  const auto transport = std::span(packet).subspan(shape.transport());
  set16(packet, shape.data(), 0xffff - naive_sum(transport));
  return packet;
}

TEST(CompleteChecksum, IsNever0ForUdp) {
  for (const bool udp : {false, true}) {
    const Shape shape{.udp = udp, .payload = 50};
    OwnedFrame owned(packet_that_sums_to_zero(shape));
    ASSERT_EQ(check(owned.frame, shape.header(), everything), std::nullopt);
    complete_checksum(owned.frame);
    EXPECT_EQ(get16(bytes_of(owned.frame), shape.checksum()), udp ? 0xffff : 0);
    EXPECT_TRUE(checksum_is_right(shape, bytes_of(owned.frame)));
  }
}

TEST(CompleteChecksum, SumsFromWhereItWasAskedTo) {
  const Bytes packet = counting_bytes(100);
  for (std::uint16_t start = 14; start <= 98; ++start) {
    OwnedFrame owned(packet, 1, 98);
    ASSERT_EQ(check(owned.frame, {needs_csum, 0, 0, 0, start, 0}, everything),
              start <= 96 ? std::nullopt : std::optional(Drop::bad_checksum));
    if (start > 96) continue;
    complete_checksum(owned.frame);
    Bytes expected = packet;
    set16(expected, start, 0xffff ^ naive_sum(std::span(packet).subspan(start)));
    EXPECT_EQ(bytes_of(owned.frame), expected) << start;
  }
}

VnetHeader header_of(const Shape& shape, std::uint8_t type, const Accepts& accepts) {
  OwnedFrame owned(make_packet(shape), SIZE_MAX, 256);
  EXPECT_EQ(check(owned.frame, shape.header(type, 1000), everything), std::nullopt);
  return header_for(owned.frame, accepts);
}

TEST(HeaderFor, IsEmptyForPlainFrames) {
  const Asking frame(VnetHeader{});
  for (const Accepts& accepts : {nothing, everything}) {
    EXPECT_EQ(std::ranges::count(vhost::bytes_of(header_for(frame, accepts)), std::byte{0}), 10);
  }
}

TEST(HeaderFor, PassesTheRequestOn) {
  const Shape shape{.payload = 100};
  const VnetHeader header = header_of(shape, gso::none, {.checksum = true});
  EXPECT_EQ(header.flags, needs_csum);
  EXPECT_EQ(header.gso_type, gso::none);
  EXPECT_EQ(header.hdr_len, 0);
  EXPECT_EQ(header.csum_start, 34);
  EXPECT_EQ(header.csum_offset, 16);
}

TEST(HeaderFor, SaysWhereTheHeadersEnd) {
  const Accepts accepts = everything;
  const Shape tcp4{.options = 12, .payload = 3000};
  EXPECT_EQ(header_of(tcp4, gso::tcp4, accepts).hdr_len, 66);
  const Shape tcp6{.ipv6 = true, .tags = 1, .extension = 8, .options = 40, .payload = 3000};
  const VnetHeader ecn = header_of(tcp6, gso::tcp6 | gso::ecn, accepts);
  EXPECT_EQ(ecn.hdr_len, tcp6.data());
  EXPECT_EQ(ecn.gso_type, gso::tcp6 | gso::ecn);
  EXPECT_EQ(ecn.gso_size, 1000);
  EXPECT_EQ(ecn.flags, needs_csum);
  const Shape udp{.udp = true, .payload = 3000};
  EXPECT_EQ(header_of(udp, gso::udp, accepts).hdr_len, 42);
}

TEST(HeaderFor, SaysThatAChecksumIsGoodToThoseWhoTakeIt) {
  const Asking frame({data_valid, 0, 0, 0, 0, 0});
  EXPECT_EQ(header_for(frame, {.checksum = true}).flags, data_valid);
  EXPECT_EQ(header_for(frame, nothing).flags, 0);
}

}  // namespace
}  // namespace net::tests
