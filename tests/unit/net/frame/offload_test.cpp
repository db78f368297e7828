#include "backends/net/frame/offload.hpp"

#include <gtest/gtest.h>

#include "backends/net/frame/headers.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"
#include "tests/unit/net/frame/packet_fixture.hpp"

namespace net::tests {
namespace {

constexpr Accepts everything{true, true, true, true, true};
constexpr Accepts nothing{};

std::optional<Drop> checked(OwnedFrame& owned, const VnetHeader& header,
                            const Accepts& allowed = everything) {
  return check(owned.frame, header, allowed);
}

/// The answer to a request for this packet, as a source asks.
std::optional<Drop> answer_to(const Bytes& packet, const VnetHeader& header,
                              const Accepts& allowed = everything) {
  const auto length = static_cast<std::uint32_t>(packet.size());
  OwnedFrame owned(packet, SIZE_MAX, head_bytes_for(header, length));
  return checked(owned, header, allowed);
}

const Shape tcp4{.payload = 3000};
const Shape tcp6{.ipv6 = true, .payload = 3000};
const Shape udp4{.udp = true, .payload = 3000};
const Shape udp6{.ipv6 = true, .udp = true, .payload = 3000};

TEST(HeadBytes, AreTheUsualOnesOrTheWholeFrame) {
  EXPECT_EQ(head_bytes_for({}, 1000), 128);
  EXPECT_EQ(head_bytes_for({}, 128), 128);
  EXPECT_EQ(head_bytes_for({}, 127), 127);
  EXPECT_EQ(head_bytes_for({}, 0), 0);
}

TEST(HeadBytes, ReachBehindTheChecksumField) {
  EXPECT_EQ(head_bytes_for({needs_csum, 0, 0, 0, 110, 16}, 1000), 128);
  EXPECT_EQ(head_bytes_for({needs_csum, 0, 0, 0, 110, 17}, 1000), 129);
  EXPECT_EQ(head_bytes_for({needs_csum, 0, 0, 0, 110, 17}, 128), 128);
  EXPECT_EQ(head_bytes_for({needs_csum, 0, 0, 0, 238, 16}, 1000), 256);
  EXPECT_EQ(head_bytes_for({needs_csum, 0, 0, 0, 239, 16}, 1000), 256);
  EXPECT_EQ(head_bytes_for({needs_csum, 0, 0, 0, 0xffff, 0xffff}, 1000), 256);
  EXPECT_EQ(head_bytes_for({0, 0, 0, 0, 200, 16}, 1000), 128);
}

TEST(HeadBytes, AreAllThereAreForSegmentation) {
  EXPECT_EQ(head_bytes_for(tcp4.header(gso::tcp4, 100), 1000), 256);
  EXPECT_EQ(head_bytes_for({0, 0x7f, 0, 0, 0, 0}, 200), 200);
}

TEST(Check, RefusesFramesShorterThanAnEthernetHeader) {
  EXPECT_EQ(answer_to(Bytes(0), {}), Drop::too_short);
  EXPECT_EQ(answer_to(Bytes(13), {}), Drop::too_short);
  EXPECT_EQ(answer_to(Bytes(14), {}), std::nullopt);
}

TEST(Check, RefusesPlainFramesThatAreTooLong) {
  EXPECT_EQ(answer_to(Bytes(longest_plain_frame), {}), std::nullopt);
  EXPECT_EQ(answer_to(Bytes(longest_plain_frame + 1), {}), Drop::too_long);
}

TEST(Check, RefusesSegmentationOfWhatIpCannotSay) {
  Shape shape{.payload = longest_frame - 54};
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 1448)), std::nullopt);
  ++shape.payload;
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 1448)), Drop::too_long);
}

TEST(Check, ClearsWhatHasNoMeaning) {
  OwnedFrame owned(counting_bytes(100));
  owned.frame.offload = {0xff, 0xff, 0xffff, 1, 1, 1};
  EXPECT_EQ(checked(owned, {0xfe, gso::none, 0xffff, 1, 0xffff, 0xffff}), std::nullopt);
  EXPECT_TRUE(owned.frame.plain());

  OwnedFrame asking(counting_bytes(100));
  EXPECT_EQ(checked(asking, {0xff, gso::none, 0xffff, 1, 34, 16}), std::nullopt);
  const VnetHeader& offload = asking.frame.offload;
  EXPECT_EQ(offload.flags, needs_csum);
  EXPECT_EQ(offload.hdr_len, 0);
  EXPECT_EQ(offload.gso_size, 0);
  EXPECT_EQ(offload.csum_start, 34);
  EXPECT_EQ(offload.csum_offset, 16);
}

