// What front-ends rely on that is of networks: how queues are counted, MTU, announcements, drivers
// without the newer features, and a successor that goes on with the rings.
#include "tests/integration/layout.hpp"
#include "tests/integration/net_stream.hpp"

namespace integration {
namespace {

using nlohmann::json;
using vhost::bit;
using vhost::bytes_of;
using vhost::Request;
using vhost::VringState;
using vhost::frontend::Connection;
using vhost::frontend::Wishes;
namespace net_feature = vhost::frontend::net_feature;
namespace protocol = vhost::protocol_feature;

class NetFrontEnd : public NetServed {
 protected:
  /// A connection with everything accepted that is offered, but for these protocol features.
  [[nodiscard]] Connection acquaintance(std::uint64_t without = 0) const {
    Connection connection = connect(socket("a"));
    (void)must(connection.ask_for<std::uint64_t>(Request::get_features));
    const auto offered = must(connection.ask_for<std::uint64_t>(Request::get_protocol_features));
    must(connection.tell(Request::set_protocol_features, offered & ~without));
    connection.acknowledge((offered & ~without & bit(protocol::reply_ack)) != 0);
    return connection;
  }
  static void expect_talk(Station& a, Station& b) {
    for (const std::size_t bytes : {std::size_t{60}, std::size_t{1514}}) {
      a.send(b.mac, bytes, 1);
      EXPECT_EQ(b.receive(), frame(a.mac, b.mac, bytes, 1));
      b.send(a.mac, bytes, 2);
      EXPECT_EQ(a.receive(), frame(b.mac, a.mac, bytes, 2));
    }
  }
  [[nodiscard]] static NetOptions with_features(std::uint64_t features) {
    NetOptions options;
    options.wishes.features = features;
    return options;
  }
};

// --- counting queues ----------------------------------------------------------------------------

TEST_F(NetFrontEnd, TheNumberOfQueuesIsEnoughInRings) {
  serve({"--port", port("a", "queues=2")});
  auto connection = acquaintance();
  EXPECT_EQ(must(connection.ask_for<std::uint64_t>(Request::get_queue_num)), 4U);
}

TEST_F(NetFrontEnd, WhoTakesTheNumberOfQueuesForPairsIsServedOnAll) {
  serve({"--port", port("a", "queues=2"), "--port", port("b")});
  NetOptions options;
  options.pairs = 4;
  Station a = guest("a", 1, options);
  Station b = guest("b", 2);
  b.send(a.mac);
  for (std::uint32_t pair = 0; pair < 4; ++pair) {
    StreamSource source(a, pair, b.mac, pair, 1);
    StreamSink sink(b, 0);
    (void)source.turn();
    EXPECT_TRUE(eventually([&] {
      (void)sink.turn();
      return sink.received == source.sent();
    })) << pair;
    EXPECT_EQ(sink.garbled, 0U);
  }
  EXPECT_TRUE(must(a->device().connection().ask_for<VringState>(Request::get_vring_base,
                                                                bytes_of(VringState{7, 0})))
                  .value > 0);
}

TEST_F(NetFrontEnd, ARingBehindTheLastIsRefused) {
  serve({"--port", port("a", "queues=2")});
  auto connection = acquaintance();
  EXPECT_TRUE(connection.tell(Request::set_vring_num, VringState{7, 256}));
  for (const std::uint32_t ring : {8U, 256U, 0x10000U}) {
    EXPECT_FALSE(connection.tell(Request::set_vring_num, VringState{ring, 256})) << ring;
  }
}

// --- MTU ----------------------------------------------------------------------------------------

TEST_F(NetFrontEnd, AnMtuWithinTheLimitsIsTakenAndOthersAreRefused) {
  serve({"--port", port("a")});
  auto connection = acquaintance();
  for (const std::uint64_t good : {68, 1500, 9202}) {
    EXPECT_TRUE(connection.tell(Request::net_set_mtu, good)) << good;
    (void)stats_when(stats, [&](const json& now) { return now["ports"][0]["mtu"] == good; });
  }
  for (const std::uint64_t bad : {std::uint64_t{0}, std::uint64_t{67}, std::uint64_t{9203},
                                  std::uint64_t{65536 + 1500}, ~std::uint64_t{0}}) {
    EXPECT_FALSE(connection.tell(Request::net_set_mtu, bad)) << bad;
  }
  (void)stats_when(stats, [&](const json& now) {
    return now["ports"][0]["connection"]["messages_refused"] == 5 && now["ports"][0]["mtu"] == 9202;
  });
}

TEST_F(NetFrontEnd, AnMtuIsTakenWithoutAcknowledgementToo) {
  serve({"--port", port("a")});
  auto connection = acquaintance(bit(protocol::reply_ack));
  must(connection.tell(Request::net_set_mtu, std::uint64_t{1400}));
  (void)stats_when(stats, [](const json& now) { return now["ports"][0]["mtu"] == 1400; });
}

TEST_F(NetFrontEnd, ABadMtuThatNobodyCanRefuseEndsTheConnection) {
  serve({"--port", port("a")});
  auto connection = acquaintance(bit(protocol::reply_ack));
  must(connection.tell(Request::net_set_mtu, std::uint64_t{67}));
  EXPECT_TRUE(connection.closed_within(milliseconds(3000) * slowness));
  auto next = acquaintance();
  EXPECT_TRUE(next.tell(Request::net_set_mtu, std::uint64_t{1500}));
}

TEST_F(NetFrontEnd, WhatIsLongerThanTheMtuDoesNotReachTheGuest) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  must(b->set_mtu(1000));
  a.send(b.mac, 1000 + 14 + 4, 3);  // a VLAN's tag is not the packet's
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac, 1018, 3));
  a.send(b.mac, 1019);
  (void)stats_when(stats, [](const json& now) {
    const json& queues = now["ports"][1]["queues"];
    return !queues.empty() && queues[0]["to_guest"]["drops"]["too_big"] == 1;
  });
  EXPECT_TRUE(b.hears_nothing());
}

