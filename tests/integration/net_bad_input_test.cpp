// Whatever an operator gets wrong is one sentence that names it, an exit status, and nothing else.

#include <fstream>

#include "tests/integration/net_fixture.hpp"

namespace integration {
namespace {

class NetBadInput : public NetServed {
 protected:
  /// Starts with exactly these flags, and expects the daemon to end with one line that holds
  /// `named`, leaving the folder as it was.
  void refuses(Strings flags, const std::string& named) {
    flags.insert(flags.begin(), {"--log-level", "warning"});
    const Strings before = folder.list_settled();
    const Folder other;
    Daemon bad(other, flags, {.program = "VHOST_USER_NET"});
    const auto end = bad.end_within(milliseconds(5000) * slowness);
    const std::string words = bad.words();
    ASSERT_TRUE(end) << "it runs; " << named << "; " << words;
    EXPECT_EQ(end->status, 2) << words;
    EXPECT_EQ(std::ranges::count(words, '\n'), 1) << words;
    EXPECT_TRUE(words.starts_with("vhost-user-net: ")) << words;
    EXPECT_NE(words.find(named), std::string::npos) << "expected " << named << " in: " << words;
    EXPECT_EQ(folder.list_settled(), before) << words;
  }
  /// As refuses(), with a good port before these flags.
  void refuses_with(Strings flags, const std::string& named) {
    flags.insert(flags.begin(), {"--port", port("a")});
    refuses(flags, named);
  }
  void refuses_port(const std::string& keys, const std::string& named) {
    refuses({"--port", port("a", keys)}, "--port: a: " + named);
  }
};

TEST_F(NetBadInput, AMissingOptionIsNamed) {
  refuses({}, "--port is missing");
  refuses({"--uplink", "tap:tap0"}, "--port is missing");
}

TEST_F(NetBadInput, AnUnknownOptionIsNamed) {
  refuses_with({"--no-such-option"}, "--no-such-option");
  refuses_with({"stray"}, "stray");
  refuses_with({"--blk-file", "x"}, "--blk-file");
}

TEST_F(NetBadInput, AMissingOrEmptyValueIsNamed) {
  for (const char* flag : {"--port", "--ports", "--most-ports", "--uplink", "--workers", "--cpus",
                           "--poll", "--mac-ageing", "--storm-limit", "--eal", "--stats-file",
                           "--stats-interval", "--log-level", "--config"}) {
    refuses_with({flag}, flag);
    refuses_with({flag, ""}, flag);
  }
}

TEST_F(NetBadInput, ANumberOutOfRangeIsNamed) {
  for (const char* value : {"0", "257", "-1", "1.5", "x", "99999999999999999999", " 1"}) {
    refuses_with({"--workers", value}, "--workers");
  }
  for (const char* value : {"0", "257", "x"}) {
    refuses_with({"--most-ports", value}, "--most-ports");
  }
  for (const char* value : {"-1", "1000000001", "x"}) {
    refuses_with({"--storm-limit", value}, "--storm-limit");
  }
  for (const char* value : {"0", "25h", "x"}) {
    refuses_with({"--mac-ageing", value}, "--mac-ageing");
  }
  refuses_with({"--poll", "never"}, "--poll");
  refuses_with({"--cpus", "4095"}, "--cpus");
}

TEST_F(NetBadInput, APortsMistakesAreNamed) {
  refuses({"--port", "a b,socket=/s"}, "--port: 'a b' is no name");
  refuses({"--port", "a"}, "--port: a: socket is missing");
  refuses_port("colour=red", "'colour' is not known here");
  refuses_port("queues=65", "queues: '65'");
  refuses_port("mac=01:00:00:00:00:00", "mac: ");
  refuses_port("vlan=4095", "vlan: '4095'");
  refuses_port("trunk=0", "trunk: '0'");
  refuses_port("guard", "guard needs");
  refuses_port("owner=no-such-user", "owner: there is no user");
  refuses_port("group=no-such-group", "group: there is no group");
  refuses_port("mode=999", "mode: '999'");
  refuses_port("capture=", "capture: the value is missing");
}

TEST_F(NetBadInput, WhatIsGivenTwiceIsNamed) {
  refuses_with({"--port", "a,socket=" + socket("b")}, "the name a belongs to a already");
  refuses_with({"--port", "b,socket=" + socket("a")}, "belongs to a already");
  refuses_with({"--socket-path", socket("b")}, "--socket-path and --port exclude each other");
  refuses_with({"--fd", "5"}, "--fd and --port exclude each other");
  refuses({"--ports", folder / "x", "--fd", "5"}, "--fd and --ports exclude each other");
  refuses({"--workers", "1", "--workers", "2"}, "--workers: given more than once");
}

TEST_F(NetBadInput, ASocketThatCannotBeIsNamed) {
  refuses({"--port", "a,socket=" + folder / std::string(108, 's')}, "--port: a: the socket path");
  refuses({"--port", "a,socket=" + folder / "missing/socket"}, "--port: a: cannot make the socket");
  std::ofstream(folder / "file") << "precious";
  refuses({"--port", "a,socket=" + folder / "file"}, "is taken by something that is not a socket");
  EXPECT_EQ(read_text(folder / "file"), "precious");
}

TEST_F(NetBadInput, ALaterPortsSocketEndsTheEarlierOnes) {
  refuses_with({"--port", "b,socket=" + folder / "missing/socket"}, "--port: b: cannot make");
}

TEST_F(NetBadInput, ASocketInUseIsNamedAndLeftAlone) {
  serve({"--port", port("a"), "--port", port("b")});
  Station a = guest("a", 1);
  refuses_with({}, "is in use by another process");
  Station b = guest("b", 2);
  a.send(b.mac);
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac));
}

