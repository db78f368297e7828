#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/net/daemon/port_spec.hpp"
#include "backends/net/daemon/uplink_spec.hpp"
#include "backends/net/forwarding/worker.hpp"
#include "common/log.hpp"
#include "libvhost/wire/error.hpp"

namespace net {

/// What --most-ports may be: the room for their addresses is taken at the start.
inline constexpr std::uint16_t most_ports = 256;

/// What the operator asked for, checked as far as that is possible without touching anything.
struct Settings {
  std::vector<PortSpec> ports;      ///< those of the command line; without a file at least one
  std::string ports_file;           ///< more ports, which come and go; empty: none
  std::uint16_t most_ports = 64;    ///< of both kinds, if there is a file
  std::vector<UplinkPlan> uplinks;  ///< each with a name

  std::uint16_t workers = 1;
  std::vector<unsigned> cpus;
  Polling polling = Polling::adaptive;

  std::chrono::milliseconds mac_ageing = std::chrono::seconds(300);
  std::uint32_t storm_limit = 20'000;  ///< frames a second and port; 0: none

  std::string eal;  ///< arguments, as they were typed
  bool unsafe_no_iommu = false;

  std::string stats_file;
  std::chrono::milliseconds stats_interval{1000};
  common::log::Level log_level = common::log::Level::info;
};

/// Reads command line and configuration file. Nothing: the program has done what it was asked to
/// (--help, --version, --print-capabilities). Errors name the option and the cure.
[[nodiscard]] vhost::Result<std::optional<Settings>> read_settings(int argc,
                                                                   const char* const* argv);

}  // namespace net
