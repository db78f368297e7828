#include "backends/net/forwarding/guard.hpp"

#include <gtest/gtest.h>

#include "tests/unit/net/frame/ethernet.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {
namespace {

constexpr Ipv4Address mine4{10, 0, 0, 1};
constexpr Ipv4Address theirs4{10, 0, 0, 2};
constexpr Ipv4Address any4{};
constexpr Ipv4Address everyone4{255, 255, 255, 255};
constexpr Ipv6Address mine6{0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
constexpr Ipv6Address theirs6{0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
constexpr Ipv6Address any6{};
constexpr Ipv6Address all_nodes{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
/// Of station(1), 52:54:00:00:00:01.
constexpr Ipv6Address my_link_local{0xfe, 0x80, 0, 0,    0,    0, 0, 0,
                                    0x50, 0x54, 0, 0xff, 0xfe, 0, 0, 1};

const MacAddress me = station(1);
const MacAddress other = station(2);

Guard mac_only() {
  return {.mac = me, .ipv4 = {}, .ipv6 = {}};
}
Guard addresses() {
  return {.mac = {}, .ipv4 = {mine4}, .ipv6 = {mine6}};
}
Guard both() {
  return {.mac = me, .ipv4 = {mine4}, .ipv6 = {mine6}};
}

bool allows(const Guard& guard, const Bytes& bytes) {
  const OwnedFrame owned(bytes);
  return guard.allows(owned.frame);
}

struct Ipv4 {
  Ipv4Address from = mine4;
  Ipv4Address to = theirs4;
  unsigned first = 0x45;
  unsigned fragment = 0;
  unsigned protocol = 17;
  unsigned from_port = 68;
  unsigned to_port = 67;
};
Bytes frame_of(const Ipv4& ip, std::initializer_list<Tag> tags = {}) {
  Bytes bytes;
  append(bytes, {ip.first, 0, 0, 40, 0, 1});
  append16(bytes, ip.fragment);
  append(bytes, {64, ip.protocol, 0, 0});
  append_all(bytes, ip.from);
  append_all(bytes, ip.to);
  bytes.resize(std::max(20U, (ip.first & 15) * 4), std::byte{1});
  append16(bytes, ip.from_port);
  append16(bytes, ip.to_port);
  return ethernet(other, me, 0x0800, bytes, tags);
}

struct Arp {
  MacAddress sender_mac = me;
  Ipv4Address sender = mine4;
  unsigned type = 0x0806;
  std::array<std::uint8_t, 6> kind{0, 1, 8, 0, 6, 4};
};
Bytes frame_of(const Arp& arp, std::initializer_list<Tag> tags = {}) {
  Bytes bytes;
  append_all(bytes, arp.kind);
  append16(bytes, 1);
  append_all(bytes, arp.sender_mac);
  append_all(bytes, arp.sender);
  append_all(bytes, other);
  append_all(bytes, theirs4);
  return ethernet(broadcast, me, arp.type, bytes, tags);
}

struct Ipv6 {
  Ipv6Address from = mine6;
  Ipv6Address to = theirs6;
  unsigned first = 0x60;
  unsigned next = 59;  // nothing
  Bytes behind;
};
Bytes frame_of(const Ipv6& ip, std::initializer_list<Tag> tags = {}) {
  Bytes bytes;
  append(bytes, {ip.first, 0, 0, 0, 0, 0, ip.next, 255});
  append_all(bytes, ip.from);
  append_all(bytes, ip.to);
  append_all(bytes, ip.behind);
  return ethernet(other, me, 0x86dd, bytes, tags);
}

/// A neighbour advertisement of `target`.
Bytes advertisement(const Ipv6Address& target, unsigned type = 136) {
  Bytes bytes;
  append(bytes, {type, 0, 0, 0, 0x20, 0, 0, 0});
  append_all(bytes, target);
  return bytes;
}

/// An IPv6 extension header of so many times 8 bytes, and what follows it.
Bytes extended(unsigned next, unsigned eights, const Bytes& behind) {
  Bytes bytes;
  append(bytes, {next, eights - 1});
  bytes.resize(std::size_t{eights} * 8);
  append_all(bytes, behind);
  return bytes;
}

/// Cuts the frame to `length` bytes.
Bytes cut(Bytes bytes, std::size_t length) {
  bytes.resize(length);
  return bytes;
}

TEST(Guard, OfNothingIsNotActive) {
  EXPECT_FALSE(Guard{}.active());
  EXPECT_TRUE(mac_only().active());
  EXPECT_TRUE((Guard{.mac = {}, .ipv4 = {mine4}, .ipv6 = {}}).active());
  EXPECT_TRUE((Guard{.mac = {}, .ipv4 = {}, .ipv6 = {mine6}}).active());
}

TEST(Guard, WantsItsMacAddress) {
  EXPECT_TRUE(allows(mac_only(), plain_frame(other, me)));
  EXPECT_FALSE(allows(mac_only(), plain_frame(me, other)));
  EXPECT_FALSE(allows(mac_only(), plain_frame(other, station(0x101))));
  EXPECT_TRUE(allows(mac_only(), plain_frame(other, me, 0, {{5}, {6}, {7}})));
}

TEST(Guard, OfMacAddressLeavesIpAlone) {
  EXPECT_TRUE(allows(mac_only(), frame_of(Ipv4{.from = theirs4})));
  EXPECT_TRUE(allows(mac_only(), frame_of(Ipv6{.from = theirs6, .behind = {}})));
  EXPECT_TRUE(allows(mac_only(), frame_of(Arp{.sender = theirs4})));
}

TEST(Guard, WantsItsIpv4Source) {
  EXPECT_TRUE(allows(addresses(), frame_of(Ipv4{})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv4{.from = theirs4})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv4{.first = 0x55})));
  const Guard two{.mac = {}, .ipv4 = {mine4, theirs4}, .ipv6 = {}};
  EXPECT_TRUE(allows(two, frame_of(Ipv4{.from = theirs4})));
}

TEST(Guard, LooksAtFragmentsToo) {
  EXPECT_TRUE(allows(addresses(), frame_of(Ipv4{.fragment = 0x2010})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv4{.from = theirs4, .fragment = 0x2010})));
}

TEST(Guard, LooksBehindTwoTags) {
  EXPECT_TRUE(allows(addresses(), frame_of(Ipv4{}, {{5}})));
  EXPECT_TRUE(allows(addresses(), frame_of(Ipv4{}, {{5, 0x88a8}, {6}})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv4{.from = theirs4}, {{5}})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv4{.from = theirs4}, {{5, 0x88a8}, {6}})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv4{}, {{5}, {6}, {7}})));
  EXPECT_FALSE(allows(mac_only(), frame_of(Arp{.sender_mac = other}, {{5}})));
  EXPECT_FALSE(allows(addresses(), frame_of(Ipv6{.from = theirs6, .behind = {}}, {{5}})));
}

