#include "backends/net/uplink/uplink.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include <net/if.h>

#include "backends/net/uplink/dpdk_port.hpp"
#include "backends/net/uplink/tap.hpp"
#include "common/parse.hpp"

namespace net {
namespace {

using Kind = UplinkSpec::Kind;
using vhost::Fault, vhost::Result;

/// DPDK's devices in software under shorter names: what is typed behind the colon follows `device`.
struct ShortName {
  std::string_view name;
  std::string_view device;
  std::string_view needs;  ///< what must follow; empty: nothing need
};
constexpr std::array short_names{
    ShortName{"null", "net_null", ""},
    ShortName{"ring", "net_ring", ""},
    ShortName{"pcap", "net_pcap", "its arguments, as in pcap:rx_pcap=in.pcap,tx_pcap=out.pcap"},
    ShortName{"af_packet", "net_af_packet,iface=", "an interface, as in af_packet:eth0"},
    ShortName{"af_xdp", "net_af_xdp,iface=", "an interface, as in af_xdp:eth0"},
    ShortName{"memif", "net_memif", "its arguments, as in memif:role=client,socket=/run/m.sock"},
    ShortName{"virtio_user",
              "net_virtio_user,path=/dev/vhost-net,iface=", "an interface, as in virtio_user:tap0"},
};

constexpr auto forms =
    "give tap:NAME, macvtap:NAME, fd:NUMBER, pci:ADDRESS, null, ring, pcap:ARGUMENTS, "
    "af_packet:INTERFACE, af_xdp:INTERFACE, memif:ARGUMENTS, virtio_user:INTERFACE, or a device "
    "as DPDK writes it (net_...)";

std::unexpected<vhost::Error> refuse(std::string_view text, const std::string& why) {
  return vhost::fail(Fault::operator_, "'" + std::string(text) + "' " + why);
}

/// What the kernel takes as a name; a '%' would make it choose another one.
bool is_interface(std::string_view name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
         std::ranges::none_of(
             name,
             [](unsigned char c) {
               return c == '/' || c == ':' || c == '%' || std::isspace(c) != 0 ||
                      std::iscntrl(c) != 0;
             });
}

Result<UplinkSpec> with_interface(UplinkSpec spec) {
  if (is_interface(spec.argument)) return spec;
  return refuse(spec.text,
                "names no interface: a name has 1 to 15 bytes and no '/', ':', '%' or "
                "space");
}

Result<UplinkSpec> with_fds(UplinkSpec spec) {
  std::string_view left = spec.argument;
  for (;;) {
    const std::size_t plus = left.find('+');
    const auto fd = common::parse_number(left.substr(0, plus), 3, 1 << 20);
    if (!fd) return refuse(spec.text, "needs descriptors from 3 on, as in fd:5 or fd:5+6");
    if (std::ranges::find(spec.fds, static_cast<int>(*fd)) != spec.fds.end()) {
      return refuse(spec.text, "names descriptor " + std::to_string(*fd) + " twice");
    }
    spec.fds.push_back(static_cast<int>(*fd));
    if (plus == left.npos) return spec;
    left.remove_prefix(plus + 1);
  }
}

/// "0000:01:00.0" or "01:00.0".
Result<UplinkSpec> with_address(UplinkSpec spec) {
  constexpr std::string_view domain = "0000:";
  constexpr std::string_view form = "xxxx:xx:xx.o";  // x: hexadecimal, o: octal
  std::string address = spec.argument;
  if (address.size() == form.size() - domain.size()) address.insert(0, domain);
  const bool fits = std::ranges::equal(address, form, [](unsigned char c, char want) {
    if (want == 'x') return std::isxdigit(c) != 0;
    if (want == 'o') return c >= '0' && c <= '7';
    return c == static_cast<unsigned char>(want);
  });
  if (!fits) return refuse(spec.text, "is no PCI address: give one as in pci:0000:01:00.0");
  std::ranges::transform(address, address.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  spec.argument = std::move(address);
  return spec;
}

Result<UplinkSpec> with_device(UplinkSpec spec, const ShortName& known) {
  if (spec.argument.empty() && !known.needs.empty()) {
    return refuse(spec.text, "needs " + std::string(known.needs));
  }
  const bool comma = !spec.argument.empty() && known.device.back() != '=';
  spec.argument = std::string(known.device) + (comma ? "," : "") + spec.argument;
  spec.kind = Kind::vdev;
  return spec;
}

}  // namespace

Result<UplinkSpec> parse_uplink(std::string_view text) {
  UplinkSpec spec{.text = std::string(text)};
  if (text.starts_with("net_")) {
    spec.kind = Kind::vdev;
    spec.argument = text;
    return spec;
  }
  const std::size_t colon = text.find(':');
  const std::string_view word = text.substr(0, colon);
  if (colon != text.npos) spec.argument = text.substr(colon + 1);
  const auto as = [&](Kind kind) {
    spec.kind = kind;
    return std::move(spec);
  };
  if (word == "tap") return with_interface(as(Kind::tap));
  if (word == "macvtap") return with_interface(as(Kind::macvtap));
  if (word == "fd") return with_fds(as(Kind::fds));
  if (word == "pci") return with_address(as(Kind::pci));
  const auto known = std::ranges::find(short_names, word, &ShortName::name);
  if (known != short_names.end()) return with_device(std::move(spec), *known);
  return refuse(text, std::string("is no uplink: ") + forms);
}

Result<std::unique_ptr<Uplink>> open_uplink(const UplinkSpec& spec, const UplinkSetup& setup) {
  if (spec.needs_dpdk()) return DpdkPort::open(spec, setup);
  return Tap::open(spec, setup);
}

std::size_t uplink_memory(const UplinkSpec& spec, const UplinkSetup& setup) {
  if (!spec.needs_dpdk()) return 0;
  return pool_memory(spec.argument, setup.workers, setup.mtu.value_or(1500));
}

}  // namespace net
