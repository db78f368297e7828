#pragma once
#include "libvhost/frontend/driver_ring.hpp"

namespace bench {

/// A device in the generator's own thread that finishes every request at once, unread: what a run
/// on it takes is what the generator itself costs.
class Loopback {
 public:
  explicit Loopback(const vhost::frontend::SplitDriverRing& ring)
      : available_(ring.available_area()), used_(ring.used_area()), mask_(ring.size() - 1u) {}

  void serve() {
    const std::uint16_t offered = u16(available_, 2).load(std::memory_order_acquire);
    if (offered == next_) return;
    for (; next_ != offered; ++next_) {
      const vhost::UsedElem element{u16(available_, 4 + (next_ & mask_) * 2).load(), 0};
      std::memcpy(used_.data() + 4 + (next_ & mask_) * sizeof element, &element, sizeof element);
    }
    u16(used_, 2).store(next_, std::memory_order_release);
  }

 private:
  static std::atomic_ref<std::uint16_t> u16(std::span<std::byte> area, std::size_t at) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(area.data() + at));
  }
  std::span<std::byte> available_, used_;
  std::size_t mask_;
  std::uint16_t next_ = 0;
};

}  // namespace bench
