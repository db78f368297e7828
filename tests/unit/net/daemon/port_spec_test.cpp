#include "backends/net/daemon/port_spec.hpp"

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "libvhost/memory/userfault.hpp"

namespace net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

PortSpec accepted(const std::string& text) {
  const auto port = parse_port(text);
  if (!port) {
    ADD_FAILURE() << text << ": " << port.error().what;
    return {};
  }
  return *port;
}

std::string refusal(const std::string& text) {
  const auto port = parse_port(text);
  if (port) return "accepted";
  EXPECT_EQ(port.error().fault, vhost::Fault::operator_);
  return port.error().what;
}

/// With a socket, and these keys behind it.
std::string with(const std::string& keys) {
  return "web,socket=/s," + keys;
}

TEST(PortSpec, NeedsANameAndASocketOnly) {
  const PortSpec port = accepted("web,socket=/run/web.sock");
  EXPECT_EQ(port.name, "web");
  EXPECT_EQ(port.socket, "/run/web.sock");
  EXPECT_EQ(port.queues, 64);
  EXPECT_FALSE(port.client || port.guard || port.config || port.postcopy);
  EXPECT_FALSE(port.mac || port.fd);
  EXPECT_FALSE(port.vlans.any());
  EXPECT_FALSE(port.addresses.any());
  EXPECT_FALSE(port.access.owner || port.access.group || port.access.mode);
  EXPECT_EQ(port.capture, "");
}

TEST(PortSpec, TakesEveryKey) {
  const PortSpec port =
      accepted(with("queues=3,mac=52:54:00:aB:34:56,vlan=77,trunk=1+5-9,guard,ip=10.0.0.2+fd00::2,"
                    "owner=0,group=7,mode=0640,capture=/tmp/a=b,config"));
  EXPECT_EQ(port.queues, 3);
  EXPECT_THAT(*port.mac, ElementsAre(0x52, 0x54, 0x00, 0xab, 0x34, 0x56));
  EXPECT_EQ(port.vlans.untagged, 77);
  EXPECT_EQ(port.vlans.tagged.count(), 6u);
  EXPECT_TRUE(port.vlans.tagged[1] && port.vlans.tagged[5] && port.vlans.tagged[9]);
  EXPECT_TRUE(port.guard);
  ASSERT_EQ(port.addresses.ipv4.size(), 1u);
  EXPECT_THAT(port.addresses.ipv4[0], ElementsAre(10, 0, 0, 2));
  ASSERT_EQ(port.addresses.ipv6.size(), 1u);
  EXPECT_EQ(port.addresses.ipv6[0][0], 0xfd);
  EXPECT_EQ(port.addresses.ipv6[0][15], 2);
  EXPECT_EQ(port.access.owner, 0u);
  EXPECT_EQ(port.access.group, 7u);
  EXPECT_EQ(port.access.mode, 0640u);
  EXPECT_EQ(port.capture, "/tmp/a=b");
  EXPECT_TRUE(port.config);
  EXPECT_TRUE(accepted(with("client")).client);
}

TEST(PortSpec, TakesPostcopyWhereThisProcessMayHaveIt) {
  if (const auto possible = vhost::userfault::open()) {
    EXPECT_TRUE(accepted(with("postcopy")).postcopy);
  } else {
    EXPECT_EQ(refusal(with("postcopy")), "web: postcopy: " + possible.error().what);
  }
}

TEST(PortSpec, TakesANameOf32CharactersAndNoMore) {
  const std::string longest(32, 'x');
  EXPECT_EQ(accepted(longest + ",socket=/s").name, longest);
  EXPECT_EQ(accepted("a-Z_0.9,socket=/s").name, "a-Z_0.9");
  for (const std::string& name : {longest + "x", std::string(), std::string("a b"),
                                  std::string("a/b"), std::string("socket=/s")}) {
    EXPECT_EQ(refusal(name + ",socket=/s"),
              "'" + name + "' is no name: give 1 to 32 letters, digits, '_', '.' or '-'");
  }
}

TEST(PortSpec, NamesWhatIsMissing) {
  const std::string cure = "web: socket is missing: add socket=PATH, for QEMU's -chardev";
  EXPECT_EQ(refusal("web"), cure);
  EXPECT_EQ(refusal("web,"), cure);
  EXPECT_EQ(refusal("web,queues=1"), cure);
}

TEST(PortSpec, NamesAKeyThatIsNone) {
  EXPECT_EQ(refusal(with("quues=2")),
            "web: 'quues' is not known here: there are socket, queues, mac, vlan, trunk, guard, "
            "ip, client, owner, group, mode, capture, config, postcopy");
  EXPECT_THAT(refusal(with("=2")), HasSubstr("'' is not known here"));
}

TEST(PortSpec, NamesAKeyThatIsMalformed) {
  EXPECT_EQ(refusal(with("queues=1,queues=1")), "web: queues: given more than once: give it once");
  EXPECT_EQ(refusal(with("guard=yes")), "web: guard: takes no value: leave out what follows it");
  for (const char* key :
       {"queues", "mac", "vlan", "trunk", "ip", "owner", "group", "mode", "capture"}) {
    const std::string cure =
        std::string("web: ") + key + ": the value is missing: give one behind a '='";
    EXPECT_EQ(refusal(with(key)), cure);
    EXPECT_EQ(refusal(with(std::string(key) + "=")), cure);
  }
  EXPECT_EQ(refusal("web,socket="), "web: socket: the value is missing: give one behind a '='");
}

