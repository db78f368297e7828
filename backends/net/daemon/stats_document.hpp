#pragma once
#include <chrono>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "backends/net/daemon/settings.hpp"
#include "backends/net/forwarding/switch.hpp"
#include "backends/net/forwarding/worker.hpp"
#include "backends/net/guest/device.hpp"
#include "backends/net/uplink/uplink.hpp"
#include "libvhost/session/server.hpp"

namespace net {

/// What the stats file tells of: everything that runs, as the daemon has it.
struct InService {
  struct Port {
    const PortSpec& spec;
    const Device& device;
    const vhost::Server& server;
  };
  struct UplinkNow {
    const Uplink& uplink;
    PortId place;  ///< in the switch
    bool link_up;  ///< when the driver was asked last
  };
  struct WorkerNow {
    const Worker& worker;
    std::chrono::nanoseconds longest_pause;  ///< 0: all of its sources wake it
  };

  std::vector<Port> ports;
  std::vector<UplinkNow> uplinks;
  std::vector<WorkerNow> workers;
  const Switch& fabric;
};

/// The learned addresses that the document lists at most.
inline constexpr std::size_t most_stations_listed = 1024;

/// The stats file's document; docs/stats.md says what every key means. Control thread.
[[nodiscard]] nlohmann::json stats_document(const InService& now,
                                            std::chrono::steady_clock::duration uptime);

}  // namespace net
