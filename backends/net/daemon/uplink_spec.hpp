#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "backends/net/daemon/spec_keys.hpp"
#include "backends/net/uplink/uplink.hpp"

/*
 * One --uplink: which device it is, and what our switch is to know of it.
 *
 * The commas of DPDK's devices are their own, so our keys stand in front of the device, with a
 * semicolon behind them: "mtu=9000,name=world;net_af_packet0,iface=eth0". Interfaces of the kernel
 * have no commas, and take the same keys behind the device, too: "tap:tap0,mtu=9000".
 */
namespace net {

struct UplinkPlan {
  std::string name;  ///< empty: it is called by its number, "uplink0"
  UplinkSpec device;
  std::optional<std::uint16_t> mtu;
  SpecVlans vlans;
  std::string capture;  ///< a file for all frames of the uplink; empty: none
};

/// A refusal quotes the text, or the part of it that is to blame.
[[nodiscard]] vhost::Result<UplinkPlan> parse_uplink_plan(std::string_view text);

}  // namespace net
