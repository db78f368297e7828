#pragma once
#include <algorithm>
#include <deque>
#include <vector>

#include "backends/net/forwarding/source.hpp"

namespace net::tests {

/// Frames that wait to be taken. Never sleeps.
class FakeSource final : public Source {
 public:
  explicit FakeSource(PortId port) : port_(port) {}

  void add(std::vector<std::byte> bytes) { waiting_.push_back(std::move(bytes)); }

  bool take(Burst& burst) override {
    burst.count = std::min(waiting_.size(), Burst::most);
    burst.room.resize(burst.count);
    for (std::size_t i = 0; i < burst.count; ++i) {
      auto& bytes = taken_.emplace_back(std::move(waiting_.front()));
      waiting_.pop_front();
      const std::size_t head = std::min(Frame::usual_head, bytes.size());
      Frame& frame = burst.frames[i];
      frame.start(head, static_cast<std::uint32_t>(bytes.size()));
      std::copy_n(bytes.begin(), head, frame.head().begin());
      burst.room[i] = {bytes.data() + head, bytes.size() - head};
      if (bytes.size() > head) frame.rest = {&burst.room[i], 1};
    }
    return burst.count != 0;
  }
  void release() override {
    taken_.clear();
    ++releases;
  }

  bool arm() override { return !waiting_.empty(); }
  void disarm() override {}
  int wake_fd() const override { return -1; }
  void woken() override {}
  Traffic& traffic() override { return traffic_; }
  PortId port() const override { return port_; }

  [[nodiscard]] std::uint64_t dropped(Drop why) const {
    return traffic_.dropped[static_cast<std::size_t>(why)].value();
  }

  unsigned releases = 0;

 private:
  const PortId port_;
  Traffic traffic_;
  std::deque<std::vector<std::byte>> waiting_;
  std::deque<std::vector<std::byte>> taken_;
};

}  // namespace net::tests
