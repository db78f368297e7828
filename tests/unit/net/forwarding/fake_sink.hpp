#pragma once
#include <vector>

#include "backends/net/forwarding/sink.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {

/// Keeps what it is given. For one worker at a time.
class FakeSink final : public Sink {
 public:
  void deliver(std::span<Frame* const> frames, unsigned worker) override {
    last_worker = worker;
    deliveries.push_back(frames.size());
    for (const Frame* const frame : frames) delivered.push_back(bytes_of(*frame));
  }
  void flush(unsigned worker) override {
    last_worker = worker;
    ++flushes;
  }

  /// What came since the last time.
  [[nodiscard]] std::vector<std::vector<std::byte>> take() {
    deliveries.clear();
    return std::exchange(delivered, {});
  }

  std::vector<std::vector<std::byte>> delivered;
  std::vector<std::size_t> deliveries;  ///< frames of each deliver()
  unsigned flushes = 0;
  unsigned last_worker = 0;
};

}  // namespace net::tests