TEST_F(NetBadInput, ADescriptorThatIsNoSocketIsNamed) {
  refuses({"--fd", "777"}, "--fd");
  refuses({"--fd", "2"}, "--fd");
  refuses({"--fd", "-1"}, "--fd");
}

TEST_F(NetBadInput, AnUplinkThatIsNoneIsNamed) {
  for (const char* uplink : {"eth0", "tap:", "tap:a/b", "tap:sixteen-letters-", "fd:", "fd:2",
                             "pci:1", "pcap", "mtu=9000", "tap:t,mtu=1", "tap:t,colour=red"}) {
    refuses_with({"--uplink", uplink}, "--uplink: ");
  }
  refuses_with({"--uplink", "macvtap:no-such-itf"}, "no-such-itf");
  refuses_with({"--uplink", "fd:777"}, "777");
}

TEST_F(NetBadInput, ACaptureThatCannotBeWrittenIsNamed) {
  const std::string keys = "capture=" + folder / "missing/capture";
  refuses({"--port", port("a", keys), "--port", port("b")}, "--port: a: ");
}

TEST_F(NetBadInput, ArgumentsThatDpdkDoesNotTakeAreNamed) {
  refuses_with({"--port", port("b"), "--eal", "--no-such-argument"}, "--eal: ");
}

TEST_F(NetBadInput, AConfigFilesMistakesAreNamedWithTheirLine) {
  const std::string path = folder / "settings";
  const auto refuses_file = [&](const std::string& text, const std::string& named) {
    std::ofstream(path) << text;
    refuses({"--config", path}, named);
  };
  const std::string good = "port = \"" + port("a") + "\"\n";
  refuses_file(good + "port = \"b\"\n", "line 2: port: b: socket is missing");
  refuses_file(good + "workers = 1\nworkers = 2\n", "line 3: workers is set in line 2 already");
  refuses_file(good + "uplink = eth0\n", "line 2: uplink: 'eth0'");
  refuses_file("workers = 2\n", "--port is missing");
}

TEST_F(NetBadInput, AConfigFileServesLikeFlags) {
  std::ofstream(folder / "settings")
      << "# two guests\nport = \"" << port("a") << "\"\nport = \"" << port("b") << "\"\n";
  serve({"--config", folder / "settings"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  a.send(b.mac);
  EXPECT_EQ(b.receive(), frame(a.mac, b.mac));
}

}  // namespace
}  // namespace integration
