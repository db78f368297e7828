#include "backends/net/daemon/uplink_spec.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Kind = UplinkSpec::Kind;

UplinkPlan accepted(const std::string& text) {
  const auto plan = parse_uplink_plan(text);
  if (!plan) {
    ADD_FAILURE() << text << ": " << plan.error().what;
    return {};
  }
  return *plan;
}

std::string refusal(const std::string& text) {
  const auto plan = parse_uplink_plan(text);
  if (plan) return "accepted";
  EXPECT_EQ(plan.error().fault, vhost::Fault::operator_);
  return plan.error().what;
}

TEST(UplinkPlan, NeedsADeviceOnly) {
  const UplinkPlan plan = accepted("tap:tap0");
  EXPECT_EQ(plan.device.kind, Kind::tap);
  EXPECT_EQ(plan.device.argument, "tap0");
  EXPECT_EQ(plan.name, "");
  EXPECT_FALSE(plan.mtu);
  EXPECT_FALSE(plan.vlans.any());
  EXPECT_EQ(plan.capture, "");
}

TEST(UplinkPlan, TakesKeysBehindInterfacesOfTheKernel) {
  const UplinkPlan plan = accepted("tap:tap0,mtu=9000,name=world,vlan=3,trunk=4+5,capture=/c");
  EXPECT_EQ(plan.device.argument, "tap0");
  EXPECT_EQ(plan.mtu, 9000);
  EXPECT_EQ(plan.name, "world");
  EXPECT_EQ(plan.vlans.untagged, 3);
  EXPECT_EQ(plan.vlans.tagged.count(), 2u);
  EXPECT_EQ(plan.capture, "/c");
  EXPECT_EQ(accepted("macvtap:mv0,mtu=1500").device.kind, Kind::macvtap);
  EXPECT_THAT(accepted("fd:5+6,name=x").device.fds, ElementsAre(5, 6));
}

TEST(UplinkPlan, TakesKeysInFrontOfAnyDevice) {
  const UplinkPlan plan = accepted("name=world,mtu=2000;net_af_packet0,iface=eth0,blocksz=4096");
  EXPECT_EQ(plan.name, "world");
  EXPECT_EQ(plan.mtu, 2000);
  EXPECT_EQ(plan.device.kind, Kind::vdev);
  EXPECT_EQ(plan.device.argument, "net_af_packet0,iface=eth0,blocksz=4096");
  EXPECT_EQ(accepted("mtu=2000;tap:tap0").device.argument, "tap0");
  EXPECT_EQ(accepted("mtu=2000;pci:0000:01:00.0").device.kind, Kind::pci);
}

TEST(UplinkPlan, LeavesTheCommasOfDpdksDevicesAlone) {
  EXPECT_EQ(accepted("net_null0,size=64,copy=1").device.argument, "net_null0,size=64,copy=1");
  EXPECT_EQ(accepted("net_pcap0,rx_pcap=/a;b,tx_pcap=/c").device.argument,
            "net_pcap0,rx_pcap=/a;b,tx_pcap=/c");
  EXPECT_THAT(accepted("memif:role=client,mtu=1").device.argument, HasSubstr("role=client,mtu=1"));
}

TEST(UplinkPlan, NamesKeysThatAreNone) {
  EXPECT_EQ(refusal("tap:tap0,queues=2"),
            "'queues' is not known here: there are name, mtu, vlan, trunk, capture");
  EXPECT_THAT(refusal("colour=red;null"), HasSubstr("'colour' is not known here"));
  EXPECT_THAT(refusal("tap:tap0,"), HasSubstr("there is nothing beside a comma"));
  EXPECT_THAT(refusal("tap:tap0,mtu"), HasSubstr("mtu: the value is missing"));
  EXPECT_THAT(refusal("name=a b;null"), HasSubstr("name: 'a b' is no name"));
  EXPECT_THAT(refusal("tap:tap0,vlan=5,trunk=5"), HasSubstr("VLAN 5 is in trunk and is vlan"));
}

TEST(UplinkPlan, NamesADeviceThatIsNotThere) {
  EXPECT_EQ(refusal("mtu=2000"), "'mtu=2000' names no device: write it behind the keys and a ';'");
  EXPECT_NE(refusal("mtu=2000;"), "accepted");
  EXPECT_NE(refusal(""), "accepted");
  EXPECT_NE(refusal("tap:"), "accepted");
  EXPECT_NE(refusal("eth0"), "accepted");
}

TEST(UplinkPlan, TakesAnMtuFrom68To9202) {
  EXPECT_EQ(accepted("tap:t,mtu=68").mtu, 68);
  EXPECT_EQ(accepted("tap:t,mtu=9202").mtu, 9202);
  EXPECT_EQ(refusal("tap:t,mtu=67"), "mtu: '67' is not accepted: give a number from 68 to 9202");
  EXPECT_THAT(refusal("tap:t,mtu=9203"), HasSubstr("from 68 to 9202"));
}

}  // namespace
}  // namespace net