TEST(Check, BelievesTheHostAloneThatAChecksumIsGood) {
  const VnetHeader good{data_valid, 0, 0, 0, 0, 0};
  OwnedFrame owned(counting_bytes(100));
  EXPECT_EQ(check(owned.frame, good, everything), std::nullopt);
  EXPECT_EQ(owned.frame.offload.flags, 0);
  EXPECT_EQ(check(owned.frame, good, everything, Sender::host), std::nullopt);
  EXPECT_EQ(owned.frame.offload.flags, data_valid);
  const VnetHeader unknown{0xfc, 0, 0, 0, 0, 0};
  EXPECT_EQ(check(owned.frame, unknown, everything, Sender::host), std::nullopt);
  EXPECT_TRUE(owned.frame.plain());
  const VnetHeader both{needs_csum | data_valid, 0, 0, 0, 34, 16};
  EXPECT_EQ(check(owned.frame, both, everything, Sender::host), std::nullopt);
  EXPECT_EQ(owned.frame.offload.flags, needs_csum);
}

TEST(Check, RefusesChecksumsThatWereNotNegotiated) {
  EXPECT_EQ(answer_to(make_packet(tcp4), tcp4.header(), nothing), Drop::bad_checksum);
  EXPECT_EQ(answer_to(make_packet(tcp4), tcp4.header(), {.checksum = true}), std::nullopt);
}

TEST(Check, WantsTheChecksumFieldInTheFrame) {
  for (const std::uint32_t length : {60U, 61U, 128U, 200U, 255U, 256U}) {
    const auto answer = [&](std::size_t start, std::size_t offset) {
      return answer_to(counting_bytes(length),
                       {needs_csum, 0, 0, 0, static_cast<std::uint16_t>(start),
                        static_cast<std::uint16_t>(offset)});
    };
    EXPECT_EQ(answer(length - 2, 0), std::nullopt);
    EXPECT_EQ(answer(length - 1, 0), Drop::bad_checksum);
    EXPECT_EQ(answer(length, 0), Drop::bad_checksum);
    EXPECT_EQ(answer(0xffff, 0), Drop::bad_checksum);
    EXPECT_EQ(answer(14, length - 16), std::nullopt);
    EXPECT_EQ(answer(14, length - 15), Drop::bad_checksum);
    EXPECT_EQ(answer(14, length - 14), Drop::bad_checksum);
    EXPECT_EQ(answer(14, 0xffff), Drop::bad_checksum);
    EXPECT_EQ(answer(20, 0xfffe), Drop::bad_checksum);
    EXPECT_EQ(answer(0xffff, 0xffff), Drop::bad_checksum);
  }
}

TEST(Check, WantsTheChecksumFieldInTheLongestHead) {
  EXPECT_EQ(answer_to(counting_bytes(1000), {needs_csum, 0, 0, 0, 254, 0}), std::nullopt);
  EXPECT_EQ(answer_to(counting_bytes(1000), {needs_csum, 0, 0, 0, 255, 0}), Drop::bad_checksum);
}

TEST(Check, WantsTheChecksumToBeginBehindTheEthernetHeader) {
  for (const std::size_t tags : {0UL, 1UL, 2UL}) {
    const Shape shape{.tags = tags, .payload = 100};
    auto header = shape.header();
    for (const std::size_t start : {0UL, 13UL, shape.network() - 1}) {
      header.csum_start = static_cast<std::uint16_t>(start);
      EXPECT_EQ(answer_to(make_packet(shape), header), Drop::bad_checksum) << start;
    }
    for (const std::size_t start : {shape.network(), shape.network() + 1}) {
      header.csum_start = static_cast<std::uint16_t>(start);
      EXPECT_EQ(answer_to(make_packet(shape), header), std::nullopt) << start;
    }
  }
}

