#include "backends/net/frame/headers.hpp"

#include <gtest/gtest.h>

#include "tests/unit/net/frame/packet_fixture.hpp"

namespace net::tests {
namespace {

Headers headers_of(const Shape& shape) {
  std::size_t names_transport = shape.network() + 9;
  if (shape.ipv6) names_transport = shape.network() + (shape.extension > 0 ? 40 : 6);
  return {.network = static_cast<std::uint16_t>(shape.network()),
          .transport = static_cast<std::uint16_t>(shape.transport()),
          .payload = static_cast<std::uint16_t>(shape.data()),
          .names_transport = static_cast<std::uint16_t>(names_transport),
          .ipv6 = shape.ipv6,
          .protocol = static_cast<std::uint8_t>(shape.protocol())};
}

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const bool ipv6 : {false, true}) {
    for (const bool udp : {false, true}) {
      for (const std::size_t tags : {0UL, 1UL, 2UL}) {
        for (const std::size_t extension : {0UL, 8UL, 40UL}) {
          all.push_back({ipv6, udp, tags, extension, udp ? 0UL : extension});
        }
      }
    }
  }
  return all;
}

TEST(Headers, AreFoundInAnyShape) {
  for (const Shape& shape : shapes()) {
    EXPECT_EQ(parse_headers(make_packet(shape), most_tags), headers_of(shape));
  }
}

TEST(Headers, MustLieInTheHeadWholly) {
  for (const Shape& shape : shapes()) {
    const Bytes packet = make_packet(shape);
    for (std::size_t length = 0; length < shape.data(); ++length) {
      // A copy of just that length: a sanitizer sees what is read behind it.
      const Bytes head(packet.begin(), packet.begin() + static_cast<long>(length));
      EXPECT_FALSE(parse_headers(head, most_tags)) << length;
    }
    EXPECT_TRUE(parse_headers(std::span(packet).first(shape.data()), most_tags));
  }
}

TEST(Headers, HaveAsManyTagsAsAllowed) {
  const Bytes packet = make_packet({.tags = 2});
  EXPECT_TRUE(parse_headers(packet, 2));
  EXPECT_FALSE(parse_headers(packet, 1));
  EXPECT_EQ(link_bytes(packet, 0), 14);
  EXPECT_EQ(link_bytes(packet, 1), 18);
  EXPECT_EQ(link_bytes(packet, 2), 22);
  EXPECT_EQ(link_bytes(packet, 3), 22);
}

TEST(Headers, MayHaveAnOuterTagOfItsOwnType) {
  Bytes packet = make_packet({.tags = 2});
  set16(packet, 12, 0x88a8);
  EXPECT_TRUE(parse_headers(packet, 2));
  set16(packet, 12, 0x9100);
  EXPECT_FALSE(parse_headers(packet, 2));
}

TEST(Headers, EndWhereATagIsCutOff) {
  const Bytes packet = make_packet({.tags = 1});
  EXPECT_EQ(link_bytes(std::span(packet).first(17), 2), 14);
  EXPECT_EQ(link_bytes(std::span(packet).first(18), 2), 18);
}

TEST(Headers, AreOfTheVersionThatTheirTypeSays) {
  for (const bool ipv6 : {false, true}) {
    Bytes packet = make_packet({.ipv6 = ipv6});
    EXPECT_TRUE(parse_headers(packet, 2));
    set8(packet, 14, ipv6 ? 0x45 : 0x65);
    EXPECT_FALSE(parse_headers(packet, 2));
    packet = make_packet({.ipv6 = ipv6});
    set16(packet, 12, 0x0806);
    EXPECT_FALSE(parse_headers(packet, 2));
  }
}

TEST(Headers, OfIpv4AreNotShorterThanTheFixedOnes) {
  Bytes packet = make_packet({.udp = true});
  EXPECT_TRUE(parse_headers(packet, 2));
  set8(packet, 14, 0x44);
  EXPECT_FALSE(parse_headers(packet, 2));
}

TEST(Headers, OfAFragmentSayNothing) {
  for (const std::size_t bits : {0x2000UL, 0x0001UL, 0x1000UL}) {
    Bytes packet = make_packet({});
    set16(packet, 14 + 6, bits);
    EXPECT_FALSE(parse_headers(packet, 2)) << bits;
  }
  for (const std::size_t bits : {0x0000UL, 0x4000UL, 0x8000UL}) {
    Bytes packet = make_packet({});
    set16(packet, 14 + 6, bits);
    EXPECT_TRUE(parse_headers(packet, 2)) << bits;
  }
  Bytes packet = make_packet({.ipv6 = true, .extension = 8});
  set8(packet, 14 + 6, 44);
  EXPECT_FALSE(parse_headers(packet, 2));
}

TEST(Headers, OfOtherProtocolsAreNotFound) {
  for (const std::size_t protocol : {1UL, 4UL, 41UL, 47UL, 50UL, 51UL, 58UL, 59UL, 132UL}) {
    for (const bool ipv6 : {false, true}) {
      Bytes packet = make_packet({.ipv6 = ipv6});
      set8(packet, ipv6 ? 14 + 6 : 14 + 9, protocol);
      EXPECT_FALSE(parse_headers(packet, 2)) << protocol;
    }
  }
}

TEST(Headers, OfTcpAreNotShorterThanTheFixedOnesNorLongerThanTheHead) {
  const Shape shape{.options = 8};
  for (const std::size_t words : {0UL, 4UL, 8UL, 15UL}) {
    Bytes packet = make_packet(shape);
    set8(packet, shape.transport() + 12, words << 4);
    EXPECT_FALSE(parse_headers(packet, 2)) << words;
  }
  for (const std::size_t words : {5UL, 6UL, 7UL}) {
    Bytes packet = make_packet(shape);
    set8(packet, shape.transport() + 12, words << 4);
    EXPECT_EQ(parse_headers(packet, 2)->payload, shape.transport() + words * 4);
  }
}

TEST(Headers, MayComeBehindAChainOfExtensions) {
  // Hop-by-hop, destination options, routing: what was 24 bytes of one is 8 bytes of each.
  const Shape shape{.ipv6 = true, .extension = 24};
  Bytes packet = make_packet(shape);
  const std::size_t first = shape.network() + 40;
  set16(packet, first, 60 << 8);
  set16(packet, first + 8, 43 << 8);
  set16(packet, first + 16, 6 << 8);
  const auto headers = parse_headers(packet, 2);
  ASSERT_TRUE(headers);
  EXPECT_EQ(headers->transport, shape.transport());
  EXPECT_EQ(headers->names_transport, first + 16);
}

TEST(Headers, OfExtensionsThatRunOutOfTheHeadAreNotFound) {
  const Shape shape{.ipv6 = true, .extension = 8};
  Bytes packet = make_packet(shape);
  const std::size_t length_field = shape.network() + 41;
  for (const std::size_t words : {1UL, 2UL, 255UL}) {
    set8(packet, length_field, words);
    EXPECT_FALSE(parse_headers(packet, 2)) << words;
  }
}

TEST(Headers, OfExtensionsWithoutEndAreNotFound) {
  Bytes packet = make_packet({.ipv6 = true});
  packet.resize(256);
  std::fill(packet.begin() + 14 + 40, packet.end(), std::byte{0});  // hop-by-hop, and again
  set8(packet, 14 + 6, 0);
  EXPECT_FALSE(parse_headers(packet, 2));
}

}  // namespace
}  // namespace net::tests
