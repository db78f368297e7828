#include "backends/net/daemon/settings.hpp"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/cpu.hpp"
#include "tests/unit/common/temp_folder.hpp"

namespace net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStdout;
using Strings = std::vector<std::string>;

vhost::Result<std::optional<Settings>> read(const Strings& arguments) {
  std::vector<const char*> argv{"vhost-user-net"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return read_settings(static_cast<int>(argv.size()), argv.data());
}

/// With one port, as nearly every command line has it.
Strings usual(Strings more = {}) {
  more.insert(more.begin(), {"--port", "web,socket=/run/web"});
  return more;
}

Settings accepted(const Strings& arguments) {
  const auto settings = read(arguments);
  if (!settings) {
    ADD_FAILURE() << settings.error().what;
    return {};
  }
  return **settings;
}

std::string refusal(const Strings& arguments) {
  const auto settings = read(arguments);
  if (settings) return "accepted";
  EXPECT_EQ(settings.error().fault, vhost::Fault::operator_);
  return settings.error().what;
}

TEST(NetSettings, HaveTheDefaultsThatHelpTells) {
  const Settings settings = accepted(usual());
  ASSERT_EQ(settings.ports.size(), 1u);
  EXPECT_EQ(settings.ports[0].name, "web");
  EXPECT_EQ(settings.ports_file, "");
  EXPECT_EQ(settings.most_ports, 64);
  EXPECT_TRUE(settings.uplinks.empty());
  EXPECT_EQ(settings.workers, 1);
  EXPECT_TRUE(settings.cpus.empty());
  EXPECT_EQ(settings.polling, Polling::adaptive);
  EXPECT_EQ(settings.mac_ageing, std::chrono::seconds(300));
  EXPECT_EQ(settings.storm_limit, 20'000u);
  EXPECT_EQ(settings.eal, "");
  EXPECT_FALSE(settings.unsafe_no_iommu);
  EXPECT_EQ(settings.stats_file, "");
  EXPECT_EQ(settings.stats_interval, std::chrono::seconds(1));
  EXPECT_EQ(settings.log_level, common::log::Level::info);
}

TEST(NetSettings, TakeEveryFlag) {
  const std::string cpu = std::to_string(common::allowed_cpus()->front());
  const Settings settings = accepted(usual({"--port",
                                            "db,socket=/run/db",
                                            "--uplink",
                                            "tap:tap0",
                                            "--workers",
                                            "2",
                                            "--cpus",
                                            cpu,
                                            "--poll",
                                            "always",
                                            "--mac-ageing",
                                            "60",
                                            "--storm-limit",
                                            "0",
                                            "--eal",
                                            "--no-huge -m 64",
                                            "--unsafe-no-iommu",
                                            "--stats-file",
                                            "/run/x",
                                            "--stats-interval",
                                            "2",
                                            "--log-level",
                                            "debug"}));
  ASSERT_EQ(settings.ports.size(), 2u);
  EXPECT_EQ(settings.ports[1].socket, "/run/db");
  ASSERT_EQ(settings.uplinks.size(), 1u);
  EXPECT_EQ(settings.uplinks[0].device.argument, "tap0");
  EXPECT_EQ(settings.workers, 2);
  EXPECT_THAT(settings.cpus, ElementsAre(common::allowed_cpus()->front()));
  EXPECT_EQ(settings.polling, Polling::always);
  EXPECT_EQ(settings.mac_ageing, std::chrono::seconds(60));
  EXPECT_EQ(settings.storm_limit, 0u);
  EXPECT_EQ(settings.eal, "--no-huge -m 64");
  EXPECT_TRUE(settings.unsafe_no_iommu);
  EXPECT_EQ(settings.stats_file, "/run/x");
  EXPECT_EQ(settings.stats_interval, std::chrono::seconds(2));
  EXPECT_EQ(settings.log_level, common::log::Level::debug);
}

TEST(NetSettings, OfTheConfigurationFileCountLikeFlags) {
  const common::test::TempFolder folder;
  const std::string path = folder / "x.conf";
  common::test::write_text(path,
                           "port = \"web,socket=/run/web\"\nport = \"db,socket=/run/db,vlan=2\"\n"
                           "uplink = \"tap:tap0,mtu=9000\"\nworkers = 2\n");
  const Settings settings = accepted({"--config", path});
  ASSERT_EQ(settings.ports.size(), 2u);
  EXPECT_EQ(settings.ports[1].vlans.untagged, 2);
  ASSERT_EQ(settings.uplinks.size(), 1u);
  EXPECT_EQ(settings.uplinks[0].mtu, 9000);
  EXPECT_EQ(settings.workers, 2);
}

TEST(NetSettings, NameUplinksByTheirNumber) {
  const Settings settings =
      accepted(usual({"--uplink", "tap:a", "--uplink", "tap:b,name=world", "--uplink", "tap:c"}));
  EXPECT_EQ(settings.uplinks[0].name, "uplink0");
  EXPECT_EQ(settings.uplinks[1].name, "world");
  EXPECT_EQ(settings.uplinks[2].name, "uplink2");
  EXPECT_EQ(settings.uplinks[2].device.text, "tap:c");
}

TEST(NetSettings, TakeTheShorthandsOfQemusConventions) {
  const Settings by_path = accepted({"--socket-path", "/run/guest"});
  ASSERT_EQ(by_path.ports.size(), 1u);
  EXPECT_EQ(by_path.ports[0].name, "guest");
  EXPECT_EQ(by_path.ports[0].socket, "/run/guest");
  EXPECT_FALSE(by_path.ports[0].fd);
  const Settings by_fd = accepted({"--fd", "3"});
  ASSERT_EQ(by_fd.ports.size(), 1u);
  EXPECT_EQ(by_fd.ports[0].fd, 3);
  EXPECT_EQ(by_fd.ports[0].socket, "");
}

TEST(NetSettings, NeedNoPortWhereAFileHasThem) {
  const Settings settings = accepted({"--ports", "/etc/lan.ports"});
  EXPECT_TRUE(settings.ports.empty());
  EXPECT_EQ(settings.ports_file, "/etc/lan.ports") << "which is not looked at yet";
  EXPECT_EQ(accepted(usual({"--ports", "x", "--most-ports", "256"})).most_ports, 256);
}

TEST(NetSettings, WantOneKindOfMeetingPlace) {
  EXPECT_EQ(refusal({}),
            "--port is missing; give one for each guest, as in --port web,socket=/run/web");
  EXPECT_EQ(refusal({"--fd", "3", "--socket-path", "/s"}),
            "--fd and --socket-path exclude each other; give one");
  EXPECT_EQ(refusal(usual({"--fd", "3"})),
            "--fd and --port exclude each other; give all guests by --port");
  EXPECT_EQ(refusal(usual({"--socket-path", "/s"})),
            "--socket-path and --port exclude each other; give all guests by --port");
  EXPECT_EQ(refusal({"--ports", "/x", "--fd", "3"}),
            "--fd and --ports exclude each other; give all guests by --ports");
  EXPECT_EQ(refusal({"--ports", "/x", "--socket-path", "/s"}),
            "--socket-path and --ports exclude each other; give all guests by --ports");
  EXPECT_EQ(refusal({"--fd", "2"}),
            "--fd: 2 is where errors are written; hand the socket over as another");
}

TEST(NetSettings, NameTheOptionOfABadSpec) {
  EXPECT_EQ(refusal({"--port", "web"}),
            "--port: web: socket is missing: add socket=PATH, for QEMU's -chardev");
  EXPECT_THAT(refusal(usual({"--uplink", "eth0"})), HasSubstr("--uplink: 'eth0'"));
}

TEST(NetSettings, RefuseWhatTwoPortsCannotBothHave) {
  const std::string cure = " belongs to web already; give each its own";
  EXPECT_EQ(refusal(usual({"--port", "web,socket=/run/db"})), "--port: web: the name web" + cure);
  EXPECT_EQ(refusal(usual({"--port", "db,socket=/run/web"})),
            "--port: db: the socket /run/web" + cure);
  EXPECT_EQ(refusal(usual({"--port", "db,socket=/run//x/../web"})),
            "--port: db: the socket /run/web" + cure);
  EXPECT_EQ(refusal({"--port", "web,socket=/1,mac=52:54:00:00:00:01", "--port",
                     "db,socket=/2,mac=52:54:00:00:00:01"}),
            "--port: db: the MAC address 52:54:00:00:00:01" + cure);
  EXPECT_EQ(refusal({"--port", "web,socket=/1,capture=/c", "--port", "db,socket=/2,capture=/c"}),
            "--port: db: the capture /c" + cure);
  EXPECT_EQ(accepted(usual({"--port", "db,socket=/run/db"})).ports.size(), 2u);
}

TEST(NetSettings, RefuseWhatTwoUplinksCannotBothHave) {
  EXPECT_EQ(refusal(usual({"--uplink", "tap:a,name=web"})),
            "--uplink: web: the name web belongs to web already; give each its own");
  EXPECT_EQ(refusal(usual({"--uplink", "tap:a", "--uplink", "tap:a"})),
            "--uplink: uplink1: the device a belongs to uplink0 already; give each its own");
  EXPECT_EQ(refusal(usual({"--uplink", "fd:5+6", "--uplink", "fd:7+6"})),
            "--uplink: uplink1: the descriptor 6 belongs to uplink0 already; give each its own");
  EXPECT_EQ(refusal({"--fd", "5", "--uplink", "fd:5"}),
            "--uplink: uplink0: the descriptor 5 belongs to guest already; give each its own");
  EXPECT_THAT(refusal({"--port", "web,socket=/1,capture=/c", "--uplink", "tap:a,capture=/c"}),
              HasSubstr("the capture /c belongs to web already"));
}

TEST(NetSettings, RefuseNumbersBeyondTheirBounds) {
  EXPECT_THAT(refusal(usual({"--workers", "0"})), HasSubstr("--workers: '0' is not accepted"));
  EXPECT_THAT(refusal(usual({"--workers", "257"})), HasSubstr("from 1 to 256"));
  EXPECT_THAT(refusal(usual({"--most-ports", "0"})), HasSubstr("--most-ports: '0'"));
  EXPECT_THAT(refusal(usual({"--most-ports", "257"})), HasSubstr("from 1 to 256"));
  EXPECT_THAT(refusal(usual({"--mac-ageing", "999ms"})), HasSubstr("--mac-ageing: '999ms'"));
  EXPECT_THAT(refusal(usual({"--storm-limit", "1000000001"})), HasSubstr("--storm-limit"));
  EXPECT_THAT(refusal(usual({"--poll", "sometimes"})), HasSubstr("--poll: 'sometimes'"));
  EXPECT_THAT(refusal(usual({"--eal", ""})), HasSubstr("--eal: is empty"));
  EXPECT_THAT(refusal(usual({"--cpus", "8000"})), HasSubstr("--cpus"));
  EXPECT_THAT(refusal({"--fd", "-1"}), HasSubstr("--fd: '-1'"));
}

TEST(NetSettings, PrintCapabilitiesWhateverElseIsGiven) {
  CaptureStdout();
  const auto settings = read({"--nonsense", "--print-capabilities"});
  EXPECT_EQ(GetCapturedStdout(), "{\n  \"type\": \"net\",\n  \"features\": []\n}");
  ASSERT_TRUE(settings);
  EXPECT_FALSE(*settings);
}

}  // namespace
}  // namespace net
