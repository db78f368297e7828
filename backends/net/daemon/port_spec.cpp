#include "backends/net/daemon/port_spec.hpp"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include <fmt/core.h>

#include "common/parse.hpp"
#include "libvhost/memory/userfault.hpp"

namespace net {
namespace {

using vhost::Fault;
using vhost::Result;

std::unexpected<vhost::Error> refuse(std::string what) {
  return vhost::fail(Fault::operator_, std::move(what));
}

constexpr std::uint64_t largest_id = 0xffff'fffe;  // -1 is "leave it" to chown()

/// A number is taken as it is: nobody need have it as a name.
Result<uid_t> parse_owner(std::string_view text) {
  if (const auto id = common::parse_number(text, 0, largest_id)) return static_cast<uid_t>(*id);
  const passwd* user = ::getpwnam(std::string(text).c_str());
  if (user == nullptr) {
    return refuse(fmt::format("there is no user '{}': give a name or a number", text));
  }
  return user->pw_uid;
}

Result<gid_t> parse_group(std::string_view text) {
  if (const auto id = common::parse_number(text, 0, largest_id)) return static_cast<gid_t>(*id);
  const group* found = ::getgrnam(std::string(text).c_str());
  if (found == nullptr) {
    return refuse(fmt::format("there is no group '{}': give a name or a number", text));
  }
  return found->gr_gid;
}

Result<mode_t> parse_mode(std::string_view text) {
  mode_t mode = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
  if (error != std::errc{} || end != text.data() + text.size() || mode > 0777) {
    return refuse(
        fmt::format("'{}' is no mode: give an octal number from 0 to 0777, as in 0660", text));
  }
  return mode;
}

using Key = SpecKey<PortSpec>;
using Value = std::string_view;

constexpr std::array keys{
    Key{"socket", true,
        [](PortSpec& spec, Value value) -> Result<void> {
          spec.socket = value;
          return {};
        }},
    Key{"queues", true,
        [](PortSpec& spec, Value value) {
          return store(spec.queues, common::parse_number(value, 1, PortSpec::most_queues));
        }},
    Key{"mac", true, [](PortSpec& spec, Value value) { return store(spec.mac, parse_mac(value)); }},
    Key{"vlan", true,
        [](PortSpec& spec, Value value) { return store(spec.vlans.untagged, parse_vlan(value)); }},
    Key{"trunk", true,
        [](PortSpec& spec, Value value) { return store(spec.vlans.tagged, parse_trunk(value)); }},
    Key{"guard", false,
        [](PortSpec& spec, Value) -> Result<void> {
          spec.guard = true;
          return {};
        }},
    Key{"ip", true,
        [](PortSpec& spec, Value value) { return store(spec.addresses, parse_addresses(value)); }},
    Key{"client", false,
        [](PortSpec& spec, Value) -> Result<void> {
          spec.client = true;
          return {};
        }},
    Key{"owner", true,
        [](PortSpec& spec, Value value) { return store(spec.access.owner, parse_owner(value)); }},
    Key{"group", true,
        [](PortSpec& spec, Value value) { return store(spec.access.group, parse_group(value)); }},
    Key{"mode", true,
        [](PortSpec& spec, Value value) { return store(spec.access.mode, parse_mode(value)); }},
    Key{"capture", true,
        [](PortSpec& spec, Value value) -> Result<void> {
          spec.capture = value;
          return {};
        }},
    Key{"config", false,
        [](PortSpec& spec, Value) -> Result<void> {
          spec.config = true;
          return {};
        }},
    Key{"postcopy", false,
        [](PortSpec& spec, Value) -> Result<void> {
          spec.postcopy = true;
          return {};
        }},
};

/// What the keys must be to each other.
Result<void> check(const PortSpec& spec) {
  if (spec.socket.empty()) return refuse("socket is missing: add socket=PATH, for QEMU's -chardev");
  if (spec.guard && !spec.mac) {
    return refuse("guard needs to know the guest's address: add mac=...");
  }
  if (spec.addresses.any() && !spec.guard) {
    return refuse("ip is checked by guard only: add guard");
  }
  if (spec.client && (spec.access.owner || spec.access.group || spec.access.mode)) {
    return refuse(
        "owner, group and mode are those of a socket that we make, and a client makes none: "
        "remove them or client");
  }
  if (spec.postcopy) {
    if (const auto possible = vhost::userfault::open(); !possible) {
      return refuse("postcopy: " + possible.error().what);
    }
  }
  return check_vlans(spec.vlans);
}

}  // namespace

Result<PortSpec> parse_port(std::string_view text) {
  const std::size_t comma = std::min(text.find(','), text.size());
  auto name = parse_spec_name(text.substr(0, comma));
  if (!name) return std::unexpected(name.error());
  PortSpec spec;
  spec.name = std::move(*name);
  const auto refused = [&](const vhost::Error& error) {
    return refuse(spec.name + ": " + error.what);
  };
  if (comma < text.size()) {
    const std::string_view list = text.substr(comma + 1);
    if (const auto set = apply_keys(spec, list, keys); !set) return refused(set.error());
  }
  if (const auto checked = check(spec); !checked) return refused(checked.error());
  return spec;
}

}  // namespace net
