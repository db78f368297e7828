#include "backends/net/daemon/port_list.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/temp_folder.hpp"

namespace net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

PortSpec port(const std::string& text) {
  auto spec = parse_port(text);
  if (!spec) ADD_FAILURE() << spec.error().what;
  return *spec;
}

class PortList : public testing::Test {
 protected:
  PortList() { settings.ports_file = file; }

  void write(const std::string& text) const { common::test::write_text(file, text); }
  [[nodiscard]] std::vector<PortSpec> listed() const {
    auto ports = list_ports(settings);
    if (!ports) ADD_FAILURE() << ports.error().what;
    return ports.value_or(std::vector<PortSpec>{});
  }
  [[nodiscard]] std::string refusal() const {
    const auto ports = list_ports(settings);
    if (ports) return "accepted";
    EXPECT_EQ(ports.error().fault, vhost::Fault::operator_);
    return ports.error().what;
  }
  [[nodiscard]] std::string line(int number) const {
    return file + ", line " + std::to_string(number) + ": ";
  }

  const common::test::TempFolder folder;
  const std::string file = folder / "lan.ports";
  Settings settings;
};

TEST_F(PortList, HasAPortForEachLine) {
  write(
      "# guests\n\n  web,socket=/run/web,mac=02:00:00:00:00:01,guard \t\r\n \t\ndb,socket=/run/db");
  const auto ports = listed();
  ASSERT_EQ(ports.size(), 2u);
  EXPECT_EQ(ports[0].name, "web");
  EXPECT_TRUE(ports[0].guard);
  EXPECT_EQ(ports[0].origin, file + ", line 3");
  EXPECT_EQ(ports[1].socket, "/run/db");
  EXPECT_EQ(ports[1].origin, file + ", line 5");
}

TEST_F(PortList, BeginsWithThePortsOfTheCommandLine) {
  settings.ports = {port("web,socket=/run/web")};
  write("db,socket=/run/db\n");
  const auto ports = listed();
  ASSERT_EQ(ports.size(), 2u);
  EXPECT_EQ(ports[0].origin, "--port");
  EXPECT_EQ(ports[0].name, "web");
  EXPECT_EQ(ports[1].name, "db");
}

TEST_F(PortList, MayBeEmpty) {
  write("");
  EXPECT_THAT(listed(), IsEmpty());
  write("# nobody\n\n");
  EXPECT_THAT(listed(), IsEmpty());
}

TEST_F(PortList, WithoutAFileIsThatOfTheCommandLine) {
  settings.ports_file.clear();
  settings.most_ports = 1;
  settings.ports = {port("web,socket=/run/web"), port("db,socket=/run/db")};
  EXPECT_EQ(listed(), settings.ports);
}

TEST_F(PortList, NamesTheLineOfAMistake) {
  write("web,socket=/run/web\n# x\nweb2,colour=red\n");
  EXPECT_THAT(refusal(), StartsWith(line(3) + "web2: 'colour' is not known here"));
  write("a b,socket=/run/web\n");
  EXPECT_THAT(refusal(), StartsWith(line(1) + "'a b' is no name"));
  write("web\n");
  EXPECT_THAT(refusal(), StartsWith(line(1) + "web: socket is missing"));
}

TEST_F(PortList, NamesAFileThatCannotBeRead) {
  EXPECT_EQ(refusal(),
            "--ports: the file '" + file + "' cannot be read: No such file or directory");
  settings.ports_file = folder.path();
  EXPECT_THAT(refusal(), HasSubstr("Is a directory"));
}

TEST_F(PortList, NamesTheLineThatWantsWhatAnotherHas) {
  settings.ports = {port("web,socket=/run/web,mac=02:00:00:00:00:01,capture=/tmp/c")};
  settings.uplinks = {*parse_uplink_plan("tap:tap0,name=world")};
  const std::string good = "db,socket=/run/db,mac=02:00:00:00:00:02\n";
  write(good);
  EXPECT_EQ(listed().size(), 2u);
  for (const auto& [text, owned] : std::initializer_list<std::pair<std::string, std::string>>{
           {"web,socket=/x", "web: the name web belongs to web already"},
           {"db,socket=/x", "db: the name db belongs to db already"},
           {"world,socket=/x", "world: the name world belongs to world already"},
           {"x,socket=/run/./db", "x: the socket /run/db belongs to db already"},
           {"x,socket=/x,mac=02:00:00:00:00:01",
            "x: the MAC address 02:00:00:00:00:01 belongs to web already"},
           {"x,socket=/x,capture=/tmp/c", "x: the capture /tmp/c belongs to web already"}}) {
    write(good + text);
    EXPECT_THAT(refusal(), StartsWith(line(2) + owned));
  }
}

TEST_F(PortList, HasNoMorePortsThanItMay) {
  settings.ports = {port("web,socket=/run/web")};
  settings.most_ports = 3;
  const std::string fits = "a,socket=/a\nb,socket=/b\n";
  write(fits);
  EXPECT_EQ(listed().size(), 3u);
  write(fits + "\nc,socket=/c\nd,socket=/d\n");
  EXPECT_THAT(refusal(),
              StartsWith(line(4) + "c: this is one port more than the 3 of --most-ports"));
}

std::vector<std::string> names(const std::vector<PortSpec>& ports) {
  std::vector<std::string> names;
  for (const PortSpec& one : ports) names.push_back(one.name);
  return names;
}

TEST(PortChanges, AreWhatIsNewGoneOrDifferent) {
  const std::vector now{port("same,socket=/s"), port("gone,socket=/g"), port("other,socket=/o")};
  const std::vector wanted{port("new,socket=/g"), port("other,socket=/o,vlan=2"),
                           port("same,socket=/s")};
  const PortChanges changes = compare(now, wanted);
  EXPECT_THAT(changes.removed, ElementsAre("gone"));
  EXPECT_THAT(names(changes.changed), ElementsAre("other"));
  EXPECT_EQ(changes.changed[0], wanted[1]) << "as it is to be";
  EXPECT_THAT(names(changes.added), ElementsAre("new"));
}

TEST(PortChanges, AreNoneWhereALineWasMovedOrWrittenOtherwise) {
  PortSpec before = port("web,socket=/s,vlan=2,queues=64");
  before.origin = "x, line 1";
  PortSpec after = port("web,vlan=2,socket=/s");
  after.origin = "x, line 2";
  const PortChanges changes = compare({&before, 1}, {&after, 1});
  EXPECT_THAT(changes.removed, IsEmpty());
  EXPECT_THAT(changes.changed, IsEmpty());
  EXPECT_THAT(changes.added, IsEmpty());
}

TEST(PortChanges, SeeEveryKey) {
  const PortSpec before = port("web,socket=/s,mac=02:00:00:00:00:01");
  const std::string same = "web,socket=/s,mac=02:00:00:00:00:01";
  for (const std::string& text :
       {std::string("web,socket=/other,mac=02:00:00:00:00:01"),
        std::string("web,socket=/s,mac=02:00:00:00:00:02"), std::string("web,socket=/s"),
        same + ",queues=2", same + ",vlan=1", same + ",trunk=1", same + ",guard",
        same + ",guard,ip=10.0.0.1", same + ",guard,ip=fd00::1", same + ",client",
        same + ",owner=0", same + ",group=0", same + ",mode=0600", same + ",capture=/c",
        same + ",config"}) {
    const PortSpec after = port(text);
    EXPECT_EQ(compare({&before, 1}, {&after, 1}).changed.size(), 1u) << text;
  }
}

}  // namespace
}  // namespace net
