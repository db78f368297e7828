#pragma once
#include "tests/unit/ring/ring_fixture.hpp"

namespace vhost::tests {

inline constexpr std::uint16_t odd_size = 11;
using Ids = std::vector<std::uint16_t>;
using Bytes = std::vector<std::byte>;

class PackedInflightTest : public PackedRingTest {
 protected:
  PackedInflightTest() : PackedRingTest({.size = odd_size}) {
    auto region = make_inflight_region(1, odd_size);
    auto mapped = Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes);
    region_ = std::make_shared<const Mapping>(std::move(*mapped));
  }
  [[nodiscard]] PackedInflightSection section() const {
    return {region_, region_->bytes(), odd_size};
  }
  [[nodiscard]] PackedInflightHeader& header() const {
    return *reinterpret_cast<PackedInflightHeader*>(region_->bytes().data());
  }
  [[nodiscard]] PackedInflightEntry& entry(std::uint16_t at) const {
    return reinterpret_cast<PackedInflightEntry*>(region_->bytes().data() +
                                                  sizeof(PackedInflightHeader))[at];
  }
  [[nodiscard]] int marked() const {
    int count = 0;
    for (std::uint16_t i = 0; i < odd_size; ++i) count += entry(i).inflight == 1;
    return count;
  }

  PackedRing start() { return make(driver_.setup(), section()); }
  [[nodiscard]] bool starts() const {
    return PackedRing::create(driver_.setup(), map_, section()).has_value();
  }
  Ids pop(PackedRing& ring, int count) {
    Ids ids;
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(ring.pop(chain_), Pop::ready);
      ids.push_back(chain_.head);
    }
    return ids;
  }
  /// Chains of 1, 2, 3, 1, 2, 3 ... slots.
  Ids add(int count) {
    Ids ids;
    for (int i = 0; i < count; ++i) {
      const std::vector<Buffer> buffers(1 + static_cast<std::size_t>(i) % 3,
                                        Buffer{data_at, static_cast<std::uint32_t>(10 + i), true});
      ids.push_back(driver_.add(buffers));
    }
    return ids;
  }
  Ids take_all_used() {
    Ids ids;
    while (const auto used = driver_.take_used())
      ids.push_back(static_cast<std::uint16_t>(used->id));
    return ids;
  }
  /// Everything that pop() still has.
  Ids drain(PackedRing& ring) {
    Ids ids;
    Pop answer = Pop::ready;
    while ((answer = ring.pop(chain_)) == Pop::ready) ids.push_back(chain_.head);
    EXPECT_EQ(answer, Pop::empty);
    return ids;
  }

  std::shared_ptr<const Mapping> region_;
};

}  // namespace vhost::tests
