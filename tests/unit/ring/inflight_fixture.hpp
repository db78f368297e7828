#pragma once
#include "tests/unit/ring/ring_fixture.hpp"

namespace vhost::tests {

inline constexpr std::uint16_t ring_size = 8;

class InflightTest : public SplitRingTest {
 protected:
  InflightTest() {
    auto region = make_inflight_region(1, ring_size);
    auto mapped = Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes);
    region_ = std::make_shared<const Mapping>(std::move(*mapped));
  }
  [[nodiscard]] InflightSection section() const { return {region_, region_->bytes(), ring_size}; }
  [[nodiscard]] InflightHeader& header() const {
    return *reinterpret_cast<InflightHeader*>(region_->bytes().data());
  }
  [[nodiscard]] InflightEntry& entry(std::uint16_t head) const {
    return reinterpret_cast<InflightEntry*>(region_->bytes().data() + sizeof(InflightHeader))[head];
  }

  /// A back-end at work on the ring; the front-end's base is the used index, as after a crash.
  SplitRing start() { return make(driver_.setup(driver_.used_idx()), section()); }
  U16s take_all_used() {
    U16s heads;
    while (const auto used = driver_.take_used()) {
      heads.push_back(static_cast<std::uint16_t>(used->id));
    }
    return heads;
  }
  /// Everything that pop() still has.
  U16s drain(SplitRing& ring) {
    U16s heads;
    Pop answer = Pop::ready;
    while ((answer = ring.pop(chain_)) == Pop::ready) heads.push_back(chain_.head);
    EXPECT_EQ(answer, Pop::empty);
    return heads;
  }

  std::shared_ptr<const Mapping> region_;
};

}  // namespace vhost::tests