// --- announcements ------------------------------------------------------------------------------

TEST_F(NetFrontEnd, AnAnnouncementIsARarpFrameAndTeachesTheSwitch) {
  serve({"--port", port("a"), "--port", port("b"), "--port", port("c")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  Station c = guest("c", 3);
  must(a->send_rarp(a.mac));
  for (Station* const other : {&b, &c}) {
    const Bytes heard = other->receive();
    ASSERT_EQ(heard.size(), 60U);
    const auto mac = std::as_bytes(std::span(a.mac));
    EXPECT_TRUE(std::ranges::equal(std::span(heard).first(6), std::as_bytes(std::span(everybody))));
    EXPECT_TRUE(std::ranges::equal(std::span(heard).subspan(6, 6), mac));
    const std::array<std::uint8_t, 10> kind{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    EXPECT_TRUE(
        std::ranges::equal(std::span(heard).subspan(12, 10), std::as_bytes(std::span(kind))));
    EXPECT_TRUE(std::ranges::equal(std::span(heard).subspan(22, 6), mac));
    EXPECT_TRUE(std::ranges::equal(std::span(heard).subspan(32, 6), mac));
  }
  EXPECT_TRUE(a.hears_nothing());
  b.send(a.mac);
  EXPECT_EQ(a.receive(), frame(b.mac, a.mac));
  EXPECT_TRUE(c.hears_nothing()) << "the switch knows where it is";
}

// --- older drivers ------------------------------------------------------------------------------

TEST_F(NetFrontEnd, RingsStartWithoutProtocolFeaturesAccepted) {
  serve({"--port", port("a"), "--port", port("b")});
  NetOptions options;
  options.wishes.features &= ~bit(vhost::feature::protocol_features);
  Station a = guest("a", 1, options);
  Station b = guest("b", 2);
  expect_talk(a, b);
}

TEST_F(NetFrontEnd, ALegacyDriverHasAHeaderOfTenBytes) {
  serve({"--port", port("a"), "--port", port("b")});
  Station b = guest("b", 2);
  const std::uint64_t least = bit(vhost::feature::protocol_features);
  for (const std::uint64_t more :
       {std::uint64_t{0}, bit(vhost::feature::any_layout),
        bit(vhost::feature::event_idx) | bit(vhost::feature::indirect_desc),
        bit(net_feature::csum) | bit(net_feature::guest_csum) | bit(net_feature::guest_tso4),
        bit(net_feature::mrg_rxbuf)}) {
    Station a = guest("a", 1, with_features(least | more));
    EXPECT_EQ(a->queue(0).header_bytes(), more == bit(net_feature::mrg_rxbuf) ? 12U : 10U);
    expect_talk(a, b);
  }
}

class NetPackedRingSize : public NetFrontEnd,
                          public ::testing::WithParamInterface<std::uint16_t> {};
INSTANTIATE_TEST_SUITE_P(AnyNumber, NetPackedRingSize, ::testing::Values(2, 5, 6, 100, 1000, 1024));

TEST_P(NetPackedRingSize, IsServed) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1, on_rings(true, GetParam()));
  Station b = guest("b", 2);
  for (unsigned i = 0; i < 2U * GetParam() + 3; ++i) {  // into the third lap
    a.send(b.mac, 100, i);
    ASSERT_EQ(b.receive(), frame(a.mac, b.mac, 100, i));
    b.send(a.mac, 1500, i);
    ASSERT_EQ(a.receive(), frame(b.mac, a.mac, 1500, i));
  }
}

TEST_F(NetFrontEnd, AFrontEndMayHaveNoAddressesOfItsOwn) {
  serve({"--port", port("a"), "--port", port("b")});
  NetOptions options;
  options.wishes.required_protocol_features |= bit(protocol::gpa_addresses);
  Station a = guest("a", 1, options);
  Station b = guest("b", 2);
  expect_talk(a, b);
  must(a->stop());
  must(a->start());
  expect_talk(a, b);
}

TEST_F(NetFrontEnd, AnIommuMayStandBetweenADriverAndThePort) {
  serve({"--port", port("a"), "--port", port("b")});
  int rounds = 0;
  for (const bool packed : {false, true}) {
    NetOptions options = on_rings(packed);
    options.wishes.required_features |= bit(vhost::feature::access_platform);
    Station a = guest("a", 1, options);
    Station b = guest("b", 2, options);
    // What is not known yet of the receiver's buffers may cost it a frame, and so we repeat it.
    const auto carries = [](Station& from, Station& to) {
      return eventually([&] {
        from.send(to.mac, 700, 3);
        must(from->device().connection().serve_channel());
        const auto received = to->receive(milliseconds(50));
        return received && received->bytes == frame(from.mac, to.mac, 700, 3);
      });
    };
    EXPECT_TRUE(carries(a, b));
    EXPECT_TRUE(carries(b, a));

    must(a->device().invalidate(0, UINT64_MAX));
    ++rounds;
    const auto iommu =
        stats_when(stats,
                   [&](const auto& s) {
                     return s.at("ports").at(0).at("connection").at("iommu").at("invalidations") ==
                            rounds;
                   })
            .at("ports")
            .at(0)
            .at("connection")
            .at("iommu");
    EXPECT_EQ(iommu.at("drains"), 2 * rounds) << "both of its queues";
    EXPECT_GT(iommu.at("misses"), 0);
    EXPECT_GT(iommu.at("updates"), 0);
    EXPECT_EQ(iommu.at("refused"), 0);
  }
}

// --- successors ---------------------------------------------------------------------------------

TEST_F(NetFrontEnd, FeaturesAreTheSameAfterARestart) {
  const auto offered = [&] {
    auto connection = connect(socket("a"));
    return std::pair(must(connection.ask_for<std::uint64_t>(Request::get_features)),
                     must(connection.ask_for<std::uint64_t>(Request::get_protocol_features)));
  };
  serve({"--port", port("a")});
  const auto before = offered();
  daemon->kill();
  serve({"--port", port("a"), "--port", port("b", "queues=4"), "--workers", "2"});
  EXPECT_EQ(offered(), before);
}

TEST_F(NetFrontEnd, ABaseIsWhatWasServed) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  for (unsigned i = 0; i < 300; ++i) {  // more than the rings have entries
    a.send(b.mac, 100, i);
    EXPECT_EQ(b.receive(), frame(a.mac, b.mac, 100, i));
  }
  const auto base = [](Station& station, std::uint32_t ring) {
    return must(station->device().connection().ask_for<VringState>(Request::get_vring_base,
                                                                   bytes_of(VringState{ring, 0})))
        .value;
  };
  EXPECT_EQ(base(a, 1), 300U);
  EXPECT_EQ(base(a, 0), 0U) << "its buffers are where they were";
  EXPECT_EQ(base(b, 0), 300U);
  EXPECT_EQ(base(b, 1), 0U);
}

