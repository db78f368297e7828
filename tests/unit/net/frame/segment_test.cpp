#include "backends/net/frame/segment.hpp"

#include <random>

#include <gtest/gtest.h>

#include "tests/unit/net/frame/frame_fixture.hpp"
#include "tests/unit/net/frame/packet_fixture.hpp"

namespace net::tests {
namespace {

constexpr Accepts everything{true, true, true, true, true};
constexpr Accepts nothing{};
constexpr Accepts checksums{.checksum = true};

/// A checked frame that asks for segmentation.
class LongFrame : public OwnedFrame {
 public:
  LongFrame(const Shape& shape, std::size_t gso_size, std::size_t piece = SIZE_MAX)
      : OwnedFrame(make_packet(shape), piece, 256) {
    EXPECT_EQ(check(frame, shape.header(shape.gso_type(), gso_size), everything), std::nullopt);
    EXPECT_EQ(missing(frame, nothing), Missing::segmentation);
  }
};

/// The parts, with their checksums.
std::vector<Bytes> parts_of(const Frame& frame, const Accepts& accepts) {
  std::vector<Bytes> parts;
  Segmenter segmenter(frame, accepts);
  Frame part;
  while (segmenter.next(part)) {
    EXPECT_EQ(missing(part, accepts), Missing::nothing);
    EXPECT_EQ(part.offload.gso_type, gso::none);
    if (!part.plain()) complete_checksum(part);
    parts.push_back(bytes_of(part));
  }
  EXPECT_FALSE(segmenter.next(part));
  EXPECT_EQ(segments_of(frame), parts.size());
  return parts;
}

std::size_t identification_of(const Shape& shape, const Bytes& fragment) {
  return shape.ipv6 ? get32(fragment, shape.transport() + 4) : 0;
}

void expect_parts(const Shape& shape, std::size_t gso_size, std::size_t piece) {
  const Bytes packet = make_packet(shape);
  const LongFrame owned(shape, gso_size, piece);
  for (const Accepts& accepts : {nothing, checksums}) {
    const auto parts = parts_of(owned.frame, accepts);
    ASSERT_FALSE(parts.empty());
    const auto expected =
        shape.udp ? expected_fragments(shape, packet, gso_size, identification_of(shape, parts[0]))
                  : expected_segments(shape, packet, gso_size);
    EXPECT_EQ(parts, expected) << "gso_size " << gso_size << ", pieces of " << piece;
  }
  EXPECT_EQ(bytes_of(owned.frame), packet);
}

struct Case {
  Shape shape;
  std::string name;
};

class SegmenterOf : public testing::TestWithParam<Case> {};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool ipv6 : {false, true}) {
    for (const bool udp : {false, true}) {
      const std::string name = std::string(udp ? "Udp" : "Tcp") + (ipv6 ? "6" : "4");
      all.push_back({{.ipv6 = ipv6, .udp = udp}, name});
      all.push_back({{.ipv6 = ipv6, .udp = udp, .tags = 1}, name + "Tagged"});
      all.push_back({{.ipv6 = ipv6, .udp = udp, .tags = 2, .extension = 16, .options = 12},
                     name + "WithOptions"});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, SegmenterOf, testing::ValuesIn(cases()),
                         [](const auto& shape) { return shape.param.name; });

TEST_P(SegmenterOf, MakesEachPartByteForByte) {
  Shape shape = GetParam().shape;
  shape.payload = 5000;
  for (const std::size_t gso_size : {8UL, 536UL, 1448UL, 1453UL, 2500UL, 4999UL}) {
    for (const std::size_t piece : {1UL, 3UL, 91UL, 4096UL, 70000UL}) {
      expect_parts(shape, gso_size, piece);
    }
  }
}

TEST_P(SegmenterOf, MakesPartsOfAnySize) {
  Shape shape = GetParam().shape;
  shape.payload = 240;
  for (std::size_t gso_size = shape.udp ? 8 : 1; gso_size < 240; ++gso_size) {
    expect_parts(shape, gso_size, 11);
  }
}

TEST_P(SegmenterOf, TakesTheLongestFrameInTheSmallestPieces) {
  Shape shape = GetParam().shape;
  shape.payload = longest_frame - shape.data();
  const std::size_t longest = 9000;
  for (const std::size_t piece : {1UL, 16UL, 600UL, 65536UL}) expect_parts(shape, longest, piece);
  expect_parts(shape, 72, 4096);
}

TEST_P(SegmenterOf, LosesNothingOfARandomFrame) {
  std::mt19937 random(7);
  for (int turn = 0; turn < 50; ++turn) {
    Shape shape = GetParam().shape;
    shape.payload = 100 + random() % 20000;
    const std::size_t gso_size = 64 + random() % std::min(shape.payload - 65, 9000UL);
    const LongFrame owned(shape, gso_size, 1 + random() % 3000);
    Bytes payload;
    for (const Bytes& part : parts_of(owned.frame, nothing)) {
      EXPECT_TRUE(shape.udp || checksum_is_right(shape, part));
      const std::size_t front = shape.udp ? shape.transport() + (shape.ipv6 ? 8 : 0) : shape.data();
      payload.insert(payload.end(), part.begin() + static_cast<long>(front), part.end());
    }
    const Bytes packet = summed(shape, make_packet(shape));
    const std::size_t behind = shape.udp ? shape.transport() : shape.data();
    EXPECT_EQ(payload, Bytes(packet.begin() + static_cast<long>(behind), packet.end()));
  }
}

TEST_P(SegmenterOf, ServesReceiversThatTakeDifferentThings) {
  Shape shape = GetParam().shape;
  shape.payload = 4000;
  const LongFrame owned(shape, 1000, 333);
  EXPECT_EQ(missing(owned.frame, everything), Missing::nothing);
  const auto first = parts_of(owned.frame, nothing);
  EXPECT_EQ(missing(owned.frame, everything), Missing::nothing);
  EXPECT_EQ(header_for(owned.frame, everything).hdr_len, shape.data());
  const auto second = parts_of(owned.frame, checksums);
  EXPECT_EQ(bytes_of(owned.frame), make_packet(shape));
  ASSERT_EQ(first.size(), second.size());
  const bool numbered = shape.udp && shape.ipv6;  // anew each time
  EXPECT_TRUE(numbered || first == second);
}

TEST_P(SegmenterOf, KnowsTheTagThatTheSwitchPutIn) {
  Shape shape = GetParam().shape;
  shape.payload = 4000;
  LongFrame owned(shape, 1000);
  auto expected = parts_of(owned.frame, nothing);
  owned.frame.push_tag(0x0123);
  const auto tagged = parts_of(owned.frame, nothing);
  ASSERT_EQ(tagged.size(), expected.size());
  for (std::size_t i = 0; i < tagged.size(); ++i) {
    if (shape.udp && shape.ipv6) {
      set32(expected[i], shape.transport() + 4, get32(tagged[i], shape.transport() + 8));
    }
    EXPECT_EQ(get32(tagged[i], 12), 0x81000123);
    Bytes untagged = tagged[i];
    untagged.erase(untagged.begin() + 12, untagged.begin() + 16);
    EXPECT_EQ(untagged, expected[i]);
  }
}

TEST(Segmenter, LeavesTheChecksumToReceiversThatTakeIt) {
  const Shape shape{.tags = 1, .payload = 3000};
  const LongFrame owned(shape, 1448);
  Segmenter segmenter(owned.frame, checksums);
  Frame part;
  while (segmenter.next(part)) {
    EXPECT_EQ(part.offload.flags, needs_csum);
    EXPECT_EQ(part.offload.csum_start, shape.transport());
    EXPECT_EQ(part.offload.csum_offset, 16);
    const Bytes bytes = bytes_of(part);
    EXPECT_EQ(get16(bytes, shape.checksum()),
              pseudo_header(shape, bytes, bytes.size() - shape.transport()));
  }
}

TEST(Segmenter, PutsTheHeadersAloneIntoTheHead) {
  const Shape shape{.payload = 3000};
  const LongFrame owned(shape, 1448);
  Segmenter segmenter(owned.frame, nothing);
  Frame part;
  while (segmenter.next(part)) EXPECT_EQ(part.head().size(), shape.data());
}

TEST(Segmenter, RefersToThePayloadWhereItLies) {
  const LongFrame owned({.payload = 6000}, 2000);
  Segmenter segmenter(owned.frame, nothing);
  Frame part;
  ASSERT_TRUE(segmenter.next(part));  // some of it in the head
  EXPECT_EQ(part.rest.size(), 2);
  ASSERT_TRUE(segmenter.next(part));
  ASSERT_EQ(part.rest.size(), 1);
  const std::size_t at = 54 + 2000 - owned.frame.head().size();
  EXPECT_EQ(part.rest[0].iov_base, static_cast<std::byte*>(owned.frame.rest[0].iov_base) + at);
}

TEST(Segmenter, GivesIpv6DatagramsNumbersOfTheirOwn) {
  const Shape shape{.ipv6 = true, .udp = true, .payload = 3000};
  const LongFrame owned(shape, 1448);
  const auto first = parts_of(owned.frame, nothing);
  const auto second = parts_of(owned.frame, nothing);
  EXPECT_NE(identification_of(shape, first[0]), identification_of(shape, second[0]));
}

TEST(Segmenter, GivesAWholeDatagramTheChecksumThatIsNot0) {
  const Shape shape{.udp = true, .payload = 3000};
  Bytes packet = make_packet(shape);
  set16(packet, shape.data(), 0);
  const auto transport = std::span(packet).subspan(shape.transport());
  set16(packet, shape.data(), 0xffff - naive_sum(transport));
  OwnedFrame owned(packet, 100, 256);
  ASSERT_EQ(check(owned.frame, shape.header(gso::udp, 1480), everything), std::nullopt);
  EXPECT_EQ(get16(parts_of(owned.frame, nothing)[0], shape.checksum()), 0xffff);
}

/// The options of the second fragment of a datagram that had these.
Bytes options_behind_the_first(const std::array<unsigned, 8>& options) {
  const Shape shape{.udp = true, .extension = 8, .payload = 3000};
  Bytes packet = make_packet(shape);
  for (std::size_t i = 0; i < 8; ++i) set8(packet, 34 + i, options[i]);
  OwnedFrame owned(packet, SIZE_MAX, 256);
  EXPECT_EQ(check(owned.frame, shape.header(gso::udp, 1480), everything), std::nullopt);
  const auto parts = parts_of(owned.frame, nothing);
  EXPECT_EQ(get32(parts[0], 34), get32(packet, 34));
  EXPECT_EQ(get32(parts[0], 38), get32(packet, 38));
  return {parts[1].begin() + 34, parts[1].begin() + 42};
}

Bytes to_bytes(const std::array<unsigned, 8>& values) {
  Bytes result;
  for (const unsigned value : values) put8(result, value);
  return result;
}

TEST(Segmenter, CopiesToOtherFragmentsTheOptionsThatAreMeantFor) {
  using Options = std::array<unsigned, 8>;
  const auto expect = [](const Options& given, const Options& copied) {
    EXPECT_EQ(options_behind_the_first(given), to_bytes(copied));
  };
  expect({0x07, 4, 9, 9, 0x94, 4, 0, 0}, {1, 1, 1, 1, 0x94, 4, 0, 0});
  expect({1, 0x94, 4, 7, 7, 0x44, 2, 0}, {1, 0x94, 4, 7, 7, 1, 1, 0});
  expect({0, 0x07, 3, 9, 0x07, 4, 9, 9}, {0, 0x07, 3, 9, 0x07, 4, 9, 9});  // behind the end
  expect({0x07, 8, 9, 9, 9, 9, 9, 9}, {1, 1, 1, 1, 1, 1, 1, 1});           // to the last byte
  expect({0x07, 9, 9, 9, 9, 9, 9, 9}, {0x07, 9, 9, 9, 9, 9, 9, 9});        // one too far
  expect({0x07, 0, 9, 9, 9, 9, 9, 9}, {0x07, 0, 9, 9, 9, 9, 9, 9});        // no length
  expect({0x07, 1, 9, 9, 9, 9, 9, 9}, {0x07, 1, 9, 9, 9, 9, 9, 9});
  expect({1, 1, 1, 1, 1, 1, 1, 0x07}, {1, 1, 1, 1, 1, 1, 1, 0x07});  // no room for one
}

}  // namespace
}  // namespace net::tests
