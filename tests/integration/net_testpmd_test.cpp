// DPDK's own driver as a client: virtio-user in dpdk-testpmd, over every kind of ring that it
// has, with its offloads, as client and as server.
#include "tests/integration/net_fixture.hpp"
#include "tests/integration/tcp.hpp"
#include "tests/integration/testpmd.hpp"

namespace integration {
namespace {

using nlohmann::json;

class NetTestpmd : public NetServed {
 protected:
  void SetUp() override {
    if (const std::string why = Testpmd::missing(); !why.empty()) GTEST_SKIP() << why;
  }

  /// Serves, and waits until it does: virtio-user tries to connect once.
  void serve_now(const Strings& flags) {
    serve(flags);
    (void)read_stats(stats);
  }
  /// What a virtio-user port needs to find ours of that name.
  [[nodiscard]] std::string path(const std::string& name, const std::string& keys = {}) const {
    return "path=" + socket(name) + (keys.empty() ? "" : "," + keys);
  }
  /// Waits until every queue of every port has moved more than so many frames in each direction.
  [[nodiscard]] json flowing(std::size_t queues, std::uint64_t frames = 2000) const {
    return stats_when(stats, [&](const json& now) {
      return std::ranges::all_of(now["ports"], [&](const json& port) {
        return port["queues"].size() == queues &&
               std::ranges::all_of(port["queues"], [&](const json& queue) {
                 return queue["from_guest"]["frames"] > frames &&
                        queue["to_guest"]["frames"] > frames;
               });
      });
    });
  }
  /// Nothing was lost but for want of receive buffers or before a ring was enabled, and none broke.
  static void expect_clean(const json& told) {
    for (const json& port : told["ports"]) {
      EXPECT_EQ(port["connection"]["messages_refused"], 0);
      for (const json& queue : port["queues"]) {
        for (const char* direction : {"from_guest", "to_guest"}) {
          EXPECT_EQ(queue[direction]["broken_ring"], 0) << port["name"] << direction;
          for (const auto& [why, count] : queue[direction]["drops"].items()) {
            EXPECT_TRUE(why == "no_buffers" || why == "disabled" || count == 0)
                << port["name"] << direction << why;
          }
        }
      }
    }
  }
};

struct Rings {
  const char* name;
  const char* keys;
  int queues;
  int size;
};
void PrintTo(const Rings& rings, std::ostream* out) {
  *out << rings.keys;
}

class NetTestpmdRings : public NetTestpmd, public ::testing::WithParamInterface<Rings> {};

TEST_P(NetTestpmdRings, TrafficFlowsBothWays) {
  const Rings& rings = GetParam();
  const std::string queues = std::to_string(rings.queues);
  serve_now({"--port", port("a", "queues=" + queues), "--port", port("b", "queues=" + queues)});
  const std::string keys =
      "queues=" + queues + ",queue_size=" + std::to_string(rings.size) + "," + rings.keys;
  Testpmd client({path("a", keys), path("b", keys)},
                 {"--rxq=" + queues, "--txq=" + queues, "--txonly-multi-flow"});
  client.loop();
  const json told = flowing(static_cast<std::size_t>(rings.queues));
  expect_clean(told);
  for (const json& port : told["ports"]) {
    const auto& features = port["connection"]["features"];
    const auto negotiated = [&](const char* name) {
      return std::ranges::find(features, name) != features.end();
    };
    const std::string_view asked = rings.keys;
    EXPECT_EQ(negotiated("VIRTIO_F_RING_PACKED"), asked.contains("packed_vq=1"));
    EXPECT_EQ(negotiated("VIRTIO_F_IN_ORDER"), asked.contains("in_order=1"));
  }
  EXPECT_EQ(client.quit(), good_end) << client.words();
}

constexpr const char* mergeable = "mrg_rxbuf=1,in_order=0";
constexpr const char* single = "mrg_rxbuf=0,in_order=0";
constexpr const char* vectorized = "mrg_rxbuf=0,in_order=0,vectorized=1";
constexpr const char* in_order = "mrg_rxbuf=1,in_order=1";
constexpr const char* in_order_single = "mrg_rxbuf=0,in_order=1";
constexpr const char* controlled = "mrg_rxbuf=1,in_order=0,cq=1,speed=40000";

INSTANTIATE_TEST_SUITE_P(
    Split, NetTestpmdRings,
    ::testing::Values(
        Rings{"Mergeable128", mergeable, 1, 128},
        Rings{"Mergeable256InTwoPairs", mergeable, 2, 256}, Rings{"Mergeable64", mergeable, 1, 64},
        Rings{"Mergeable2048", mergeable, 1, 2048},
        Rings{"MergeableWithAControlQueue", controlled, 1, 256},
        Rings{"Mergeable512", mergeable, 1, 512},
        Rings{"Mergeable1024InTwoPairs", mergeable, 2, 1024},
        Rings{"Single128InTwoPairs", single, 2, 128}, Rings{"Single256", single, 1, 256},
        Rings{"Single512InTwoPairs", single, 2, 512}, Rings{"Single1024", single, 1, 1024},
        Rings{"Vectorized128", vectorized, 1, 128},
        Rings{"Vectorized256InTwoPairs", vectorized, 2, 256},
        Rings{"Vectorized512", vectorized, 1, 512},
        Rings{"Vectorized1024InTwoPairs", vectorized, 2, 1024},
        Rings{"InOrder256", in_order, 1, 256}, Rings{"InOrder1024InTwoPairs", in_order, 2, 1024},
        Rings{"InOrderSingle512InTwoPairs", in_order_single, 2, 512}),
    [](const auto& parameter) { return parameter.param.name; });

constexpr const char* packed_mergeable = "packed_vq=1,mrg_rxbuf=1,in_order=0";
constexpr const char* packed_single = "packed_vq=1,mrg_rxbuf=0,in_order=0";
constexpr const char* packed_in_order = "packed_vq=1,mrg_rxbuf=1,in_order=1";
constexpr const char* packed_in_order_single = "packed_vq=1,mrg_rxbuf=0,in_order=1";
constexpr const char* packed_vectorized = "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1";

INSTANTIATE_TEST_SUITE_P(
    Packed, NetTestpmdRings,
    ::testing::Values(Rings{"Mergeable128", packed_mergeable, 1, 128},
                      Rings{"Mergeable256InTwoPairs", packed_mergeable, 2, 256},
                      Rings{"Mergeable1024", packed_mergeable, 1, 1024},
                      Rings{"Single256InTwoPairs", packed_single, 2, 256},
                      Rings{"Single300", packed_single, 1, 300},
                      Rings{"InOrder96", packed_in_order, 1, 96},
                      Rings{"InOrder512InTwoPairs", packed_in_order, 2, 512},
                      Rings{"InOrderSingle1024", packed_in_order_single, 1, 1024},
                      Rings{"Vectorized256", packed_vectorized, 1, 256},
                      Rings{"Vectorized1024InTwoPairs", packed_vectorized, 2, 1024}),
    [](const auto& parameter) { return parameter.param.name; });

/// What the first queue of a port has counted under `key` in one direction.
std::uint64_t count(const json& told, std::size_t port, const char* direction, const char* key) {
  const json& queues = told["ports"][port]["queues"];
  return queues.empty() ? 0 : queues[0][direction][key].get<std::uint64_t>();
}

/// testpmd sends TCP back to whence it came, and leaves its checksum to us: one segment, or many of
/// 800 bytes.
class NetTestpmdOffloads : public NetTestpmd {
 protected:
  static constexpr std::uint32_t payload = 3000;