TEST(Check, TakesEachKindOfSegmentation) {
  for (const Shape& shape : {tcp4, tcp6, udp4, udp6}) {
    const VnetHeader header = shape.header(shape.gso_type(), 1000);
    OwnedFrame owned(make_packet(shape), SIZE_MAX, 256);
    EXPECT_EQ(checked(owned, header), std::nullopt);
    EXPECT_EQ(owned.frame.offload.gso_type, shape.gso_type());
    EXPECT_EQ(owned.frame.offload.gso_size, 1000);
    EXPECT_EQ(owned.frame.offload.csum_start, shape.transport());
  }
}

TEST(Check, RefusesSegmentationThatWasNotNegotiated) {
  const auto answer = [](const Shape& shape, std::uint8_t type, Accepts allowed) {
    allowed.checksum = true;
    return answer_to(make_packet(shape), shape.header(type, 1000), allowed);
  };
  EXPECT_EQ(answer(tcp4, gso::tcp4, {.tso4 = true}), std::nullopt);
  EXPECT_EQ(answer(tcp6, gso::tcp6, {.tso6 = true}), std::nullopt);
  EXPECT_EQ(answer(udp4, gso::udp, {.ufo = true}), std::nullopt);
  EXPECT_EQ(answer(tcp4, gso::tcp4 | gso::ecn, {.tso4 = true, .ecn = true}), std::nullopt);
  EXPECT_EQ(answer(tcp6, gso::tcp6 | gso::ecn, {.tso6 = true, .ecn = true}), std::nullopt);

  constexpr Drop bad = Drop::bad_segmentation;
  EXPECT_EQ(answer(tcp4, gso::tcp4, {.tso6 = true, .ecn = true, .ufo = true}), bad);
  EXPECT_EQ(answer(tcp6, gso::tcp6, {.tso4 = true, .ecn = true, .ufo = true}), bad);
  EXPECT_EQ(answer(udp4, gso::udp, {.tso4 = true, .tso6 = true, .ecn = true}), bad);
  EXPECT_EQ(answer(tcp4, gso::tcp4 | gso::ecn, {.tso4 = true}), bad);
  EXPECT_EQ(answer(tcp6, gso::tcp6 | gso::ecn, {.tso6 = true}), bad);
}

TEST(Check, RefusesKindsOfSegmentationThatThereAreNot) {
  for (const int type : {2, 5, 6, 0x7f, 0x80, 0x80 | gso::udp, 0xff}) {
    EXPECT_EQ(answer_to(make_packet(udp4), udp4.header(static_cast<std::uint8_t>(type), 1000)),
              Drop::bad_segmentation)
        << type;
  }
}

TEST(Check, WantsTheKindThatTheHeadersAreOf) {
  for (const Shape& shape : {tcp4, tcp6, udp4, udp6}) {
    for (const std::uint8_t type : {gso::tcp4, gso::tcp6, gso::udp}) {
      if (type == shape.gso_type()) continue;
      for (const std::uint16_t offset : {tcp_checksum, udp_checksum}) {
        auto header = shape.header(type, 1000);
        header.csum_offset = offset;
        EXPECT_EQ(answer_to(make_packet(shape), header), Drop::bad_segmentation);
      }
    }
  }
}

TEST(Check, WantsAChecksumRequestWithSegmentation) {
  auto header = tcp4.header(gso::tcp4, 1000);
  header.flags = 0;
  EXPECT_EQ(answer_to(make_packet(tcp4), header), Drop::bad_segmentation);
}

TEST(Check, WantsTheChecksumOfWhatIsSegmented) {
  for (const Shape& shape : {tcp4, udp6}) {
    for (const int by : {-2, -1, 1, 2}) {
      auto header = shape.header(shape.gso_type(), 1000);
      header.csum_start = static_cast<std::uint16_t>(header.csum_start + by);
      EXPECT_EQ(answer_to(make_packet(shape), header), Drop::bad_segmentation);
      header = shape.header(shape.gso_type(), 1000);
      header.csum_offset = static_cast<std::uint16_t>(header.csum_offset + by);
      EXPECT_EQ(answer_to(make_packet(shape), header), Drop::bad_segmentation);
    }
  }
}

