#include "backends/net/daemon/stats_document.hpp"

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "backends/net/daemon/network.hpp"

/* What the document says of a network that has moved nothing; with traffic, the integration tests
 * read it. */
namespace net {
namespace {

using nlohmann::json;
using testing::UnorderedElementsAre;

Settings settings_of_three() {
  Settings settings;
  settings.ports = {*parse_port("a,socket=/nowhere/a,client,mac=52:54:00:00:00:0a"),
                    *parse_port("b,socket=/nowhere/b,client,vlan=3")};
  settings.uplinks = {*parse_uplink_plan("name=w,mtu=2000;net_ring9")};
  settings.workers = 2;
  settings.ports_file = "/nowhere/ports";  // more may come
  settings.most_ports = 3;
  return settings;
}

/// Two guests and an uplink, with EAL, which starts once in a process.
class NetStatsDocument : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto network = Network::create(settings_, settings_.ports, {});
    ASSERT_TRUE(network) << network.error().what;
    network_ = std::move(*network);
  }
  static void TearDownTestSuite() { network_.reset(); }

  void SetUp() override {
    for (std::uint16_t i = 0; i < settings_.ports.size(); ++i) serve(settings_.ports[i], PortId{i});
    document_ = document();
  }
  void serve(const PortSpec& spec, PortId place) {
    auto server =
        vhost::Server::start(loop_, network_->device(place), *vhost::Endpoint::connect(spec.socket),
                             [](vhost::LogLevel, std::string_view) {});
    served_.push_back({spec, place, std::move(*server)});
  }
  [[nodiscard]] json document() const {
    InService now = network_->in_service();
    for (const Served& port : served_) {
      now.ports.push_back({port.spec, network_->device(port.place), *port.server});
    }
    return stats_document(now, std::chrono::milliseconds(1234));
  }
  static std::vector<std::string> keys(const json& object) {
    std::vector<std::string> names;
    for (const auto& [name, value] : object.items()) names.push_back(name);
    return names;
  }

  static inline const Settings settings_ = settings_of_three();
  static inline std::unique_ptr<Network> network_;
  vhost::EventLoop loop_ = std::move(*vhost::EventLoop::create());
  struct Served {
    PortSpec spec;
    PortId place;
    std::unique_ptr<vhost::Server> server;
  };
  std::vector<Served> served_;
  json document_;
};

TEST_F(NetStatsDocument, SaysWhoWrote) {
  EXPECT_EQ(document_["schema"], 1);
  EXPECT_EQ(document_["program"], "vhost-user-net");
  EXPECT_EQ(document_["version"], VHOST_BACKENDS_VERSION);
  EXPECT_EQ(document_["pid"], ::getpid());
  EXPECT_EQ(document_["uptime_ms"], 1234);
}

TEST_F(NetStatsDocument, HasPortsInTheirOrder) {
  const json& ports = document_["ports"];
  ASSERT_EQ(ports.size(), 2u);
  EXPECT_EQ(ports[0]["name"], "a");
  EXPECT_EQ(ports[0]["socket"], "/nowhere/a");
  EXPECT_EQ(ports[0]["mac"], "52:54:00:00:00:0a");
  EXPECT_EQ(ports[1]["name"], "b");
  EXPECT_EQ(ports[1]["mac"], "");
  for (const json& port : ports) {
    EXPECT_EQ(port["link_up"], false);
    EXPECT_EQ(port["mtu"], 9202);
    EXPECT_EQ(port["connection"]["connected"], false);
    EXPECT_TRUE(port["connection"]["features"].empty());
    EXPECT_TRUE(port["queues"].empty()) << "none ever ran";
  }
}

TEST_F(NetStatsDocument, HasPortsThatCameAndNoneThatWent) {
  for (int round = 0; round < 2; ++round) {
    const auto place = network_->add(*parse_port("c,socket=/nowhere/c,client"));
    ASSERT_TRUE(place);
    EXPECT_EQ(*place, PortId{3}) << "behind the uplink";
    serve(*parse_port("c,socket=/nowhere/c,client"), *place);
    const json more = document();
    ASSERT_EQ(more["ports"].size(), 3u);
    EXPECT_EQ(more["ports"][2]["name"], "c");
    EXPECT_EQ(more["uplinks"], document_["uplinks"]);
    served_.pop_back();
    network_->remove(*place);
    EXPECT_EQ(document()["ports"], document_["ports"]);
  }
}

TEST_F(NetStatsDocument, HasWhatTheUplinkIs) {
  ASSERT_EQ(document_["uplinks"].size(), 1u);
  const json& uplink = document_["uplinks"][0];
  EXPECT_EQ(uplink["name"], "w");
  EXPECT_EQ(uplink["device"], "net_ring9");
  EXPECT_EQ(uplink["driver"], "net_ring");
  EXPECT_EQ(uplink["mtu"], 2000);
  EXPECT_EQ(uplink["link_up"], true);
  EXPECT_GE(uplink["queues"], 1);
  EXPECT_TRUE(uplink["driver_counters"].contains("rx_good_packets"));
}

TEST_F(NetStatsDocument, NamesEveryReasonAndEverySize) {
  const json& traffic = document_["uplinks"][0]["to_uplink"];
  EXPECT_EQ(traffic["drops"].size(), drops);
  for (std::size_t i = 0; i < drops; ++i) {
    EXPECT_EQ(traffic["drops"][std::string(name(static_cast<Drop>(i)))], 0);
  }
  EXPECT_THAT(keys(traffic["size_classes"]),
              UnorderedElementsAre("64", "127", "255", "511", "1023", "1518", "9216", "longer"));
}

TEST_F(NetStatsDocument, SaysWhichWorkersLookAgainAndWhen) {
  const json& workers = document_["workers"];
  ASSERT_EQ(workers.size(), 2u);
  EXPECT_EQ(workers[0]["index"], 0);
  EXPECT_EQ(workers[1]["index"], 1);
  // The uplink is number 2 in the switch: its first queue is worker 0's.
  const auto bound = 1000 * document_["uplinks"][0]["longest_pause_us"].get<long>();
  EXPECT_GT(bound, 0);
  EXPECT_EQ(workers[0]["longest_pause_ns"], bound);
}

TEST_F(NetStatsDocument, ListsTheStationsOfTheSwitch) {
  EXPECT_EQ(document_["switch"]["stations"], 0);
  EXPECT_TRUE(document_["switch"]["list"].empty());
}

}  // namespace
}  // namespace net
