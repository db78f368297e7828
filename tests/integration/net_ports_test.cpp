// Guests on the ports of a real vhost-user-net: who hears whom, and what is told of it.
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>

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
    const auto& queues = now["ports"][0]["queues"];
    return !queues.empty() && queues[0]["from_guest"]["drops"]["spoofed"] == 1;
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
  const json told = stats_when(stats, [](const json& now) {
    const auto& queues = now["ports"][1]["queues"];
    return !queues.empty() && queues[0]["to_guest"]["frames"] == 2 &&
           now["switch"]["stations"] == 1;
  });
  EXPECT_EQ(told["program"], "vhost-user-net");
  EXPECT_EQ(told["pid"], daemon->pid());
  EXPECT_EQ(told["workers"].size(), 2U);
  const json& first = told["ports"][0];
  EXPECT_EQ(first["mac"], "02:00:00:00:00:01");
  EXPECT_EQ(first["socket"], socket("a"));
  EXPECT_EQ(first["queues"][0]["from_guest"]["frames"], 2);
  EXPECT_EQ(first["queues"][0]["from_guest"]["bytes"], 1064);
  EXPECT_EQ(first["queues"][0]["from_guest"]["size_classes"]["64"], 1);
  EXPECT_EQ(first["queues"][0]["from_guest"]["size_classes"]["1023"], 1);
  EXPECT_EQ(first["queues"][0]["to_guest"]["frames"], 0);
  EXPECT_EQ(first["switch"]["stations"], 1);
  EXPECT_EQ(told["ports"][1]["switch"]["stations"], 0);
  EXPECT_EQ(told["switch"]["list"][0]["mac"], "02:00:00:00:00:01");
  EXPECT_EQ(told["switch"]["list"][0]["port"], "a");
  const Strings features = first["connection"]["features"];
  EXPECT_NE(std::ranges::find(features, "VIRTIO_NET_F_MRG_RXBUF"), features.end());
  EXPECT_NE(std::ranges::find(features, "VIRTIO_F_VERSION_1"), features.end());
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
