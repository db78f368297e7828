#pragma once
#include <algorithm>

#include "libvhost/frontend/driver_ring.hpp"

namespace bench {

/// A device in the generator's own thread that finishes every request at once, unread: what a run
/// on it takes is what the generator itself costs.
class Loopback {
 public:
  /// `written_bytes`: what it claims to have written into each chain.
  explicit Loopback(const vhost::frontend::SplitDriverRing& ring, std::uint32_t written_bytes = 0)
      : available_(ring.driver_area()),
        used_(ring.device_area()),
        mask_(ring.size() - 1u),
        written_bytes_(written_bytes) {}

  /// Finishes what is there, at most so many. How many.
  std::uint32_t serve(std::uint32_t most = ~std::uint32_t{0}) {
    const std::uint16_t offered = u16(available_, 2).load(std::memory_order_acquire);
    const std::uint32_t count =
        std::min<std::uint32_t>(static_cast<std::uint16_t>(offered - next_), most);
    if (count == 0) return 0;
    for (std::uint32_t i = 0; i < count; ++i, ++next_) {
      const vhost::UsedElem element{u16(available_, 4 + (next_ & mask_) * 2).load(),
                                    written_bytes_};
      std::memcpy(used_.data() + 4 + (next_ & mask_) * sizeof element, &element, sizeof element);
    }
    u16(used_, 2).store(next_, std::memory_order_release);
    return count;
  }

 private:
  static std::atomic_ref<std::uint16_t> u16(std::span<std::byte> area, std::size_t at) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(area.data() + at));
  }
  std::span<std::byte> available_, used_;
  std::size_t mask_;
  std::uint32_t written_bytes_;
  std::uint16_t next_ = 0;
};

}  // namespace bench
