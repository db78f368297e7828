#pragma once
#include <map>
#include <set>

#include "tests/fakes/dirty_pages.hpp"
#include "tests/unit/ring/ring_fixture.hpp"

namespace vhost::tests {

using fakes::DirtyPages;
using Pages = std::set<std::uint64_t>;
inline constexpr std::uint64_t page = DirtyLog::page_bytes;

inline Pages pages_of(std::uint64_t at, std::uint64_t bytes) {
  Pages pages;
  for (std::uint64_t i = at / page; bytes != 0 && i <= (at + bytes - 1) / page; ++i) {
    pages.insert(i);
  }
  return pages;
}

inline std::uint64_t used_area(const FakeSplitDriver& driver) {
  return driver.used_at();
}
inline std::uint64_t used_area(const FakePackedDriver& driver) {
  return driver.device_event_at();
}

template <class Driver>
class RingLogTest : public RingTest<Driver> {
 protected:
  using Ring = typename Driver::DeviceRing;

  explicit RingLogTest(DriverOptions options = {.size = 16, .event_idx = true})
      : RingTest<Driver>(options) {
    logged_ = std::make_shared<const MemoryMap>(this->map_->logged_in(pages_.map()));
  }

  /// A ring whose writes are logged, its own areas' too unless told otherwise.
  Ring make_logged(bool log_used = true) {
    RingSetup setup = this->driver_.setup();
    setup.log_used = log_used;
    setup.log_address = used_area(this->driver_);
    auto ring = Ring::create(setup, logged_);
    EXPECT_TRUE(ring);
    EXPECT_TRUE(pages_.take().empty()) << "it has written nothing";
    return std::move(*ring);
  }

  /// The whole of the guest's memory.
  [[nodiscard]] std::map<std::uint64_t, std::vector<std::byte>> snapshot() const {
    std::map<std::uint64_t, std::vector<std::byte>> all;
    for (const MemoryRegion& region : this->memory_.regions()) {
      const std::byte* const begin = this->memory_.at(region.guest_address);
      all[region.guest_address].assign(begin, begin + region.size_bytes);
    }
    return all;
  }
  [[nodiscard]] Pages changed_since(
      const std::map<std::uint64_t, std::vector<std::byte>>& before) const {
    Pages changed;
    for (const auto& [start, bytes] : before) {
      for (std::uint64_t at = 0; at < bytes.size(); at += page) {
        if (std::memcmp(bytes.data() + at, this->memory_.at(start + at), page) != 0) {
          changed.insert((start + at) / page);
        }
      }
    }
    return changed;
  }
  /// Pops one chain and fills what is writable in it.
  void pop_and_fill(Ring& ring) {
    ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
    for (const iovec& piece : this->chain_.writable()) {
      std::memset(piece.iov_base, 0xab, piece.iov_len);
    }
  }

  DirtyPages pages_{(GuestMemory::far + GuestMemory::far_bytes) / page / 8};
  std::shared_ptr<const MemoryMap> logged_;
};

}  // namespace vhost::tests
