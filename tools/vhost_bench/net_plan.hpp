#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "libvhost/frontend/net_wire.hpp"

/// What one run of "vhost-bench net" is to do.
namespace bench {

using vhost::frontend::MacAddress;

enum class NetMode : std::uint8_t {
  transmit,  ///< we send, and count what the back-end takes
  receive,   ///< the back-end has a source of its own; we count what comes
  loop,      ///< what we send comes back on the same socket
  forward,   ///< we send on one socket and receive on the other
};

struct NetPlan {
  std::string socket{};
  std::string to_socket{};  ///< forward: where frames come out
  NetMode mode = NetMode::transmit;
  std::uint32_t frame_bytes = 64;
  std::uint16_t pairs = 1;
  std::uint16_t flows = 1;  ///< UDP source ports
  MacAddress source{0x02, 0, 0, 0, 0, 0x01};
  MacAddress destination{0x02, 0, 0, 0, 0, 0x02};
  /// Loop and forward: frames on their way at a time, all in all; 0: as many as the rings hold.
  std::uint32_t window = 0;
  std::uint16_t ring_size = 256;
  bool no_mergeable = false;
  bool no_offloads = false;
  bool no_event_idx = false;
  bool packed = false;
  bool huge_pages = false;
  std::uint64_t iommu_page_bytes = 0;  ///< of an IOMMU between driver and device; 0: there is none
  bool dirty_log = false;
  std::chrono::milliseconds duration{5000};
  std::chrono::milliseconds warmup{1000};
  unsigned rounds = 1;                ///< measured parts, one behind the other
  std::chrono::milliseconds hold{0};  ///< stay connected, without traffic, after the report

  bool json = false;
  bool calibrate = false;
  std::vector<unsigned> cpus{};
  std::uint64_t target_pid = 0;

  [[nodiscard]] bool sends() const { return mode != NetMode::receive; }
  [[nodiscard]] bool receives() const { return mode != NetMode::transmit; }
};

}  // namespace bench