class NetLayout : public NetFrontEnd, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Rings, NetLayout, ::testing::Bool(), layout_name);

TEST_P(NetLayout, RingsGoOnAfterTheyWereStopped) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1, on_rings(GetParam()));
  Station b = guest("b", 2, on_rings(GetParam()));
  for (int round = 0; round < 5; ++round) {
    expect_talk(a, b);
    must(a->stop());
    must(a->start());
  }
}

TEST_P(NetLayout, ASuccessorOfOneThatWasKilledGoesOnWithTheRings) {
  const Strings flags{"--port", port("a"), "--port", port("b")};
  serve(flags);
  Station a = guest("a", 1, on_rings(GetParam()));
  Station b = guest("b", 2, on_rings(GetParam()));
  b.send(a.mac);
  EXPECT_EQ(a.receive(), frame(b.mac, a.mac));
  StreamSource source(a, 0, b.mac, 0, 8);
  StreamSink sink(b, 0);
  const auto move = [&](std::uint64_t frames) {
    const std::uint64_t before = sink.received;
    return eventually([&] {
      (void)source.turn();
      (void)sink.turn();
      return sink.received > before + frames;
    });
  };
  for (int round = 0; round < 6; ++round) {
    ASSERT_TRUE(move(500)) << round;
    (void)source.turn();  // something is under way
    daemon->kill();
    serve(flags);
    source.collect();
    (void)sink.turn();
    must(a->reconnect(connect(socket("a"))));
    must(b->reconnect(connect(socket("b"))));
  }
  EXPECT_TRUE(move(500));
  EXPECT_EQ(sink.garbled, 0U);
  const json told = stats_when(stats, [](const json& now) {
    return std::ranges::none_of(now["ports"],
                                [](const json& each) { return each["queues"].empty(); });
  });
  for (const json& each : told["ports"]) {
    EXPECT_EQ(each["queues"][0]["from_guest"]["broken_ring"], 0);
    EXPECT_EQ(each["queues"][0]["to_guest"]["broken_ring"], 0);
  }
}

}  // namespace
}  // namespace integration
