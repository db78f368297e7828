#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "libvhost/memory/address.hpp"
#include "libvhost/memory/ledger.hpp"
#include "libvhost/memory/memory_map.hpp"

/* The words that all ring layouts share. */
namespace vhost {

/// `broken` is final until the front-end starts the ring anew, and never confused with `empty`.
/// `no_room`: the next chain has more pieces than the Chain has room for; it was not popped.
enum class Pop : std::uint8_t { ready, empty, broken, no_room };

enum class Notify : std::uint8_t { no, yes };

/// Where a chain in flight was popped from: unpop() gives it back there.
enum class Origin : std::uint8_t { not_in_flight, available, owed };

/// The longest chain that is served, where the ring itself is not longer. Drivers are known to
/// build longer indirect tables than VIRTIO 2.7.5.3.1 and 2.8.19 let them.
inline constexpr std::uint16_t longest_chain_at_least = 1024;

/// The longest chain behind an IOMMU that is served wherever its pages lie: a disk's requests may
/// be as long.
inline constexpr std::size_t most_scattered_bytes = std::size_t{32} << 20;
inline constexpr std::size_t smallest_page_bytes = 4096;

/// Everything that makes a ring, from SET_VRING_NUM, _ADDR, _BASE and the features.
struct RingSetup {
  std::uint16_t size = 0;
  FrontendAddress descriptors{};
  FrontendAddress available{};  ///< of a packed ring: the driver's event suppression
  FrontendAddress used{};       ///< of a packed ring: the device's
  std::uint32_t base = 0;
  bool event_idx = false;
  bool indirect = false;
  bool packed = false;
  bool iova = false;                 ///< the addresses of the areas are translated by the IOTLB
  bool log_used = false;             ///< what is written to the used ring goes into the dirty log,
  std::uint64_t log_address = 0;     ///< as if the used ring lay at this guest-physical address
  std::shared_ptr<Ledger> ledger{};  ///< for others to look into; null: the ring has its own

  /// Of the longest chain that is served.
  [[nodiscard]] std::size_t most_descriptors() const {
    return std::max(size, longest_chain_at_least);
  }
  /// With room for so many no chain is answered with no_room: a buffer is one piece, and one more
  /// for each boundary that lies in it, of a region or of a translated page. A chain of more is
  /// none that a driver has a use for.
  [[nodiscard]] std::size_t most_pieces() const {
    const std::size_t pages = iova ? most_scattered_bytes / smallest_page_bytes : 0;
    return most_descriptors() + MemoryMap::max_regions + pages;
  }
};

/// Why a ring does not start whose areas were not found, though no translation is missing.
[[nodiscard]] inline const char* no_areas(const RingSetup& setup) {
  return setup.iova
             ? "the ring's areas are not in the shared memory, or an IOMMU scatters them over "
               "huge pages; give the guest memory of small pages, or shorter queues"
             : "the ring's areas are not in the shared memory";
}

/// Chains ahead of the next one whose translations are asked for before they are needed.
inline constexpr std::uint16_t most_expected = 32;

/// There is an area, and it is aligned for numbers of `bytes`. The front-end's addresses are, but
/// a region may begin anywhere in its file.
[[nodiscard]] inline bool holds_numbers(const std::byte* area, std::size_t bytes) {
  return area != nullptr && reinterpret_cast<std::uintptr_t>(area) % bytes == 0;
}

}  // namespace vhost
