#pragma once
#include "tools/vhost_bench/loopback.hpp"
#include "tools/vhost_bench/net_lane.hpp"

namespace bench {

/// A network device in the generator's own thread that copies nothing: it takes every frame at
/// once, and says of as many receive buffers as the mode asks for that a frame lies in them. What a
/// run on it takes is what the generator itself costs.
class NullSwitch {
 public:
  NullSwitch(const NetPlan& plan, vhost::frontend::NetQueue& queue)
      : mode_(plan.mode),
        from_guest_(queue.from_guest().ring().split()),
        to_guest_(queue.to_guest().ring().split(), queue.header_bytes() + plan.frame_bytes) {}

  void serve() {
    owed_ += from_guest_.serve();
    if (mode_ == NetMode::receive) owed_ = net_batch;
    if (mode_ != NetMode::transmit) owed_ -= to_guest_.serve(owed_);
  }

 private:
  NetMode mode_;
  Loopback from_guest_, to_guest_;
  std::uint32_t owed_ = 0;  // frames that were sent and did not arrive yet
};

}  // namespace bench
