#include "backends/net/daemon/port_list.hpp"

#include <algorithm>
#include <filesystem>
#include <map>

#include <fmt/core.h>

#include "common/text_file.hpp"

namespace net {
namespace {

using vhost::Fault;
using vhost::Result;

std::unexpected<vhost::Error> refuse(std::string what) {
  return vhost::fail(Fault::operator_, std::move(what));
}

/// Finds what two ports or uplinks cannot both have.
class Uses {
 public:
  /// `what` must be new; empty: nothing is used. `option` and `name` are who uses it now.
  [[nodiscard]] Result<void> take(std::string_view kind, const std::string& what,
                                  std::string_view option, const std::string& name) {
    if (what.empty()) return {};
    const auto [at, is_new] = owners_[std::string(kind)].try_emplace(what, name);
    if (is_new) return {};
    return refuse(fmt::format("{}: {}: the {} {} belongs to {} already; give each its own", option,
                              name, kind, what, at->second));
  }

 private:
  std::map<std::string, std::map<std::string, std::string>> owners_;
};

std::string same_path(const std::string& path) {
  return path.empty() ? path : std::filesystem::path(path).lexically_normal().string();
}

Result<void> take_port(Uses& uses, const PortSpec& port) {
  const std::string mac = port.mac ? mac_text(*port.mac) : "";
  const std::string fd = port.fd ? std::to_string(*port.fd) : "";
  for (const auto& [kind, what] : {std::pair{"name", port.name},
                                   {"socket", same_path(port.socket)},
                                   {"descriptor", fd},
                                   {"MAC address", mac},
                                   {"capture", same_path(port.capture)}}) {
    if (auto taken = uses.take(kind, what, port.origin, port.name); !taken) return taken;
  }
  return {};
}

Result<void> take_uplink(Uses& uses, const UplinkPlan& uplink) {
  const auto& device = uplink.device;
  for (const int fd : device.fds) {
    auto taken = uses.take("descriptor", std::to_string(fd), "--uplink", uplink.name);
    if (!taken) return taken;
  }
  const std::string attached = device.fds.empty() ? device.argument : "";
  for (const auto& [kind, what] : {std::pair{"name", uplink.name},
                                   {"device", attached},
                                   {"capture", same_path(uplink.capture)}}) {
    if (auto taken = uses.take(kind, what, "--uplink", uplink.name); !taken) return taken;
  }
  return {};
}

/// Those of the file, each with its line.
Result<std::vector<PortSpec>> read_ports(const std::string& path) {
  const auto read = common::read_text_file(path);
  if (!read) return refuse("--ports: " + read.error().what);
  std::vector<PortSpec> ports;
  std::string_view text = *read;
  for (unsigned number = 1; !text.empty(); ++number) {
    const std::string_view line = common::take_line(text);
    if (line.empty() || line.front() == '#') continue;
    std::string origin = fmt::format("{}, line {}", path, number);
    auto port = parse_port(line);
    if (!port) return refuse(fmt::format("{}: {}", origin, port.error().what));
    port->origin = std::move(origin);
    ports.push_back(std::move(*port));
  }
  return ports;
}

/// Whoever wrote the line has not changed the port by moving it.
bool same(const PortSpec& one, const PortSpec& other) {
  PortSpec moved = other;
  moved.origin = one.origin;
  return one == moved;
}

const PortSpec* find(std::span<const PortSpec> ports, const std::string& name) {
  const auto found = std::ranges::find(ports, name, &PortSpec::name);
  return found == ports.end() ? nullptr : &*found;
}

}  // namespace

Result<void> check_uses(std::span<const PortSpec> ports, std::span<const UplinkPlan> uplinks,
                        std::span<const PortSpec> listed) {
  Uses uses;
  for (const PortSpec& port : ports) {
    if (auto taken = take_port(uses, port); !taken) return taken;
  }
  for (const UplinkPlan& uplink : uplinks) {
    if (auto taken = take_uplink(uses, uplink); !taken) return taken;
  }
  for (const PortSpec& port : listed) {
    if (auto taken = take_port(uses, port); !taken) return taken;
  }
  return {};
}

Result<std::vector<PortSpec>> list_ports(const Settings& settings) {
  if (settings.ports_file.empty()) return settings.ports;
  auto listed = read_ports(settings.ports_file);
  if (!listed) return listed;
  if (auto checked = check_uses(settings.ports, settings.uplinks, *listed); !checked) {
    return std::unexpected(checked.error());
  }
  std::vector<PortSpec> ports = settings.ports;
  std::ranges::move(*listed, std::back_inserter(ports));
  if (ports.size() <= settings.most_ports) return ports;
  const PortSpec& too_many = ports[settings.most_ports];
  return refuse(
      fmt::format("{}: {}: this is one port more than the {} of --most-ports: remove "
                  "ports, or restart with a larger number",
                  too_many.origin, too_many.name, settings.most_ports));
}

PortChanges compare(std::span<const PortSpec> now, std::span<const PortSpec> wanted) {
  PortChanges changes;
  for (const PortSpec& port : now) {
    if (find(wanted, port.name) == nullptr) changes.removed.push_back(port.name);
  }
  for (const PortSpec& port : wanted) {
    const PortSpec* const before = find(now, port.name);
    if (before == nullptr) {
      changes.added.push_back(port);
    } else if (!same(*before, port)) {
      changes.changed.push_back(port);
    }
  }
  return changes;
}

}  // namespace net
