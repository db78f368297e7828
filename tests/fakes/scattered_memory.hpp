#pragma once
#include <optional>

#include "libvhost/memory/iotlb.hpp"
#include "tests/fakes/guest_memory.hpp"

namespace vhost::fakes {

/// A guest's memory behind an IOMMU. Its driver counts on through what it calls addresses, and each
/// page of them lies elsewhere in the same region: no two neighbours are neighbours there.
class ScatteredMemory : public GuestMemory {
 public:
  static constexpr std::uint64_t page = 4096;

  /// Where the page of the driver's address is known to the front-end; nothing: it is no address.
  [[nodiscard]] static std::optional<FrontendAddress> page_at(const MemoryMap& map,
                                                              std::uint64_t address) {
    for (const MemoryMap::Region& region : map.regions()) {
      const MemoryRegion& its = region.description;
      if (address - its.guest_address >= its.size_bytes) continue;
      return FrontendAddress{its.frontend_address +
                             (scattered(its, address) - its.guest_address) / page * page};
    }
    return std::nullopt;
  }

  [[nodiscard]] std::uint64_t physical(std::uint64_t address) const override {
    for (const MemoryRegion& region : regions()) {
      if (address - region.guest_address < region.size_bytes) return scattered(region, address);
    }
    return address;
  }
  /// Ring areas are told as the driver knows them.
  [[nodiscard]] std::uint64_t frontend(std::uint64_t address) const override { return address; }

  using GuestMemory::map;
  [[nodiscard]] std::shared_ptr<const MemoryMap> map(
      std::initializer_list<std::size_t> which, const MemoryMap& previous = {}) const override {
    return std::make_shared<const MemoryMap>(
        GuestMemory::map(which, previous)->translated_by(iotlb_));
  }

 protected:
  [[nodiscard]] std::span<std::byte> view(std::uint64_t address) const override {
    const auto bytes = GuestMemory::view(physical(address));
    return bytes.first(page - address % page);
  }

 private:
  static std::uint64_t scattered(const MemoryRegion& region, std::uint64_t address) {
    const std::uint64_t offset = address - region.guest_address;
    const std::uint64_t pages = region.size_bytes / page;  // a power of two: each page is hit once
    return region.guest_address + (offset / page * 7 + 3) % pages * page + offset % page;
  }

  std::shared_ptr<Iotlb> iotlb_ = *Iotlb::create(1);
};

}  // namespace vhost::fakes
