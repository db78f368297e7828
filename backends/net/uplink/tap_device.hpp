#pragma once
#include <optional>
#include <string>
#include <vector>

#include "backends/net/frame/offload.hpp"
#include "backends/net/uplink/uplink.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * Getting hold of a TAP: everything that is asked of the kernel once, before frames flow.
 */
namespace net {

struct TapDevice {
  /// Opens as many queues as there are workers, or as the interface allows. Every error is one
  /// sentence, with the option in front.
  [[nodiscard]] static vhost::Result<TapDevice> open(const UplinkSpec& spec,
                                                     const UplinkSetup& setup);

  std::string interface;
  std::vector<vhost::UniqueFd> queues{};  ///< not blocking, close-on-exec, header of 12 bytes
  Accepts accepts{};                      ///< what the kernel takes undone
  std::uint16_t mtu = 1500;
};

struct TapState {
  bool up = true;
  std::vector<DriverCounter> counters{};
};
/// Whether the interface is up, and what the kernel counts of it. An interface that we cannot ask
/// about (an inherited descriptor may belong to another network namespace) is up.
[[nodiscard]] TapState look_at_tap(const std::string& interface);

}  // namespace net
