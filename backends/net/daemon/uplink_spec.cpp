#include "backends/net/daemon/uplink_spec.hpp"

#include <algorithm>

#include "common/parse.hpp"

namespace net {
namespace {

using vhost::Result;
using Key = SpecKey<UplinkPlan>;
using Value = std::string_view;

constexpr std::uint64_t least_mtu = 68;
constexpr std::uint64_t most_mtu = 9216 - ethernet_bytes;

constexpr std::array keys{
    Key{"name", true,
        [](UplinkPlan& plan, Value value) { return store(plan.name, parse_spec_name(value)); }},
    Key{"mtu", true,
        [](UplinkPlan& plan, Value value) -> Result<void> {
          const auto mtu = common::parse_number(value, least_mtu, most_mtu);
          if (!mtu) return std::unexpected(mtu.error());
          plan.mtu = static_cast<std::uint16_t>(*mtu);
          return {};
        }},
    Key{"vlan", true,
        [](UplinkPlan& plan, Value value) {
          return store(plan.vlans.untagged, parse_vlan(value));
        }},
    Key{"trunk", true,
        [](UplinkPlan& plan, Value value) { return store(plan.vlans.tagged, parse_trunk(value)); }},
    Key{"capture", true,
        [](UplinkPlan& plan, Value value) -> Result<void> {
          plan.capture = value;
          return {};
        }},
};

/// A device begins with a word and ':' or ',', a list of keys with a word and '='.
bool begins_with_key(std::string_view text) {
  const std::size_t end = text.find_first_of("=:,;");
  return end != text.npos && text[end] == '=';
}

bool is_of_the_kernel(std::string_view device) {
  return std::ranges::any_of(std::array{"tap:", "macvtap:", "fd:"},
                             [&](const char* kind) { return device.starts_with(kind); });
}

/// The keys and the device of an uplink.
struct Parts {
  std::string_view keys;
  std::string_view device;
};

Result<Parts> split(std::string_view text) {
  if (begins_with_key(text)) {
    const std::size_t semicolon = text.find(';');
    if (semicolon == text.npos) {
      return vhost::fail(
          vhost::Fault::operator_,
          "'" + std::string(text) + "' names no device: write it behind the keys and a ';'");
    }
    return Parts{text.substr(0, semicolon), text.substr(semicolon + 1)};
  }
  const std::size_t comma = text.find(',');
  if (comma == text.npos || !is_of_the_kernel(text)) return Parts{{}, text};
  if (comma + 1 == text.size()) return Parts{text.substr(comma), text.substr(0, comma)};
  return Parts{text.substr(comma + 1), text.substr(0, comma)};
}

}  // namespace

Result<UplinkPlan> parse_uplink_plan(std::string_view text) {
  UplinkPlan plan;
  const auto parts = split(text);
  if (!parts) return std::unexpected(parts.error());
  if (const auto set = apply_keys(plan, parts->keys, keys); !set) {
    return std::unexpected(set.error());
  }
  if (const auto checked = check_vlans(plan.vlans); !checked) {
    return std::unexpected(checked.error());
  }
  auto device = parse_uplink(parts->device);
  if (!device) return std::unexpected(device.error());
  plan.device = std::move(*device);
  return plan;
}

}  // namespace net
