#pragma once
#include <vector>

#include <gtest/gtest.h>

#include "libvhost/ring/ring.hpp"
#include "tests/fakes/fake_driver.hpp"
#include "tests/fakes/fake_packed_driver.hpp"

namespace vhost::tests {

using fakes::Buffer;
using fakes::DriverOptions;
using fakes::FakeOddPackedDriver;
using fakes::FakePackedDriver;
using fakes::FakeSplitDriver;
using fakes::GuestMemory;

/// Where the tests put their buffers: behind the ring's areas.
inline constexpr std::uint64_t data_at = GuestMemory::low + (1 << 20);

using Lengths = std::vector<std::size_t>;
using U16s = std::vector<std::uint16_t>;

/// A driver, the ring it made and one chain to pop into.
template <class Driver>
class RingTest : public testing::Test {
 protected:
  using DeviceRing = typename Driver::DeviceRing;

  explicit RingTest(DriverOptions options = {}) : driver_(memory_, options) {}

  DeviceRing make() { return make(driver_.setup()); }
  DeviceRing make(std::uint32_t base) { return make(driver_.setup(base)); }
  DeviceRing make(const RingSetup& setup, typename Driver::Section inflight = {}) {
    auto ring = DeviceRing::create(setup, map_, std::move(inflight));
    EXPECT_TRUE(ring.has_value()) << ring.error().what;
    return std::move(*ring);
  }
  /// Chains of 16 bytes that the device may write; their heads.
  U16s add(int count) {
    U16s heads;
    for (int i = 0; i < count; ++i) heads.push_back(driver_.add({{data_at, 16, true}}));
    return heads;
  }
  /// The heads of so many chains.
  U16s pop(DeviceRing& ring, int count) {
    U16s heads;
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(ring.pop(chain_), Pop::ready);
      heads.push_back(chain_.head);
    }
    return heads;
  }
  /// Pops one chain, gives it back and shows it.
  Notify serve(DeviceRing& ring) {
    EXPECT_EQ(ring.pop(chain_), Pop::ready);
    ring.push(chain_.head, 0);
    return ring.publish();
  }
  /// What the device sees of one guest address.
  [[nodiscard]] const std::byte* device_view(std::uint64_t guest) const {
    MemoryMap::Hint hint;
    return map_->prefix(GuestAddress{memory_.physical(guest)}, 1, hint).data();
  }
  /// The lengths of the chain's pieces, readable ones first.
  [[nodiscard]] std::vector<std::size_t> lengths() const {
    std::vector<std::size_t> all;
    for (const iovec& piece : chain_.readable()) all.push_back(piece.iov_len);
    for (const iovec& piece : chain_.writable()) all.push_back(piece.iov_len);
    return all;
  }

  typename Driver::Memory memory_;
  std::shared_ptr<const MemoryMap> map_ = memory_.map();
  Driver driver_;
  std::vector<iovec> room_ = std::vector<iovec>(2048);
  Chain chain_{room_};
};

using Drivers = testing::Types<FakeSplitDriver, FakePackedDriver, FakeOddPackedDriver>;

/// The split layout, with the raw writes of a driver that breaks the rules.
class SplitRingTest : public RingTest<FakeSplitDriver> {
 protected:
  explicit SplitRingTest(DriverOptions options = {}) : RingTest(options) {}

  /// What comes of a ring whose first chain begins with descriptor 0.
  Pop pop_first() {
    driver_.offer(0);
    SplitRing ring = make();
    const Pop answer = ring.pop(chain_);
    if (answer == Pop::broken) {
      EXPECT_EQ(ring.pop(chain_), Pop::broken) << "broken is final";
    }
    return answer;
  }
};

/// The packed layout, with the raw writes of a driver that breaks the rules.
class PackedRingTest : public RingTest<FakePackedDriver> {
 protected:
  explicit PackedRingTest(DriverOptions options = {}) : RingTest(options) {}

  /// What comes of a ring in which this is the first descriptor, and the others follow it.
  Pop pop_of(std::initializer_list<PackedDesc> descriptors) {
    driver_.write(descriptors);
    PackedRing ring = make();
    const Pop answer = ring.pop(chain_);
    if (answer == Pop::broken) {
      EXPECT_EQ(ring.pop(chain_), Pop::broken) << "broken is final";
    }
    return answer;
  }
};

}  // namespace vhost::tests
