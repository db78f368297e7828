#pragma once
#include "backends/net/frame/traffic.hpp"

namespace net {

/// What one queue of a guest has done since the daemon started, in one direction. Written by one
/// thread at a time, read by the control thread for the stats file.
struct QueueStats {
  Traffic traffic;
  common::Counter kicks;             ///< times the driver's kick was found; from_guest only
  common::Counter calls;             ///< calls sent to the driver
  common::Counter calls_suppressed;  ///< times the driver wanted none
  common::Counter broken;            ///< times the driver broke the rules of the ring
};

}  // namespace net
