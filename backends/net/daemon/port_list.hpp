#pragma once
#include <span>
#include <string>
#include <vector>

#include "backends/net/daemon/settings.hpp"
#include "libvhost/wire/error.hpp"

/*
 * Which ports there are to be: those of the command line for good, and those of the file of
 * --ports, which is read again whenever the operator says so.
 *
 * The list is judged as a whole before anything is done with it: a mistake anywhere in it, and
 * nothing of it counts.
 */
namespace net {

/// Refuses a name, socket, address or the like that two of these would both have, and blames the
/// later one.
[[nodiscard]] vhost::Result<void> check_uses(std::span<const PortSpec> ports,
                                             std::span<const UplinkPlan> uplinks,
                                             std::span<const PortSpec> listed = {});

/// All ports: those of the settings, then those of their file, if there is one, as it is now.
/// Errors name the option, or file and line, and the cure.
[[nodiscard]] vhost::Result<std::vector<PortSpec>> list_ports(const Settings& settings);

/// What leads from one list of ports to another. Ports that are the same in both are in none.
struct PortChanges {
  std::vector<std::string> removed;  ///< names
  std::vector<PortSpec> changed;     ///< as they are to be: each removed, and added again
  std::vector<PortSpec> added;
};
[[nodiscard]] PortChanges compare(std::span<const PortSpec> now, std::span<const PortSpec> wanted);

}  // namespace net