TEST(Check, RefusesSegmentsOfNothing) {
  EXPECT_EQ(answer_to(make_packet(tcp4), tcp4.header(gso::tcp4, 0)), Drop::bad_segmentation);
  const Shape none{};
  EXPECT_EQ(answer_to(make_packet(none), none.header(gso::tcp4, 1000)), Drop::bad_segmentation);
  const Shape one{.payload = 1};
  EXPECT_EQ(answer_to(make_packet(one), one.header(gso::tcp4, 1000)), std::nullopt);
  const Shape short_udp{.udp = true, .payload = 10};
  EXPECT_EQ(answer_to(make_packet(short_udp), short_udp.header(gso::udp, 7)),
            Drop::bad_segmentation);
  EXPECT_EQ(answer_to(make_packet(short_udp), short_udp.header(gso::udp, 8)), std::nullopt);
}

TEST(Check, RefusesHeadersThatAreLongerThanTheFrame) {
  const Shape shape{.payload = 30};
  Bytes packet = make_packet(shape);
  set8(packet, shape.transport() + 12, 0xc0);  // 28 bytes of options
  EXPECT_EQ(answer_to(packet, shape.header(gso::tcp4, 1)), std::nullopt);
  set8(packet, shape.transport() + 12, 0xd0);  // 32
  EXPECT_EQ(answer_to(packet, shape.header(gso::tcp4, 1)), Drop::bad_segmentation);
}

TEST(Check, RefusesMoreThanManySegments) {
  Shape shape{.payload = most_segments};
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 1)), std::nullopt);
  ++shape.payload;
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 1)), Drop::bad_segmentation);
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 2)), std::nullopt);
}

TEST(Check, RefusesSegmentsLongerThanAPlainFrame) {
  for (Shape shape : {tcp4, tcp6, udp4, udp6}) {
    shape.payload = 30000;
    const Bytes packet = make_packet(shape);
    const std::size_t front = shape.udp ? shape.transport() + (shape.ipv6 ? 8 : 0) : shape.data();
    const std::size_t room = longest_plain_frame - front;
    const std::size_t longest = shape.udp ? room - room % 8 : room;
    const std::size_t too_long = shape.udp ? longest + 8 : longest + 1;
    EXPECT_EQ(answer_to(packet, shape.header(shape.gso_type(), longest)), std::nullopt);
    EXPECT_EQ(answer_to(packet, shape.header(shape.gso_type(), too_long)), Drop::too_long);
  }
}

TEST(Check, MakesOneSegmentAFrameLikeAnyOther) {
  const Shape uneven{.udp = true, .payload = 3005};
  for (const Shape& shape : {tcp4, tcp6, udp4, udp6, uneven}) {
    const std::size_t whole = shape.payload + (shape.udp ? 8 : 0);
    for (const std::size_t size : {whole - 1, whole, whole + 1}) {
      OwnedFrame owned(make_packet(shape), SIZE_MAX, 256);
      EXPECT_EQ(checked(owned, shape.header(shape.gso_type(), size)), std::nullopt);
      EXPECT_EQ(owned.frame.offload.flags, needs_csum);
      EXPECT_EQ(owned.frame.offload.gso_type, size < whole ? shape.gso_type() : gso::none);
      EXPECT_EQ(owned.frame.offload.gso_size, size < whole ? size : 0);
    }
  }
}

TEST(Check, DoesNotLetALongFrameInAsOneSegment) {
  Shape shape{.payload = longest_plain_frame - 54};
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 0xffff)), std::nullopt);
  ++shape.payload;
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::tcp4, 0xffff)), Drop::too_long);
}

TEST(Check, KeepsRoomInTheHeadForWhatHeadersGrowBy) {
  Shape shape{.ipv6 = true, .udp = true, .extension = 176, .payload = 3000};
  ASSERT_EQ(shape.data(), 238);
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::udp, 1000)), std::nullopt);
  shape.extension += 8;
  EXPECT_EQ(answer_to(make_packet(shape), shape.header(gso::udp, 1000)), Drop::bad_segmentation);
}

TEST(Check, DoesNotUseHdrLen) {
  for (const int lie : {0, 1, 53, 54, 55, 0xffff}) {
    auto header = tcp4.header(gso::tcp4, 1000);
    header.hdr_len = static_cast<std::uint16_t>(lie);
    OwnedFrame owned(make_packet(tcp4), SIZE_MAX, 256);
    EXPECT_EQ(checked(owned, header), std::nullopt);
    EXPECT_EQ(header_for(owned.frame, everything).hdr_len, 54);
  }
}

}  // namespace
}  // namespace net::tests
