#include "backends/net/forwarding/switch.hpp"

#include "backends/net/frame/headers.hpp"
#include "tests/unit/net/forwarding/switch_fixture.hpp"
#include "tests/unit/net/frame/tcp_frame.hpp"

namespace net::tests {
namespace {

Bytes frame(unsigned to, unsigned from, unsigned mark = 0, std::initializer_list<Tag> tags = {}) {
  return plain_frame(station(to), station(from), mark, tags);
}
Bytes to_all(unsigned from, unsigned mark = 0, std::initializer_list<Tag> tags = {}) {
  return plain_frame(broadcast, station(from), mark, tags);
}

TEST_F(SwitchTest, FloodsWhatItDoesNotKnow) {
  start_with(3);
  send(0, frame(2, 1));
  EXPECT_TRUE(sinks[0].take().empty());
  EXPECT_EQ(sinks[1].take(), Frames{frame(2, 1)});
  EXPECT_EQ(sinks[2].take(), Frames{frame(2, 1)});
}

TEST_F(SwitchTest, SendsToTheStationItHasHeard) {
  start_with(3);
  hear(1, 2);
  send(0, frame(2, 1));
  EXPECT_EQ(sinks[1].take(), Frames{frame(2, 1)});
  EXPECT_TRUE(sinks[2].take().empty());
  send(2, frame(1, 3));
  EXPECT_EQ(sinks[0].take(), Frames{frame(1, 3)});
  EXPECT_TRUE(sinks[1].take().empty());
}

TEST_F(SwitchTest, FloodsGroupsAlways) {
  start_with(3);
  MacAddress group = station(9);
  group[0] |= 1;
  for (const MacAddress& mac : {broadcast, group}) {
    send(1, plain_frame(station(5), mac));
    (void)sinks[0].take();
    (void)sinks[2].take();
    send(0, plain_frame(mac, station(1)));
    EXPECT_EQ(sinks[1].take().size(), 1U);
    EXPECT_EQ(sinks[2].take().size(), 1U);
  }
}

TEST_F(SwitchTest, ForwardsNothingThatIsForBridges) {
  start_with(2);
  const auto goes_on = [&](const MacAddress& to) {
    send(0, plain_frame(to, station(1)));
    send(0, plain_frame(to, station(1), 0, {{5}}));
    return sinks[1].take().size();
  };
  for (const std::uint8_t last : std::array<std::uint8_t, 4>{0x00, 0x01, 0x0e, 0x0f}) {
    EXPECT_EQ(goes_on({0x01, 0x80, 0xc2, 0, 0, last}), 0U) << int{last};
  }
  EXPECT_EQ(sources[0].dropped(Drop::reserved), 8U);
  for (const MacAddress& mac :
       {MacAddress{0x01, 0x80, 0xc2, 0, 0, 0x10}, MacAddress{0x01, 0x80, 0xc2, 0, 1, 0},
        MacAddress{0x01, 0x80, 0xc3, 0, 0, 0}, MacAddress{0x03, 0x80, 0xc2, 0, 0, 0}}) {
    EXPECT_EQ(goes_on(mac), 2U) << int{mac[5]};
  }
  EXPECT_EQ(sources[0].dropped(Drop::reserved), 8U);
  EXPECT_EQ(subject->station_count(PortId{0}), 2U) << "who sent it is known, in both VLANs";
}

TEST_F(SwitchTest, APatchPassesWhatIsForBridges) {
  start_with(2, {.patch = true});
  const auto to_bridges = plain_frame({0x01, 0x80, 0xc2, 0, 0, 0}, station(1));
  send(0, to_bridges);
  EXPECT_EQ(sinks[1].take(), Frames{to_bridges});
}

TEST_F(SwitchTest, DropsWhatIsForItsSendersOwnPort) {
  start_with(2);
  hear(0, 2);
  const std::uint64_t before = sources[0].dropped(Drop::nowhere);
  send(0, frame(2, 1));
  EXPECT_TRUE(sinks[0].take().empty());
  EXPECT_TRUE(sinks[1].take().empty());
  EXPECT_EQ(sources[0].dropped(Drop::nowhere), before + 1);
}

TEST_F(SwitchTest, OfOnePortHasNowhereToGo) {
  start_with(1);
  send(0, {frame(2, 1), to_all(1)});
  EXPECT_EQ(sources[0].dropped(Drop::nowhere), 2U);
}

TEST_F(SwitchTest, DeliversOncePerSinkInOrder) {
  start_with(3);
  hear(1, 2);
  hear(2, 3);
  Frames sent;
  Frames to_one;
  Frames to_two;
  for (unsigned i = 0; i < Burst::most; ++i) {
    sent.push_back(i % 5 == 0 ? to_all(1, i) : frame(2 + i % 2, 1, i));
    if (i % 5 == 0 || i % 2 == 0) to_one.push_back(sent.back());
    if (i % 5 == 0 || i % 2 == 1) to_two.push_back(sent.back());
  }
  send(0, sent);
  EXPECT_EQ(sinks[1].deliveries.size(), 1U);
  EXPECT_EQ(sinks[2].deliveries.size(), 1U);
  EXPECT_EQ(sinks[1].take(), to_one);
  EXPECT_EQ(sinks[2].take(), to_two);
}

TEST_F(SwitchTest, TakesMoreThanABurst) {
  start_with(2);
  const std::size_t count = 2 * Burst::most + 1;
  const auto bytes = to_all(1);
  std::vector<Frame> frames(count);
  for (Frame& one : frames) {
    one.start(bytes.size(), static_cast<std::uint32_t>(bytes.size()));
    std::ranges::copy(bytes, one.head().begin());
  }
  subject->forward(sources[0], frames, 0);
  EXPECT_EQ(sinks[1].take().size(), count);
}

TEST_F(SwitchTest, FlushesOnceTheSinksItDeliveredTo) {
  start_with(3, {.workers = 2});
  hear(1, 2);
  subject->flush(0);
  for (FakeSink& sink : sinks) sink.flushes = 0;

  send(0, {frame(2, 1)}, 1);
  send(0, {frame(2, 1)}, 1);
  EXPECT_EQ(sinks[1].last_worker, 1U);
  subject->flush(0);
  EXPECT_EQ(sinks[1].flushes, 0U) << "that worker did not deliver";
  subject->flush(1);
  subject->flush(1);
  EXPECT_EQ(sinks[1].flushes, 1U);
  EXPECT_EQ(sinks[1].last_worker, 1U);
  EXPECT_EQ(sinks[0].flushes + sinks[2].flushes, 0U);
  send(0, {frame(2, 1)}, 1);
  subject->flush(1);
  EXPECT_EQ(sinks[1].flushes, 2U);
}

TEST_F(SwitchTest, FollowsAStationThatMoves) {
  start_with(3);
  hear(1, 2);
  send(0, frame(2, 1));
  EXPECT_EQ(sinks[1].take().size(), 1U);
  hear(2, 2);
  send(0, frame(2, 1));
  EXPECT_TRUE(sinks[1].take().empty());
  EXPECT_EQ(sinks[2].take().size(), 1U);
}

TEST_F(SwitchTest, LearnsFromEveryFrameOfABurst) {
  start_with(3);
  send(0, {frame(9, 1), frame(9, 2), frame(8, 2), frame(8, 3)});
  for (FakeSink& sink : sinks) (void)sink.take();
  send(1, {frame(1, 4), frame(2, 4), frame(3, 4)});
  EXPECT_EQ(sinks[0].take().size(), 3U);
  EXPECT_TRUE(sinks[2].take().empty());
}

TEST_F(SwitchTest, ForgetsStationsThatAreSilent) {
  start_with(3, {.ageing_s = 10});
  hear(1, 2);
  send(0, frame(2, 1));
  age_after(10);
  send(0, frame(2, 1));
  EXPECT_TRUE(sinks[2].take().empty());
  age_after(11);
  send(0, frame(2, 1));
  EXPECT_EQ(sinks[2].take().size(), 1U);
}

/// The memo must not keep a station from being heard.
TEST_F(SwitchTest, RemembersStationsThatKeepTalking) {
  start_with(3, {.ageing_s = 10});
  for (unsigned second = 0; second < 30; ++second) {
    age_after(second);
    send(1, frame(1, 2));
    const auto known = subject->stations(2);
    ASSERT_EQ(known.size(), 1U);
    EXPECT_EQ(known[0].age_s, 0U);
  }
  (void)sinks[2].take();
  send(0, frame(2, 1));
  EXPECT_TRUE(sinks[2].take().empty());
}

TEST_F(SwitchTest, KeepsGuestsToTheirShareOfAddresses) {
  start_with(3, {.stations_per_port = 16});
  for (unsigned n = 0; n < 17; ++n) send(0, frame(500, 100 + n));
  EXPECT_EQ(subject->station_count(PortId{0}), 16U);
  EXPECT_EQ(subject->not_learned(PortId{0}), 1U);
  hear(1, 2);
  EXPECT_EQ(subject->station_count(PortId{1}), 1U);
  EXPECT_EQ(subject->stations(100).size(), 17U);
  EXPECT_EQ(subject->stations(5).size(), 5U);
}

TEST_F(SwitchTest, DropsWhatItsGuardRefuses) {
  add_port(VlanPolicy::transparent(), {.mac = station(1), .ipv4 = {}, .ipv6 = {}});
  add_port();
  start();
  send(0, {frame(2, 1, 1), frame(2, 3, 2), frame(2, 1, 3)});
  EXPECT_EQ(sinks[1].take(), (Frames{frame(2, 1, 1), frame(2, 1, 3)}));
  EXPECT_EQ(sources[0].dropped(Drop::spoofed), 1U);
  EXPECT_EQ(subject->station_count(PortId{0}), 1U) << "what is refused teaches nothing";
}

/// The guard looks behind what the switch compares.
TEST_F(SwitchTest, GuardsEveryFrameOfABurst) {
  constexpr Ipv4Address mine{10, 0, 0, 1};
  add_port(VlanPolicy::transparent(), {.mac = {}, .ipv4 = {mine}, .ipv6 = {}});
  add_port();
  start();
  hear(1, 2);
  const auto packet = [](const Ipv4Address& from) {
    Bytes bytes(20);
    bytes[0] = std::byte{0x45};
    std::memcpy(bytes.data() + 12, from.data(), from.size());
    return ethernet(station(2), station(1), 0x0800, bytes);
  };
  send(0, {packet(mine), packet({10, 0, 0, 2}), packet(mine)});
  EXPECT_EQ(sinks[1].take(), (Frames{packet(mine), packet(mine)}));
  EXPECT_EQ(sources[0].dropped(Drop::spoofed), 1U);
}

TEST_F(SwitchTest, LimitsFloodsOfEachPort) {
  start_with(3, {.storm_limit = 100});
  hear(1, 2);
  for (unsigned i = 0; i < 20; ++i) send(0, {to_all(1), frame(2, 1)});
  // 10 at once, and one each 10 ms that this takes.
  const std::uint64_t dropped = sources[0].dropped(Drop::storm);
  EXPECT_GE(dropped, 1U);
  EXPECT_LE(dropped, 10U);
  EXPECT_EQ(sinks[2].take().size(), 20 - dropped);
  EXPECT_EQ(sinks[1].take().size(), 40 - dropped) << "known stations are not flooded to";
  send(2, to_all(3));
  EXPECT_EQ(sources[2].dropped(Drop::storm), 0U);
}

TEST_F(SwitchTest, CountsAFloodedFrameAsTheSegmentsThatItAsksToBecome) {
  start_with(3, {.storm_limit = 100});
  hear(1, 2);
  OwnedFrame owned(tcp4_frame(54 + 4000), SIZE_MAX, Frame::longest_head);
  const auto forward = [&](const MacAddress& to) {
    owned.frame.set_field(0, to);
    owned.frame.set_field(source_mac_offset, station(1));
    owned.frame.offload = {needs_csum, gso::tcp4, 0, 4, 34, 16};
    subject->forward(sources[0], {&owned.frame, 1}, 0);
  };
  for (int i = 0; i < 5; ++i) forward(station(2));
  EXPECT_EQ(sinks[1].take().size(), 5U);  // to one port: that is no flood
  forward(broadcast);
  send(0, to_all(1));  // what may pass in ten seconds has passed
  EXPECT_EQ(sinks[2].take().size(), 1U);
  EXPECT_EQ(sources[0].dropped(Drop::storm), 1U);
}

TEST_F(SwitchTest, LimitsNothingThatGoesToOnePort) {
  start_with(2, {.storm_limit = 10});
  for (unsigned i = 0; i < 20; ++i) send(0, to_all(1));
  EXPECT_EQ(sources[0].dropped(Drop::storm), 0U);
  EXPECT_EQ(sinks[1].take().size(), 20U);
}

TEST_F(SwitchTest, KeepsVlansApart) {
  add_port(VlanPolicy::access(5));
  add_port(VlanPolicy::access(5));
  add_port(VlanPolicy::access(6));
  add_port(trunk_of({5, 6}));
  add_port();
  start();
  send(0, to_all(1));
  EXPECT_EQ(sinks[1].take(), Frames{to_all(1)});
  EXPECT_TRUE(sinks[2].take().empty());
  EXPECT_EQ(sinks[3].take(), (Frames{to_all(1, 0, {{5}})}));
  EXPECT_EQ(sinks[4].take(), (Frames{to_all(1, 0, {{5}})}));

  send(3, to_all(2, 1, {{0xe006}}));
  EXPECT_TRUE(sinks[0].take().empty());
  EXPECT_TRUE(sinks[1].take().empty());
  EXPECT_EQ(sinks[2].take(), Frames{to_all(2, 1)});
  EXPECT_EQ(sinks[4].take(), (Frames{to_all(2, 1, {{0xe006}})}));
}

TEST_F(SwitchTest, LearnsStationsByVlan) {
  add_port(trunk_of({5, 6}));
  add_port(VlanPolicy::access(5));
  add_port(VlanPolicy::access(6));
  start();
  send(1, to_all(9));
  send(2, to_all(9));
  (void)sinks[0].take();
  send(0, {frame(9, 1, 1, {{5}}), frame(9, 1, 2, {{6}}), frame(9, 1, 3, {{5}})});
  EXPECT_EQ(sinks[1].take(), (Frames{frame(9, 1, 1), frame(9, 1, 3)}));
  EXPECT_EQ(sinks[2].take(), Frames{frame(9, 1, 2)});
}

/// Flooded frames change their form from sink to sink, the others of the burst must not.
TEST_F(SwitchTest, GivesEachSinkTheTagsItWants) {
  add_port(trunk_of({5}, 6));
  add_port(VlanPolicy::access(5));
  add_port(trunk_of({5, 6}));
  add_port(trunk_of({6}, 5));
  start();
  hear(2, 9);
  send(2, plain_frame(station(9), station(9), 0, {{6}}));
  for (FakeSink& sink : sinks) (void)sink.take();
  const unsigned urgent = 0xa005;
  send(0, {to_all(1, 1, {{urgent}}), frame(9, 1, 2), to_all(1, 3), to_all(1, 4, {{5}})});
  EXPECT_EQ(sinks[1].take(), (Frames{to_all(1, 1), to_all(1, 4)}));
  EXPECT_EQ(sinks[2].take(), (Frames{to_all(1, 1, {{urgent}}), frame(9, 1, 2, {{6}}),
                                     to_all(1, 3, {{6}}), to_all(1, 4, {{5}})}));
  EXPECT_EQ(sinks[3].take(), (Frames{to_all(1, 1), to_all(1, 3, {{6}}), to_all(1, 4)}));
}

/// Frames that begin alike may still differ in what decides.
TEST_F(SwitchTest, LooksAtEveryTagOfABurst) {
  add_port();
  add_port(VlanPolicy::access(5));
  add_port(VlanPolicy::access(6));
  add_port();
  start();
  hear(1, 9);
  hear(2, 9);
  hear(3, 9);
  Bytes cut = frame(9, 1, 0, {{5}});
  cut.resize(17);
  send(0, {cut, frame(9, 1, 1, {{5}}), frame(9, 1, 2, {{6}}), frame(9, 1, 3, {{5}})});
  EXPECT_EQ(sinks[1].take(), (Frames{frame(9, 1, 1), frame(9, 1, 3)}));
  EXPECT_EQ(sinks[2].take(), Frames{frame(9, 1, 2)});
  EXPECT_EQ(sinks[3].take(), Frames{cut});
}

TEST_F(SwitchTest, TagsEveryFrameOfABurst) {
  add_port(VlanPolicy::access(5));
  add_port(trunk_of({5}));
  start();
  send(1, plain_frame(station(2), station(2), 0, {{5}}));
  send(0, {frame(2, 1, 1), frame(2, 1, 2), frame(2, 1, 3)});
  EXPECT_EQ(sinks[1].take(),
            (Frames{frame(2, 1, 1, {{5}}), frame(2, 1, 2, {{5}}), frame(2, 1, 3, {{5}})}));
}

TEST_F(SwitchTest, DropsVlansThatThePortIsNoMemberOf) {
  add_port(VlanPolicy::access(5));
  add_port(VlanPolicy::access(5));
  start();
  send(0, {frame(2, 1, 0, {{5}}), frame(2, 1, 0, {{6}}), frame(2, 1, 1)});
  EXPECT_EQ(sources[0].dropped(Drop::vlan), 2U);
  EXPECT_EQ(sinks[1].take(), Frames{frame(2, 1, 1)});
}

TEST_F(SwitchTest, TakesNoTagOffThatHidesAnother) {
  add_port();
  add_port(VlanPolicy::access(5));
  add_port();
  start();
  hear(1, 2);
  send(0, {frame(2, 1, 1, {{5}, {6}}), to_all(1, 2, {{5}, {6}})});
  EXPECT_TRUE(sinks[1].take().empty());
  EXPECT_EQ(sinks[2].take(), (Frames{to_all(1, 2, {{5}, {6}})}));
  EXPECT_EQ(sources[0].dropped(Drop::vlan), 1U);
}

TEST_F(SwitchTest, PatchPassesEverythingOn) {
  add_port(VlanPolicy::access(5), {.mac = station(1), .ipv4 = {}, .ipv6 = {}});
  add_port();
  start({.patch = true});
  send(0, {to_all(1), frame(1, 1, 1, {{7}}), frame(2, 3)});
  EXPECT_EQ(sinks[1].take(), (Frames{to_all(1), frame(1, 1, 1, {{7}})}));
  EXPECT_EQ(sources[0].dropped(Drop::spoofed), 1U);
  send(1, {frame(1, 1), to_all(2, 1)});
  EXPECT_EQ(sinks[0].take(), (Frames{frame(1, 1), to_all(2, 1)}));
  EXPECT_TRUE(sinks[1].take().empty());
  subject->flush(0);
  EXPECT_EQ(sinks[0].flushes, 1U);
  EXPECT_TRUE(subject->stations(10).empty());
}

}  // namespace
}  // namespace net::tests