TEST(PortSpec, NamesAStrayComma) {
  const std::string cure = "web: there is nothing beside a comma: remove the comma";
  EXPECT_EQ(refusal("web,socket=/s,"), cure);
  EXPECT_EQ(refusal("web,socket=/s,,guard"), cure);
  EXPECT_EQ(refusal("web,,socket=/s"), cure);
}

TEST(PortSpec, TakesUpTo64Queues) {
  EXPECT_EQ(accepted(with("queues=1")).queues, 1);
  EXPECT_EQ(accepted(with("queues=64")).queues, 64);
  const std::string cure = "is not accepted: give a number from 1 to 64";
  EXPECT_EQ(refusal(with("queues=0")), "web: queues: '0' " + cure);
  EXPECT_EQ(refusal(with("queues=65")), "web: queues: '65' " + cure);
}

TEST(PortSpec, RefusesWhatIsNoMacAddressOfAGuest) {
  for (const char* mac :
       {"52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:56:78", "52-54-00-12-34-56",
        "52:54:00:12:34:5g", "5x:54:00:12:34:56", "52:54:00:12:34:56 "}) {
    EXPECT_THAT(refusal(with(std::string("mac=") + mac)), HasSubstr("is no MAC address"));
  }
  EXPECT_THAT(refusal(with("mac=01:00:5e:00:00:01")), HasSubstr("is a multicast address"));
  EXPECT_THAT(refusal(with("mac=ff:ff:ff:ff:ff:ff")), HasSubstr("is a multicast address"));
  EXPECT_THAT(refusal(with("mac=00:00:00:00:00:00")), HasSubstr("is nobody's address"));
  EXPECT_TRUE(accepted(with("mac=00:00:00:00:00:01")).mac);
}

TEST(PortSpec, TakesVlansFrom1To4094) {
  EXPECT_EQ(accepted(with("vlan=1")).vlans.untagged, 1);
  EXPECT_EQ(accepted(with("vlan=4094")).vlans.untagged, 4094);
  EXPECT_EQ(refusal(with("vlan=0")),
            "web: vlan: '0' is not accepted: give a number from 1 to 4094");
  EXPECT_THAT(refusal(with("vlan=4095")), HasSubstr("vlan: '4095' is not accepted"));
  EXPECT_EQ(accepted(with("trunk=1-4094")).vlans.tagged.count(), 4094u);
  for (const char* ids :
       {"0", "4095", "1-4095", "0-1", "9-5", "1+", "+1", "1,2", "1-", "-1", "x", "1-2-3"}) {
    EXPECT_NE(refusal(with(std::string("trunk=") + ids)), "accepted") << ids;
  }
  EXPECT_EQ(refusal(with("trunk=9-5")),
            "web: trunk: '9-5' is no list of VLANs: give numbers from 1 to 4094 and ranges, as in "
            "1+5-9");
  EXPECT_EQ(refusal(with("trunk=1-5+4")), "web: trunk: '1-5+4' names VLAN 4 twice: name it once");
}

TEST(PortSpec, RefusesAVlanWithAndWithoutATag) {
  EXPECT_THAT(refusal(with("vlan=5,trunk=1-9")), StartsWith("web: VLAN 5 is in trunk and is vlan"));
  EXPECT_EQ(accepted(with("vlan=5,trunk=1-4")).vlans.untagged, 5);
}

TEST(PortSpec, RefusesAGuardThatKnowsNothing) {
  EXPECT_EQ(refusal(with("guard")), "web: guard needs to know the guest's address: add mac=...");
  EXPECT_EQ(refusal(with("mac=52:54:00:12:34:56,ip=10.0.0.1")),
            "web: ip is checked by guard only: add guard");
}

TEST(PortSpec, RefusesWhatIsNoListOfAddresses) {
  for (const char* list : {"10.0.0", "10.0.0.256", "fd00:::1", "+", "10.0.0.1+", "host"}) {
    EXPECT_THAT(refusal(with(std::string("mac=52:54:00:12:34:56,guard,ip=") + list)),
                HasSubstr("is no list of IP addresses"));
  }
}

TEST(PortSpec, FindsUsersAndGroupsByName) {
  EXPECT_EQ(accepted(with("owner=root")).access.owner, 0u);
  EXPECT_EQ(accepted(with("group=root")).access.group, 0u);
  EXPECT_EQ(accepted(with("owner=4294967294")).access.owner, 4294967294u);
  EXPECT_EQ(refusal(with("owner=4294967295")),
            "web: owner: there is no user '4294967295': give a name or a number");
  EXPECT_EQ(refusal(with("owner=no-such-user")),
            "web: owner: there is no user 'no-such-user': give a name or a number");
  EXPECT_EQ(refusal(with("group=no-such-group")),
            "web: group: there is no group 'no-such-group': give a name or a number");
}

TEST(PortSpec, TakesAnOctalMode) {
  EXPECT_EQ(accepted(with("mode=660")).access.mode, 0660u);
  EXPECT_EQ(accepted(with("mode=0777")).access.mode, 0777u);
  for (const char* mode : {"668", "01000", "rw", "-1", "0x1", "660 "}) {
    EXPECT_EQ(refusal(with(std::string("mode=") + mode)),
              std::string("web: mode: '") + mode +
                  "' is no mode: give an octal number from 0 to 0777, as in 0660");
  }
}

TEST(PortSpec, RefusesAccessToASocketThatIsNotMade) {
  for (const char* key : {"owner=0", "group=0", "mode=0660"}) {
    EXPECT_THAT(refusal(with(std::string("client,") + key)), HasSubstr("a client makes none"));
  }
}

}  // namespace
}  // namespace net
