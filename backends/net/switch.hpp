#pragma once
#include <memory>

#include "backends/net/sink.hpp"
#include "backends/net/source.hpp"
#include "libvhost/wire/error.hpp"

namespace net {

/// Decides where frames go, and takes them there.
class Switch {
 public:
  /// Delivers the frames of a burst that came in through `source`. Any worker, at the same time.
  void forward(Source& source, std::span<Frame> frames, unsigned worker);
};

}  // namespace net
