// Ports that an operator adds and removes while the others' guests go on (--ports and SIGHUP).
#include "tests/integration/net_reload.hpp"

namespace integration {
namespace {

TEST_F(NetReload, AFilesPortsAreServedWithThoseOfTheCommandLine) {
  serve_file({"# guests", "", port("b")}, {"--port", port("a")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  EXPECT_TRUE(reaches(a, b, 1));
  EXPECT_TRUE(reaches(b, a, 2));
  (void)stats_of({"a", "b"});
  EXPECT_EQ(daemon->terminate(), good_end);
  EXPECT_FALSE(exists(socket("b")));
}

TEST_F(NetReload, ANewPortServesItsGuest) {
  serve_file({port("a")}, {"--workers", "2"});
  Station a = guest("a", 1);
  change_to({port("a"), port("b")});
  Station b = guest("b", 2);
  EXPECT_TRUE(reaches(a, b, 1));
  EXPECT_TRUE(reaches(b, a, 2));
  (void)stats_of({"a", "b"});
  EXPECT_TRUE(
      said("there are 2 ports now; the list removed 0, changed 0 and added 1, of which 0 "));
}

TEST_F(NetReload, TheFirstPortMayComeLater) {
  serve_file({});
  change_to({port("a"), port("b")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  EXPECT_TRUE(reaches(a, b, 1));
}

TEST_F(NetReload, OnePortAndOneUplinkMayBecomeMore) {
  serve_file({port("a")}, {"--uplink", "net_null0,no-rx=1"});
  Station a = guest("a", 1);
  change_to({port("a"), port("b")});
  Station b = guest("b", 2);
  EXPECT_TRUE(reaches(a, b, 1));
  change_to({port("b")});
  change_to({port("b"), port("c")});
  Station c = guest("c", 3);
  EXPECT_TRUE(reaches(b, c, 2));
  EXPECT_TRUE(eventually([&] {
    const json told = read_stats(stats);
    return told["uplinks"][0]["name"] == "uplink0" &&
           told["uplinks"][0]["to_uplink"]["frames"] == 2;
  })) << "what nobody knew yet went there, too";
}

TEST_F(NetReload, ARemovedPortsFrontEndAndSocketAreGone) {
  serve_file({port("a"), port("b"), port("c")}, {"--workers", "2"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  Station c = guest("c", 3);
  c.send(everybody);
  EXPECT_EQ(a.receive(), frame(c.mac, everybody));
  EXPECT_EQ(b.receive(), frame(c.mac, everybody));
  change_to({port("a"), port("b")});
  EXPECT_TRUE(c->device().connection().closed_within(milliseconds(3000) * slowness));
  EXPECT_FALSE(exists(socket("c")));
  const json told = stats_of({"a", "b"});
  EXPECT_EQ(told["switch"]["stations"], 0) << "the address of c is not known any more";
  EXPECT_EQ(told["ports"][0]["connection"]["connections"], 1);
  EXPECT_TRUE(reaches(a, b, 1));
  a.send(c.mac);
  EXPECT_EQ(b.receive(), frame(a.mac, c.mac)) << "nobody knows where it is";
}

TEST_F(NetReload, AChangedPortIsAnotherOne) {
  serve_file({port("a"), port("b"), port("c", "vlan=5")});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  {
    Station c = guest("c", 3);
    a.send(everybody);
    EXPECT_EQ(b.receive(), frame(a.mac, everybody));
    EXPECT_TRUE(c.hears_nothing());
    change_to({port("c"), port("b"), "  " + port("a") + "  "});
    EXPECT_TRUE(c->device().connection().closed_within(milliseconds(3000) * slowness));
  }
  Station c = guest("c", 3);
  EXPECT_TRUE(reaches(a, c, 1));
  EXPECT_TRUE(reaches(a, b, 2)) << "who is listed as before is not touched";
  EXPECT_TRUE(
      said("there are 3 ports now; the list removed 0, changed 1 and added 0, of which 0 "));
  expect_one_connection_each({"a", "b", "c"});
}

TEST_F(NetReload, ASocketMayGoFromOnePortToAnother) {
  serve_file({port("a"), "old,socket=" + socket("x")});
  Station a = guest("a", 1);
  change_to({port("a"), "new,socket=" + socket("x")});
  Station x = guest("x", 2);
  EXPECT_TRUE(reaches(a, x, 1));
  (void)stats_of({"a", "new"});
}

TEST_F(NetReload, AListWithAMistakeChangesNothing) {
  serve_file({port("a"), port("b")}, {"--most-ports", "3"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  const auto at = [&](int line) { return file + ", line " + std::to_string(line) + ": "; };
  refuses({port("c"), "d,colour=red"}, at(2) + "d: 'colour' is not known here");
  refuses({port("a"), port("b"), "a,socket=" + socket("c")},
          at(3) + "a: the name a belongs to a already; give each its own");
  refuses({port("c"), "d,socket=" + socket("c")}, at(2) + "d: the socket ");
  refuses({port("a"), port("b"), port("c"), port("d")}, at(4) + "d: this is one port more than");
  ::unlink(file.c_str());
  hang_up("SIGHUP: --ports: the file '" + file + "' cannot be read");
  EXPECT_FALSE(exists(socket("c")));
  EXPECT_FALSE(said(done));
  EXPECT_TRUE(reaches(a, b, 1));
  change_to({port("a"), port("b"), port("c")});
  const json told = stats_of({"a", "b", "c"});
  for (const std::size_t i : {0U, 1U}) EXPECT_EQ(told["ports"][i]["connection"]["connections"], 1);
  Station c = guest("c", 3);
  EXPECT_TRUE(reaches(a, c, 2)) << "so many may be";
}

TEST_F(NetReload, APortThatTheHostRefusesHoldsNobodyUp) {
  serve_file({port("a")});
  Station a = guest("a", 1);
  const std::string missing = "b,socket=" + socket("missing/b");
  const std::string unwritten = port("c", "capture=" + folder / "missing/c.pcapng");
  change_to({missing, unwritten, port("d"), port("a")});
  EXPECT_TRUE(said(file + ", line 1: b: cannot make the socket " + socket("missing/b")));
  EXPECT_TRUE(said(file + ", line 2: c: cannot capture to "));
  EXPECT_TRUE(
      said("there are 2 ports now; the list removed 0, changed 0 and added 3, of which 2 "));
  EXPECT_FALSE(exists(socket("c")));
  Station d = guest("d", 4);
  EXPECT_TRUE(reaches(a, d, 1));

  ASSERT_EQ(::mkdir((folder / "missing").c_str(), 0700), 0);
  hang_up(done);
  Station b = guest("missing/b", 2);
  Station c = guest("c", 3);
  EXPECT_TRUE(reaches(b, c, 2)) << "the same list, tried again";
  EXPECT_TRUE(reaches(a, d, 3));
  change_to({port("a")});
  ::unlink((folder / "missing/c.pcapng").c_str());
  EXPECT_EQ(::rmdir((folder / "missing").c_str()), 0) << "the socket is gone";
}

TEST_F(NetReload, ACaptureBeginsAndEndsWithItsPort) {
  serve_file({port("a")});
  Station a = guest("a", 1);
  const std::size_t before = descriptors();
  const std::string path = folder / "b.pcapng";
  change_to({port("a"), port("b", "capture=" + path)});
  const auto has = [&](const Bytes& bytes) {
    const std::string wanted(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return read_text(path).find(wanted) != std::string::npos;
  };
  {
    Station b = guest("b", 2);
    EXPECT_TRUE(reaches(a, b, 1));
    EXPECT_TRUE(eventually([&] { return has(frame(a.mac, b.mac, 100, 1)); }))
        << "from time to time";
    EXPECT_TRUE(reaches(a, b, 2));
    change_to({port("a")});
    EXPECT_TRUE(has(frame(a.mac, b.mac, 100, 2))) << "and at its end";
  }
  EXPECT_EQ(descriptors(), before) << "neither the file nor its timer is there";
  change_to({port("a"), port("b")});
  Station b = guest("b", 2);
  const auto size = read_text(path).size();
  EXPECT_TRUE(reaches(a, b, 3));
  ::usleep(200'000);
  EXPECT_EQ(read_text(path).size(), size);
}

TEST_F(NetReload, StatisticsOfAPortBeginAndEndWithIt) {
  serve_file({port("a"), port("b")});
  Station a = guest("a", 1);
  {
    Station b = guest("b", 2);
    b.send(a.mac);
    (void)a.receive();
    change_to({port("a")});
  }
  (void)stats_of({"a"});
  change_to({port("a"), port("c")});
  const json told = stats_of({"a", "c"});
  EXPECT_TRUE(told["ports"][1]["queues"].empty());
  EXPECT_EQ(told["ports"][1]["switch"]["stations"], 0);
  EXPECT_EQ(told["ports"][1]["connection"]["connections"], 0);
}

TEST_F(NetReload, AsManyPortsAsMayBeAreServed) {
  Strings lines;
  for (int i = 0; i < 256; ++i) lines.push_back(port("p" + std::to_string(i)));
  serve_file(lines, {"--most-ports", "256"});
  Station first = guest("p0", 1);
  Station last = guest("p255", 2);
  EXPECT_TRUE(reaches(first, last, 1));
  const std::string too_many = port("p256");
  lines.push_back(too_many);
  refuses(lines, file + ", line 257: p256: this is one port more than the 256 of --most-ports");
  lines.erase(lines.begin() + 1);
  change_to(lines);
  Station new_one = guest("p256", 3);
  EXPECT_TRUE(reaches(first, new_one, 2));
  EXPECT_TRUE(reaches(last, new_one, 3));
}

TEST_F(NetReload, AtTheStartAMistakeEndsIt) {
  const auto ends = [&](const Strings& lines, const std::string& named) {
    write(lines);
    const Strings before = folder.list_settled();
    const Folder other;
    Daemon bad(other, {"--ports", file, "--most-ports", "2", "--log-level", "warning"},
               {.program = "VHOST_USER_NET"});
    const auto end = bad.end_within(milliseconds(5000) * slowness);
    ASSERT_TRUE(end) << named;
    EXPECT_EQ(end->status, 2);
    EXPECT_EQ(std::ranges::count(bad.words(), '\n'), 1) << bad.words();
    EXPECT_TRUE(bad.words().starts_with("vhost-user-net: " + file + ", " + named)) << bad.words();
    EXPECT_EQ(folder.list_settled(), before);
  };
  ends({port("a"), "b"}, "line 2: b: socket is missing");
  ends({port("a"), port("b"), "", port("c")}, "line 4: c: this is one port more than the 2 of ");
  ends({port("a"), "a,socket=" + socket("b")}, "line 2: a: the name a belongs to a already");
  ends({port("a"), "b,socket=" + socket("missing/b")}, "line 2: b: cannot make the socket ");
  ends({port("a", "capture=" + folder / "missing/c")}, "line 1: a: cannot capture to ");
}

}  // namespace
}  // namespace integration
