#include "tools/vhost_bench/net_frames.hpp"

#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace bench {
namespace {

constexpr MacAddress source{2, 0, 0, 0, 0, 1}, destination{2, 0, 0, 0, 0, 2};

std::vector<std::byte> frame_of(std::size_t bytes, std::uint16_t flow = 0) {
  std::vector<std::byte> frame(bytes, std::byte{0xee});
  write_frame(frame, source, destination, flow);
  return frame;
}
unsigned at16(std::span<const std::byte> frame, std::size_t at) {
  return std::to_integer<unsigned>(frame[at]) << 8 | std::to_integer<unsigned>(frame[at + 1]);
}
/// The one's complement sum over whole words; 0xffff where a checksum in it is right.
unsigned sum(std::span<const std::byte> frame, std::size_t from, std::size_t bytes) {
  unsigned value = 0;
  for (std::size_t at = from; at < from + bytes; at += 2) value += at16(frame, at);
  while (value > 0xffff) value = (value & 0xffff) + (value >> 16);
  return value;
}

TEST(NetFrames, AddressesStandInOrder) {
  const auto frame = frame_of(64);
  EXPECT_EQ(frame[5], std::byte{2});
  EXPECT_EQ(frame[11], std::byte{1});
  EXPECT_EQ(at16(frame, 12), 0x0800u);
}

TEST(NetFrames, LengthsAndIpChecksumAreRight) {
  for (const std::size_t bytes : {64u, 65u, 1518u, 9216u, 9217u, longest_frame}) {
    const auto frame = frame_of(bytes);
    EXPECT_EQ(at16(frame, 16), bytes - 14) << bytes;
    EXPECT_EQ(sum(frame, 14, 20), 0xffffu) << bytes;
  }
}

TEST(NetFrames, WholeFrameIsUdpWithoutChecksum) {
  const auto frame = frame_of(longest_whole_frame, 7);
  EXPECT_EQ(frame[23], std::byte{17});
  EXPECT_EQ(at16(frame, 34), 10007u);
  EXPECT_EQ(at16(frame, 38), longest_whole_frame - 34);
  EXPECT_EQ(at16(frame, 40), 0u);
  EXPECT_EQ(header_for(longest_whole_frame).gso_type, 0);
  EXPECT_EQ(header_for(longest_whole_frame).flags, 0);
}

TEST(NetFrames, LongerFrameIsTcpToBeSegmented) {
  const auto frame = frame_of(longest_whole_frame + 1);
  EXPECT_EQ(frame[23], std::byte{6});
  EXPECT_EQ(frame[46], std::byte{0x50});
  const auto header = header_for(longest_whole_frame + 1);
  EXPECT_EQ(header.gso_type, vhost::frontend::net_gso_tcp4);
  EXPECT_EQ(header.flags, vhost::frontend::net_needs_csum);
  EXPECT_EQ(header.csum_start + header.csum_offset, 50);
}

TEST(NetFrames, ChecksumFieldHoldsThePseudoHeader) {
  const auto frame = frame_of(10000);
  unsigned expected = sum(frame, 26, 8) + 6 + 10000 - 34;
  expected = (expected & 0xffff) + (expected >> 16);
  EXPECT_EQ(at16(frame, 50), expected);
}

TEST(NetFrames, FlowsDifferInTheSourcePort) {
  std::set<unsigned> ports;
  for (std::uint16_t flow = 0; flow < 4096; ++flow) ports.insert(at16(frame_of(64, flow), 34));
  EXPECT_EQ(ports.size(), 4096u);
}

TEST(NetFrames, MacAddressIsReadBothCases) {
  EXPECT_EQ(parse_mac("02:00:00:00:00:01"), source);
  EXPECT_EQ(parse_mac("aA:fF:00:00:00:01").value_or(source)[0], 0xaa);
}

TEST(NetFrames, WhatIsNoMacAddressIsRefused) {
  for (const char* text : {"", "02:00:00:00:00", "02:00:00:00:00:01:", "02-00-00-00-00-01",
                           "02:00:00:00:00:0g", "2:000:00:00:00:01", "02:00:00:00:00:0 "}) {
    EXPECT_FALSE(parse_mac(text)) << text;
  }
}

}  // namespace
}  // namespace bench
