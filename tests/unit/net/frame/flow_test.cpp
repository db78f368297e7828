#include "backends/net/frame/flow.hpp"

#include <set>

#include <gtest/gtest.h>

#include "tests/unit/net/frame/ethernet.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {
namespace {

struct Flow {
  unsigned from = 1;
  unsigned to = 2;
  unsigned from_port = 1000;
  unsigned to_port = 80;
  unsigned protocol = 6;

  [[nodiscard]] Flow back() const { return {to, from, to_port, from_port, protocol}; }
};

Bytes ports_of(const Flow& flow) {
  Bytes bytes;
  append16(bytes, flow.from_port);
  append16(bytes, flow.to_port);
  bytes.resize(20);
  return bytes;
}

/// `words` of header; `fragment` is the field of flags and offset.
Bytes ipv4(const Flow& flow, unsigned words = 5, unsigned fragment = 0) {
  Bytes bytes;
  append(bytes, {0x40 | words, 0, 0, 40, 0, 1});
  append16(bytes, fragment);
  append(bytes, {64, flow.protocol, 0, 0, 10, 0, 0, flow.from, 10, 0, 0, flow.to});
  bytes.resize(std::size_t{words} * 4, std::byte{1});
  append_all(bytes, ports_of(flow));
  return bytes;
}

Bytes ipv6(const Flow& flow) {
  Bytes bytes;
  append(bytes, {0x60, 0, 0, 0, 0, 20, flow.protocol, 64});
  for (const unsigned host : {flow.from, flow.to}) {
    append(bytes, {0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host});
  }
  append_all(bytes, ports_of(flow));
  return bytes;
}

std::uint32_t hash_of(const Bytes& frame) {
  return flow_hash(OwnedFrame(frame).frame);
}
std::uint32_t hash4(const Bytes& packet, std::initializer_list<Tag> tags = {}) {
  return hash_of(ethernet(station(2), station(1), 0x0800, packet, tags));
}
std::uint32_t hash6(const Bytes& packet) {
  return hash_of(ethernet(station(2), station(1), 0x86dd, packet));
}

TEST(FlowHash, IsThatOfBothDirections) {
  const Flow flow;
  EXPECT_EQ(hash4(ipv4(flow)), hash4(ipv4(flow.back())));
  EXPECT_EQ(hash6(ipv6(flow)), hash6(ipv6(flow.back())));
  EXPECT_EQ(hash_of(plain_frame(station(1), station(2))),
            hash_of(plain_frame(station(2), station(1))));
}

TEST(FlowHash, TellsFlowsApart) {
  const std::vector<Flow> flows{{},
                                {.from = 3},
                                {.to = 3},
                                {.from_port = 1001},
                                {.to_port = 81},
                                {.from_port = 80, .to_port = 1000},
                                {.protocol = 17},
                                {.protocol = 132}};
  std::set<std::uint32_t> hashes;
  for (const Flow& flow : flows) {
    hashes.insert(hash4(ipv4(flow)));
    hashes.insert(hash6(ipv6(flow)));
  }
  EXPECT_EQ(hashes.size(), 2 * flows.size());
  EXPECT_NE(hash_of(plain_frame(station(1), station(2))),
            hash_of(plain_frame(station(1), station(3))));
}

TEST(FlowHash, IgnoresTagsAndMacAddresses) {
  const Bytes packet = ipv4({});
  EXPECT_EQ(hash4(packet), hash4(packet, {{5}}));
  EXPECT_EQ(hash4(packet), hash4(packet, {{5, 0x88a8}, {6}}));
  EXPECT_EQ(hash4(packet), hash_of(ethernet(station(9), station(8), 0x0800, packet)));
}

TEST(FlowHash, FindsPortsBehindOptions) {
  EXPECT_EQ(hash4(ipv4({}, 5)), hash4(ipv4({}, 15)));
  EXPECT_NE(hash4(ipv4({}, 15)), hash4(ipv4({.to_port = 81}, 15)));
}

TEST(FlowHash, FragmentsHaveNoPorts) {
  for (const unsigned fragment : {0x2000U, 0x0001U, 0x3fffU}) {
    EXPECT_EQ(hash4(ipv4({}, 5, fragment)), hash4(ipv4({.from_port = 7}, 5, 0x2000)));
  }
  EXPECT_NE(hash4(ipv4({}, 5, 0x4000)), hash4(ipv4({.from_port = 7}, 5, 0x4000)));
}

TEST(FlowHash, OtherProtocolsHaveNoPorts) {
  EXPECT_EQ(hash4(ipv4({.protocol = 1})), hash4(ipv4({.to_port = 7, .protocol = 1})));
  EXPECT_EQ(hash6(ipv6({.protocol = 58})), hash6(ipv6({.to_port = 7, .protocol = 58})));
}

/// Whatever is cut off, nothing behind the head is looked at.
TEST(FlowHash, TakesHeadersThatAreCutOff) {
  const auto with_ports = ethernet(station(2), station(1), 0x0800, ipv4({}));
  const auto cut = [&](Bytes bytes, std::size_t length) {
    bytes.resize(length);
    return hash_of(bytes);
  };
  const auto other = ethernet(station(2), station(1), 0x0800, ipv4({.to_port = 7}));
  const auto ethernet_only = hash_of(ethernet(station(2), station(1), 0x88b5, {}));
  EXPECT_EQ(cut(with_ports, 38), hash_of(with_ports));
  EXPECT_EQ(cut(with_ports, 37), cut(other, 37));
  EXPECT_NE(cut(with_ports, 34), ethernet_only);
  EXPECT_EQ(cut(with_ports, 33), ethernet_only);
  EXPECT_EQ(cut(with_ports, 14), ethernet_only);
  const auto v6 = ethernet(station(2), station(1), 0x86dd, ipv6({}));
  EXPECT_NE(cut(v6, 54), ethernet_only);
  EXPECT_EQ(cut(v6, 53), ethernet_only);
  const auto tagged = ethernet(station(2), station(1), 0x0800, ipv4({}), {{5}});
  for (std::size_t length = 14; length < 18; ++length)
    EXPECT_EQ(cut(tagged, length), ethernet_only);
}

TEST(FlowHash, SpreadsNeighboursOverQueues) {
  for (const unsigned queues : {2U, 3U, 4U, 8U}) {
    std::vector<unsigned> load(queues);
    for (unsigned port = 0; port < 1000; ++port) {
      ++load[hash4(ipv4({.from_port = 40'000 + port})) % queues];
    }
    for (const unsigned count : load) {
      EXPECT_GT(count, 800 / queues);
      EXPECT_LT(count, 1200 / queues);
    }
  }
}

}  // namespace
}  // namespace net::tests