TEST(Guard, RefusesHeadersThatAreCutOff) {
  EXPECT_TRUE(allows(addresses(), cut(frame_of(Ipv4{}), 14 + 20)));
  EXPECT_FALSE(allows(addresses(), cut(frame_of(Ipv4{}), 14 + 19)));
  EXPECT_TRUE(allows(addresses(), cut(frame_of(Arp{}), 14 + 28)));
  EXPECT_FALSE(allows(addresses(), cut(frame_of(Arp{}), 14 + 27)));
  EXPECT_FALSE(allows(mac_only(), cut(frame_of(Arp{}), 14 + 27)));
  EXPECT_TRUE(allows(addresses(), cut(frame_of(Ipv6{.behind = {}}), 14 + 40)));
  EXPECT_FALSE(allows(addresses(), cut(frame_of(Ipv6{.behind = {}}), 14 + 39)));
  EXPECT_FALSE(allows(addresses(), cut(frame_of(Ipv4{}, {{5}}), 17)));
}

TEST(Guard, RefusesWhatShowsNoAddress) {
  EXPECT_FALSE(allows(addresses(), plain_frame(other, me)));
  EXPECT_FALSE(allows(both(), plain_frame(other, me)));
}

TEST(Guard, AddressesOfOneVersionLeaveNoneOfTheOther) {
  const Guard v4{.mac = {}, .ipv4 = {mine4}, .ipv6 = {}};
  const Guard v6{.mac = {}, .ipv4 = {}, .ipv6 = {mine6}};
  EXPECT_FALSE(allows(v4, frame_of(Ipv6{.behind = {}})));
  EXPECT_FALSE(allows(v6, frame_of(Ipv4{})));
  EXPECT_FALSE(allows(v6, frame_of(Arp{})));
}

TEST(Guard, LetsDhcpThrough) {
  const Ipv4 discover{.from = any4, .to = everyone4};
  const auto changed = [&](auto change) {
    Ipv4 ip = discover;
    change(ip);
    return allows(both(), frame_of(ip));
  };
  EXPECT_TRUE(allows(both(), frame_of(discover)));
  EXPECT_TRUE(changed([](Ipv4& ip) { ip.first = 0x46; }));
  EXPECT_TRUE(changed([](Ipv4& ip) { ip.fragment = 0x4000; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.to = theirs4; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.first = 0x44; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.fragment = 0x2000; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.fragment = 1; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.protocol = 6; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.from_port = 69; }));
  EXPECT_FALSE(changed([](Ipv4& ip) { ip.to_port = 68; }));
  EXPECT_TRUE(allows(both(), cut(frame_of(discover), 38)));
  EXPECT_FALSE(allows(both(), cut(frame_of(discover), 37)));
}