  [[nodiscard]] std::unique_ptr<Testpmd> reflector(const std::string& segments) {
    serve_now({"--port", port("a"), "--port", port("b")});
    auto client = std::make_unique<Testpmd>(
        Strings{path("b", mergeable)},
        Strings{"--tx-offloads=0x2c", "--mbuf-size=4500", "--max-pkt-len=4000",
                "--port-topology=loop", "--eth-peer=0,02:00:00:00:00:01"});
    for (const std::string& command :
         Strings{"port stop all", "csum set tcp hw 0", "tso set " + segments + " 0",
                 "port start all", "set fwd csum", "start"}) {
      client->say(command);
    }
    EXPECT_TRUE(eventually([&] { return read_stats(stats)["ports"][1]["link_up"] == true; }));
    return client;
  }
  /// Sends until the reflector is at work and the first answer comes.
  [[nodiscard]] static NetDriver::Received reflected(Station& a, const Bytes& bytes) {
    for (int attempt = 0; attempt < 50; ++attempt) {
      a.send_raw(bytes);
      if (auto received = a->receive(milliseconds(200) * slowness)) return std::move(*received);
    }
    throw std::runtime_error("nothing came back");
  }
};

TEST_F(NetTestpmdOffloads, AChecksumIsPassedOnToADriverThatTakesIt) {
  const auto client = reflector("0");
  Station a = guest("a", 1);
  const auto received = reflected(a, tcp_frame(a.mac, everybody, 500));
  EXPECT_EQ(received.header.flags, vhost::frontend::net_needs_csum);
  EXPECT_EQ(received.header.csum_start, 34);
}

TEST_F(NetTestpmdOffloads, AChecksumIsCompletedForADriverThatDoesNot) {
  const auto client = reflector("0");
  NetOptions options;
  options.wishes.features &= ~vhost::bit(vhost::frontend::net_feature::guest_csum);
  Station a = guest("a", 1, options);
  const auto received = reflected(a, tcp_frame(a.mac, everybody, 500));
  EXPECT_EQ(received.header.flags, 0);
  EXPECT_TRUE(tcp_checksum_holds(received.bytes));
}

TEST_F(NetTestpmdOffloads, SegmentationIsPassedOnToADriverThatTakesIt) {
  const auto client = reflector("800");
  Station a = guest("a", 1);
  const auto received = reflected(a, tcp_frame(a.mac, everybody, payload));
  EXPECT_EQ(received.header.gso_type, vhost::frontend::net_gso_tcp4);
  EXPECT_EQ(received.header.gso_size, 800);
  EXPECT_EQ(tcp_payload(received.bytes), tcp_payload(tcp_frame(a.mac, everybody, payload)));
}

TEST_F(NetTestpmdOffloads, SegmentationIsCarriedOutForADriverThatDoesNot) {
  const auto client = reflector("800");
  NetOptions options;
  options.wishes.features &= ~vhost::bit(vhost::frontend::net_feature::guest_csum);
  Station a = guest("a", 1, options);
  Bytes whole;
  Bytes part = reflected(a, tcp_frame(a.mac, everybody, payload)).bytes;
  while (true) {
    EXPECT_LE(tcp_payload(part).size(), 800U);
    EXPECT_TRUE(tcp_checksum_holds(part));
    const Bytes data = tcp_payload(part);
    whole.insert(whole.end(), data.begin(), data.end());
    if (whole.size() >= payload) break;
    part = a.receive();
  }
  EXPECT_EQ(whole, tcp_payload(tcp_frame(a.mac, everybody, payload)));
}

TEST_F(NetTestpmd, ADriverWithLargeReceiveGetsSegmentsWholeAndOthersInPieces) {
  for (const bool large : {true, false}) {
    serve_now({"--port", port("a"), "--port", port("b")});
    Testpmd client({path("b", mergeable)},
                   {large ? "--rx-offloads=0x1c" : "--rx-offloads=0xc", "--forward-mode=rxonly"});
    client.say("start");
    (void)stats_when(stats, [](const json& now) { return now["ports"][1]["link_up"] == true; });
    Station a = guest("a", 1);
    json told;
    EXPECT_TRUE(eventually([&] {  // its buffers come a little later than its queues
      must(a->send(tcp_frame(a.mac, everybody, 20'000), tcp_request(1000)));
      told = read_stats(stats);
      return count(told, 1, "to_guest", "frames") > 0;
    }));
    const auto& sizes = told["ports"][1]["queues"][0]["to_guest"]["size_classes"];
    EXPECT_EQ(sizes["longer"] > 0, large);
    EXPECT_EQ(sizes["1518"] > 0, !large);
    expect_clean(told);
    EXPECT_EQ(client.quit(), good_end) << client.words();
    EXPECT_EQ(daemon->terminate(), good_end);
  }
}

class NetTestpmdServer : public NetTestpmd {
 protected:
  const std::string as_server = std::string(mergeable) + ",server=1";
  void serve_clients() { serve({"--port", port("a", "client"), "--port", port("b", "client")}); }
  [[nodiscard]] std::unique_ptr<Testpmd> server() const {
    ::unlink(socket("a").c_str());  // testpmd does not
    ::unlink(socket("b").c_str());
    return std::make_unique<Testpmd>(Strings{path("a", as_server), path("b", as_server)});
  }
};

class NetTestpmdServerRings : public NetTestpmdServer,
                              public ::testing::WithParamInterface<Rings> {};

TEST_P(NetTestpmdServerRings, TrafficFlowsBothWays) {
  const Rings& rings = GetParam();
  const std::string queues = std::to_string(rings.queues);
  serve({"--port", port("a", "client,queues=" + queues), "--port",
         port("b", "client,queues=" + queues)});
  const std::string keys =
      "server=1,queues=" + queues + ",queue_size=" + std::to_string(rings.size) + "," + rings.keys;
  ::unlink(socket("a").c_str());
  ::unlink(socket("b").c_str());
  Testpmd peer({path("a", keys), path("b", keys)},
               {"--rxq=" + queues, "--txq=" + queues, "--txonly-multi-flow"});
  peer.loop();
  expect_clean(flowing(static_cast<std::size_t>(rings.queues)));
  EXPECT_EQ(peer.quit(), good_end) << peer.words();
}

INSTANTIATE_TEST_SUITE_P(Any, NetTestpmdServerRings,
                         ::testing::Values(Rings{"Single512InTwoPairs", single, 2, 512},
                                           Rings{"InOrder256", in_order, 1, 256},
                                           Rings{"PackedMergeable256InTwoPairs", packed_mergeable,
                                                 2, 256},
                                           Rings{"PackedVectorized256", packed_vectorized, 1, 256}),
                         [](const auto& parameter) { return parameter.param.name; });

TEST_F(NetTestpmdServer, AClientPortConnectsAgainToAServerThatWasKilled) {
  serve_clients();
  for (std::uint64_t round = 1; round <= 2; ++round) {
    const auto peer = server();
    peer->loop();
    (void)stats_when(stats, [&](const json& now) {
      return now["ports"][1]["connection"]["connections"] == round;
    });
    const std::uint64_t before = count(read_stats(stats), 0, "from_guest", "frames");
    expect_clean(flowing(1, before + 2000));
    peer->kill();
  }
}

TEST_F(NetTestpmdServer, AServerThatWorksGoesOnWithTheSuccessorOfADaemonThatWasKilled) {
  serve_clients();
  const auto peer = server();
  peer->say("set fwd flowgen");
  peer->say("start");
  for (int round = 0; round < 3; ++round) {
    (void)flowing(1);
    daemon->kill();
    serve_clients();
  }
  const json told = flowing(1);
  expect_clean(told);
  EXPECT_EQ(peer->quit(), good_end) << peer->words();
}

}  // namespace
}  // namespace integration
