#pragma once
#include <span>

#include "backends/net/frame/frame.hpp"

namespace net {

/// Where frames leave the daemon: a guest's receive queues or an uplink.
///
/// A sink takes any checked frame. What its receiver lacks (a checksum, segmentation) it does in
/// software (offload.hpp), what it cannot take it drops and counts; it never waits.
class Sink {
 public:
  virtual ~Sink() = default;

  /// Sends frames out, in order. It may change heads and offloads in ways that keep the meaning
  /// (a checksum that was asked for is now there), because the same frame may go to other sinks
  /// after this. `worker` is the number of the calling worker, any of which may call at any time.
  virtual void deliver(std::span<Frame* const> frames, unsigned worker) = 0;
  /// After the last deliver() of a turn: what was gathered goes out now, guests are called.
  virtual void flush(unsigned worker) = 0;
};

}  // namespace net
