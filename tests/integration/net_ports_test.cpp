// Guests on the ports of a real vhost-user-net: who hears whom, and what is told of it.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>

#include <net/if.h>

#include "tests/integration/net_fixture.hpp"

namespace integration {
namespace {

using nlohmann::json;
using NetPorts = NetServed;

vhost::UniqueFd listening_socket(const std::string& path) {
  vhost::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(fd.get(), 4), 0);
  return fd;
}

TEST_F(NetPorts, GuestsReachEachOther) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  a.send(b.mac, 1500, 7);
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac, 1500, 7));
  b.send(a.mac);
  EXPECT_EQ(a.receive(), frame(b.mac, a.mac));
  EXPECT_TRUE(a.hears_nothing());
}

TEST_F(NetPorts, AKnownStationsFramesAreItsAlone) {
  serve({"--port", port("a"), "--port", port("b"), "--port", port("c")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  Station c = guest("c", 3);
  b.send(everybody);
  EXPECT_EQ(a.receive(), frame(b.mac, everybody));
  EXPECT_EQ(c.receive(), frame(b.mac, everybody));
  a.send(b.mac);
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac));
  EXPECT_TRUE(c.hears_nothing());
}

TEST_F(NetPorts, VlansKeepGuestsApart) {
  serve({"--port", port("a", "vlan=5"), "--port", port("b", "vlan=6"), "--port",
         port("c", "vlan=5")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  Station c = guest("c", 3);
  a.send(everybody);
  EXPECT_EQ(c.receive(), frame(a.mac, everybody));
  EXPECT_TRUE(b.hears_nothing());
}

TEST_F(NetPorts, ATrunkHasTagsAndTheNativeVlanHasNone) {
  serve({"--port", port("a", "vlan=5"), "--port", port("b", "vlan=6"), "--port",
         port("c", "vlan=6,trunk=5")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  Station c = guest("c", 3);
  b.send(everybody);
  EXPECT_EQ(c.receive(), frame(b.mac, everybody));
  a.send(everybody);
  Bytes tagged = frame(a.mac, everybody);
  const Bytes tag{std::byte{0x81}, std::byte{0}, std::byte{0}, std::byte{5}};
  tagged.insert(tagged.begin() + 12, tag.begin(), tag.end());
  EXPECT_EQ(c.receive(), tagged);
}

TEST_F(NetPorts, AGuardedGuestIsNobodyElse) {
  serve({"--port", port("a", "mac=02:00:00:00:00:01,guard"), "--port", port("b")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  a.send_raw(frame({2, 0, 0, 0, 0, 9}, b.mac));
  a.send(b.mac);
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac));
  const json told = stats_when(stats, [](const json& now) {
    const auto& from = now["ports"][0]["queues"];
    const auto& to = now["ports"][1]["queues"];
    return !from.empty() && from[0]["from_guest"]["drops"]["spoofed"] == 1 && !to.empty() &&
           to[0]["to_guest"]["frames"] != 0;
  });
  EXPECT_EQ(told["ports"][1]["queues"][0]["to_guest"]["frames"], 1);
}

TEST_F(NetPorts, AnAddressThatIsNotTheGuestsIsGuardedToo) {
  serve({"--port", port("a", "mac=02:00:00:00:00:01,guard,ip=10.0.0.1"), "--port", port("b")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  a.send(b.mac);  // of no known type: it cannot show that it comes from 10.0.0.1
  EXPECT_TRUE(b.hears_nothing());
}

TEST_F(NetPorts, ACaptureHasTheFrames) {
  serve({"--port", port("a", "capture=" + folder / "a.pcapng"), "--port", port("b")});
  {
    Station a = guest("a", 1);
    Station b = guest("b", 2);
    a.send(b.mac, 200, 3);
    (void)b.receive();
  }
  EXPECT_EQ(daemon->terminate(), good_end);
  const std::string captured = read_text(folder / "a.pcapng");
  const Bytes sent = frame({2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, 200, 3);
  EXPECT_TRUE(captured.starts_with("\x0a\x0d\x0d\x0a"));
  EXPECT_NE(captured.find(std::string(reinterpret_cast<const char*>(sent.data()), sent.size())),
            std::string::npos);
}

TEST_F(NetPorts, AStormEndsAtItsLimit) {
  serve({"--port", port("a"), "--port", port("b"), "--port", port("c"), "--storm-limit", "10"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  for (int i = 0; i < 20; ++i) a.send(everybody);
  EXPECT_EQ(b.receive(), frame(a.mac, everybody));
  (void)stats_when(stats, [](const json& now) {
    const auto& queues = now["ports"][0]["queues"];
    return !queues.empty() && queues[0]["from_guest"]["drops"]["storm"] > 0;
  });
}

TEST_F(NetPorts, TheShorthandsAreOnePort) {
  serve({"--socket-path", socket("x")});
  Station alone = guest("x", 1);
  alone.send(everybody);
  const json told = stats_when(stats, [](const json& now) {
    return now["ports"][0]["connection"]["connected"] == true && now["ports"][0]["link_up"] == true;
  });
  EXPECT_EQ(told["ports"].size(), 1U);
  EXPECT_EQ(told["ports"][0]["name"], "guest");
}

TEST_F(NetPorts, AnInheritedSocketIsOnePort) {
  const vhost::UniqueFd fd = listening_socket(socket("x"));
  serve({"--fd", std::to_string(fd.get())}, {.inherit_fd = fd.get()});
  Station alone = guest("x", 1);
  alone.send(everybody);
  EXPECT_EQ(read_stats(stats)["ports"][0]["name"], "guest");
  EXPECT_EQ(daemon->terminate(), good_end);
}

TEST_F(NetPorts, AClientConnectsWhenSomebodyIsThere) {
  serve({"--port", port("a", "client")});
  EXPECT_TRUE(eventually([&] { return !read_text(stats).empty(); }));
  const vhost::UniqueFd fd = listening_socket(socket("a"));
  pollfd look{fd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&look, 1, 5000), 1);
}

TEST_F(NetPorts, SocketsHaveTheAccessAskedFor) {
  serve({"--port", port("a", "mode=0604,group=" + std::to_string(::getegid())), "--port",
         port("b", "mode=0600")});
  (void)guest("a", 1);
  struct stat info{};
  ASSERT_EQ(::stat(socket("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0604U);
  ASSERT_EQ(::stat(socket("b").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  EXPECT_EQ(daemon->terminate(), good_end);
  EXPECT_NE(::stat(socket("a").c_str(), &info), 0);
}

TEST_F(NetPorts, AGuestThatLeavesAndComesBackIsServedAgain) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1);
  for (int round = 0; round < 3; ++round) {
    Station b = guest("b", 2);
    a.send(b.mac, 100, static_cast<unsigned>(round));
    EXPECT_EQ(b.receive(), frame(a.mac, b.mac, 100, static_cast<unsigned>(round)));
  }
  (void)stats_when(stats, [](const json& now) {
    return now["ports"][1]["connection"]["connections"] == 3 &&
           now["ports"][0]["connection"]["connections"] == 1;
  });
}

TEST_F(NetPorts, StatisticsTellWhatWasMovedAndNegotiated) {
  serve({"--port", port("a", "mac=02:00:00:00:00:01"), "--port", port("b"), "--workers", "2"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  a.send(b.mac, 64);
  a.send(b.mac, 1000);
  (void)b.receive();
  (void)b.receive();
  // One part of a document is gathered after the other.
  const json told = stats_when(stats, [](const json& now) {
    const auto& from = now["ports"][0];
    const auto& to = now["ports"][1];
    return !from["queues"].empty() && from["queues"][0]["from_guest"]["frames"] == 2 &&
           from["switch"]["stations"] == 1 && !to["queues"].empty() &&
           to["queues"][0]["to_guest"]["frames"] == 2 && now["switch"]["stations"] == 1;
  });
  EXPECT_EQ(told["program"], "vhost-user-net");
  EXPECT_EQ(told["pid"], daemon->pid());
  EXPECT_EQ(told["workers"].size(), 2U);
  const json& first = told["ports"][0];
  EXPECT_EQ(first["mac"], "02:00:00:00:00:01");
  EXPECT_EQ(first["socket"], socket("a"));
  EXPECT_EQ(first["queues"][0]["from_guest"]["bytes"], 1064);
  EXPECT_EQ(first["queues"][0]["from_guest"]["size_classes"]["64"], 1);
  EXPECT_EQ(first["queues"][0]["from_guest"]["size_classes"]["1023"], 1);
  EXPECT_EQ(first["queues"][0]["to_guest"]["frames"], 0);
  EXPECT_EQ(told["ports"][1]["switch"]["stations"], 0);
  EXPECT_EQ(told["switch"]["list"][0]["mac"], "02:00:00:00:00:01");
  EXPECT_EQ(told["switch"]["list"][0]["port"], "a");
  const Strings features = first["connection"]["features"];
  EXPECT_NE(std::ranges::find(features, "VIRTIO_NET_F_MRG_RXBUF"), features.end());
  EXPECT_NE(std::ranges::find(features, "VIRTIO_F_VERSION_1"), features.end());
}

/// A socket on an interface of this network namespace: what the host's side sends and hears.
vhost::UniqueFd packet_socket(const char* interface) {
  vhost::UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(interface));
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  return fd;
}

/// The next frame of our own type on the socket; empty if none comes.
Bytes heard_on(const vhost::UniqueFd& socket) {
  Bytes bytes(2048);
  pollfd look{socket.get(), POLLIN, 0};
  while (::poll(&look, 1, 5000) == 1) {
    const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
    if (got < 14 || bytes[12] != std::byte{0x88} || bytes[13] != std::byte{0xb5}) continue;
    bytes.resize(static_cast<std::size_t>(got));
    return bytes;
  }
  return {};
}

TEST_F(NetPorts, OnePortAndATapAreAPatch) {
  if (::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "no network namespace: no TAP";
  serve({"--port", port("a"), "--uplink", "tap:vubtap0,mtu=2000,name=world"});
  Station a = guest("a", 1);
  const vhost::UniqueFd host = packet_socket("vubtap0");
  a.send({2, 0, 0, 0, 0, 9}, 1800);
  EXPECT_EQ(heard_on(host), frame(a.mac, {2, 0, 0, 0, 0, 9}, 1800));
  const Bytes answer = frame({2, 0, 0, 0, 0, 9}, a.mac, 300);
  EXPECT_EQ(::send(host.get(), answer.data(), answer.size(), 0), 300);
  Bytes received;
  while (received != answer) received = a.receive();  // the kernel has its own to say, too
  const json told = stats_when(
      stats, [](const json& now) { return now["uplinks"][0]["to_uplink"]["frames"] == 1; });
  const json& uplink = told["uplinks"][0];
  EXPECT_EQ(uplink["name"], "world");
  EXPECT_EQ(uplink["device"], "tap:vubtap0");
  EXPECT_EQ(uplink["driver"], "tap");
  EXPECT_EQ(uplink["mtu"], 2000);
  EXPECT_EQ(uplink["link_up"], true);
  EXPECT_EQ(uplink["longest_pause_us"], 0);
  EXPECT_GE(uplink["from_uplink"]["frames"], 1);
  EXPECT_EQ(told["switch"]["stations"], 0) << "a patch learns nothing";
  EXPECT_EQ(daemon->words().find("warning"), std::string::npos) << daemon->words();
}

TEST_F(NetPorts, ADpdkDeviceIsAnUplink) {
  serve({"--port", port("a"), "--port", port("b"), "--uplink", "mtu=2000,name=world;net_ring0"});
  Station a = guest("a", 1);
  a.send({2, 0, 0, 0, 0, 9}, 300);
  const json told = stats_when(stats, [](const json& now) {
    return now["uplinks"][0]["to_uplink"]["frames"] == 1 &&
           now["uplinks"][0]["from_uplink"]["frames"] == 1;  // it returns what it is sent
  });
  EXPECT_EQ(told["uplinks"][0]["name"], "world");
  EXPECT_EQ(told["uplinks"][0]["driver"], "net_ring");
  EXPECT_GT(told["uplinks"][0]["longest_pause_us"], 0);
  EXPECT_EQ(told["workers"][0]["longest_pause_ns"],
            1000 * told["uplinks"][0]["longest_pause_us"].get<int>());
  EXPECT_FALSE(told["uplinks"][0]["driver_counters"].empty());
}

TEST_F(NetPorts, AHangupChangesNothing) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1);
  daemon->signal(SIGHUP);
  EXPECT_TRUE(eventually([&] { return daemon->words().find("SIGHUP") != std::string::npos; }));
  Station b = guest("b", 2);
  a.send(b.mac);
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac));
}

TEST_F(NetPorts, WhileNothingHappensNothingRuns) {
  if (sanitized) GTEST_SKIP() << "a sanitizer's threads run";
  interval = "10";
  serve({"--port", port("a"), "--port", port("b"), "--workers", "2"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  a.send(b.mac);
  (void)b.receive();
  const auto before = daemon->cpu_time();
  ::usleep(1'000'000);
  EXPECT_LE((daemon->cpu_time() - before).count(), 10);
}

}  // namespace
}  // namespace integration