TEST(Guard, WantsItsOwnAddressesInArp) {
  for (const unsigned type : {0x0806U, 0x8035U}) {
    EXPECT_TRUE(allows(both(), frame_of(Arp{.type = type})));
    EXPECT_TRUE(allows(both(), frame_of(Arp{.sender = any4, .type = type})));
    EXPECT_FALSE(allows(both(), frame_of(Arp{.sender = theirs4, .type = type})));
    EXPECT_FALSE(allows(both(), frame_of(Arp{.sender_mac = other, .type = type})));
    EXPECT_FALSE(allows(mac_only(), frame_of(Arp{.sender_mac = other, .type = type})));
    EXPECT_FALSE(allows(addresses(), frame_of(Arp{.sender_mac = other, .type = type})));
  }
}

TEST(Guard, KnowsOneKindOfArp) {
  for (std::size_t i = 0; i < 6; ++i) {
    Arp arp;
    arp.kind[i] ^= 1;
    EXPECT_FALSE(allows(both(), frame_of(arp))) << i;
  }
}

TEST(Guard, WantsItsIpv6Source) {
  EXPECT_TRUE(allows(both(), frame_of(Ipv6{.behind = {}})));
  EXPECT_FALSE(allows(both(), frame_of(Ipv6{.from = theirs6, .behind = {}})));
  EXPECT_FALSE(allows(both(), frame_of(Ipv6{.first = 0x40, .behind = {}})));
}

TEST(Guard, LetsItsLinkLocalAddressThrough) {
  EXPECT_TRUE(allows(both(), frame_of(Ipv6{.from = my_link_local, .behind = {}})));
  EXPECT_TRUE(allows(addresses(), frame_of(Ipv6{.from = my_link_local, .behind = {}})));
  for (std::size_t i = 0; i < my_link_local.size(); ++i) {
    auto close = my_link_local;
    close[i] ^= 2;
    EXPECT_FALSE(allows(both(), frame_of(Ipv6{.from = close, .behind = {}}))) << i;
  }
}

TEST(Guard, LetsAddressesBeSoughtFromNowhere) {
  EXPECT_TRUE(allows(both(), frame_of(Ipv6{.from = any6, .to = all_nodes, .behind = {}})));
  EXPECT_FALSE(allows(both(), frame_of(Ipv6{.from = any6, .behind = {}})));
  auto wide = all_nodes;
  wide[1] = 5;
  EXPECT_FALSE(allows(both(), frame_of(Ipv6{.from = any6, .to = wide, .behind = {}})));
}

TEST(Guard, WantsNeighbourAdvertisementsToBeOfItself) {
  const auto advertises = [](unsigned next, const Bytes& behind) {
    return allows(both(), frame_of(Ipv6{.next = next, .behind = behind}));
  };
  EXPECT_TRUE(advertises(58, advertisement(mine6)));
  EXPECT_TRUE(advertises(58, advertisement(my_link_local)));
  EXPECT_FALSE(advertises(58, advertisement(theirs6)));
  EXPECT_TRUE(advertises(58, advertisement(theirs6, 135)));
  EXPECT_TRUE(advertises(17, advertisement(theirs6)));
  EXPECT_FALSE(advertises(58, cut(advertisement(mine6), 23)));
  EXPECT_FALSE(advertises(58, {}));
}

TEST(Guard, FindsAdvertisementsBehindExtensionHeaders) {
  const auto advertises = [](unsigned next, const Bytes& behind) {
    return allows(both(), frame_of(Ipv6{.next = next, .behind = behind}));
  };
  for (const unsigned type : {0U, 43U, 60U}) {
    EXPECT_TRUE(advertises(type, extended(58, 1, advertisement(mine6))));
    EXPECT_FALSE(advertises(type, extended(58, 1, advertisement(theirs6))));
    EXPECT_FALSE(advertises(type, extended(58, 2, advertisement(theirs6))));
    EXPECT_FALSE(advertises(type, extended(60, 1, extended(58, 1, advertisement(theirs6)))));
    EXPECT_FALSE(advertises(type, extended(58, 20, advertisement(mine6)))) << "not in the head";
    EXPECT_FALSE(advertises(type, cut(extended(58, 1, {}), 1)));
    EXPECT_TRUE(advertises(type, extended(17, 1, {})));
  }
  EXPECT_TRUE(advertises(44, extended(58, 1, advertisement(theirs6)))) << "ignored, RFC 6980";
}

}  // namespace
}  // namespace net::tests
