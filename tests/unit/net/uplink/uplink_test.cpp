#include "backends/net/uplink/uplink.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace net::tests {
namespace {

using Kind = UplinkSpec::Kind;
using testing::HasSubstr;

UplinkSpec parsed(std::string_view text) {
  auto spec = parse_uplink(text);
  if (!spec) {
    ADD_FAILURE() << spec.error().what;
    return {};
  }
  EXPECT_EQ(spec->text, text);
  return *spec;
}

std::string refusal(std::string_view text) {
  const auto spec = parse_uplink(text);
  if (spec) return "taken";
  EXPECT_EQ(spec.error().fault, vhost::Fault::operator_);
  return spec.error().what;
}

TEST(UplinkSpec, NamesAnInterface) {
  EXPECT_EQ(parsed("tap:tap0").kind, Kind::tap);
  EXPECT_EQ(parsed("tap:tap0").argument, "tap0");
  EXPECT_EQ(parsed("macvtap:mv").kind, Kind::macvtap);
  EXPECT_EQ(parsed("tap:fifteen-bytes-x").argument, "fifteen-bytes-x");
  EXPECT_FALSE(parsed("tap:tap0").needs_dpdk());
}

TEST(UplinkSpec, RefusesWhatIsNoInterface) {
  for (const auto* text : {"tap", "tap:", "macvtap:", "tap:sixteen-bytes-xx", "tap:a/b", "tap:..",
                           "tap:tap%d", "tap:a b", "tap:a:b", "tap:."}) {
    EXPECT_THAT(refusal(text), HasSubstr("names no interface")) << text;
  }
}

TEST(UplinkSpec, NamesDescriptors) {
  EXPECT_EQ(parsed("fd:3").fds, std::vector{3});
  EXPECT_EQ(parsed("fd:5+6+17").fds, (std::vector{5, 6, 17}));
  EXPECT_EQ(parsed("fd:5").kind, Kind::fds);
}

TEST(UplinkSpec, RefusesWhatIsNoDescriptor) {
  for (const auto* text : {"fd", "fd:", "fd:2", "fd:-1", "fd:5+", "fd:+5", "fd:5,6", "fd:x"}) {
    EXPECT_THAT(refusal(text), HasSubstr("descriptors from 3 on")) << text;
  }
  EXPECT_THAT(refusal("fd:5+6+5"), HasSubstr("descriptor 5 twice"));
}

TEST(UplinkSpec, NamesAPciDevice) {
  EXPECT_EQ(parsed("pci:0000:01:00.0").argument, "0000:01:00.0");
  EXPECT_EQ(parsed("pci:81:AB.7").argument, "0000:81:ab.7");
  EXPECT_TRUE(parsed("pci:81:00.7").needs_dpdk());
  EXPECT_TRUE(parsed("pci:81:00.7").needs_pci());
  EXPECT_FALSE(parsed("null").needs_pci());
}

TEST(UplinkSpec, RefusesWhatIsNoPciAddress) {
  for (const auto* text : {"pci", "pci:", "pci:01:00.8", "pci:01:00", "pci:0000:0g:00.0",
                           "pci:0000:01:00.00", "pci:0000-01:00.0", "pci:00000:01:00.0"}) {
    EXPECT_THAT(refusal(text), HasSubstr("is no PCI address")) << text;
  }
}

TEST(UplinkSpec, KnowsShortNamesOfDevices) {
  EXPECT_EQ(parsed("null").argument, "net_null");
  EXPECT_EQ(parsed("null:size=64").argument, "net_null,size=64");
  EXPECT_EQ(parsed("ring").argument, "net_ring");
  EXPECT_EQ(parsed("pcap:rx_pcap=a").argument, "net_pcap,rx_pcap=a");
  EXPECT_EQ(parsed("af_packet:eth0").argument, "net_af_packet,iface=eth0");
  EXPECT_EQ(parsed("af_xdp:eth0,start_queue=1").argument, "net_af_xdp,iface=eth0,start_queue=1");
  EXPECT_EQ(parsed("memif:role=server").argument, "net_memif,role=server");
  EXPECT_EQ(parsed("virtio_user:tap0").argument, "net_virtio_user,path=/dev/vhost-net,iface=tap0");
  EXPECT_EQ(parsed("null").kind, Kind::vdev);
}

TEST(UplinkSpec, TakesADeviceAsDpdkWritesIt) {
  EXPECT_EQ(parsed("net_bonding0,mode=1").argument, "net_bonding0,mode=1");
  EXPECT_EQ(parsed("net_bonding0,mode=1").kind, Kind::vdev);
  EXPECT_FALSE(parsed("net_null0").needs_pci());
}

TEST(UplinkSpec, RefusesADeviceWithoutWhatItNeeds) {
  for (const auto* text : {"pcap", "pcap:", "af_packet", "af_xdp:", "memif", "virtio_user"}) {
    EXPECT_THAT(refusal(text), HasSubstr("needs ")) << text;
  }
}

TEST(UplinkSpec, RefusesAnythingElseWithWhatItCouldBe) {
  for (const auto* text : {"", ":", "tapp:x", "eth0", "pci0", "Null"}) {
    EXPECT_THAT(refusal(text), HasSubstr("is no uplink: give tap:NAME")) << text;
  }
}

}  // namespace
}  // namespace net::tests
