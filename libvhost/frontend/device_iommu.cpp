// The parts of Device that stand for an IOMMU: what its driver calls an address is translated.
#include <algorithm>

#include "libvhost/frontend/device.hpp"

namespace vhost::frontend {
namespace {

/// The region that has a byte at this address of the driver's; null if none has.
const Region* region_at(const SharedMemory& memory, std::uint64_t address) {
  for (const auto& region : memory.regions()) {
    if (region && address - region->guest_address() < region->bytes().size()) return region.get();
  }
  return nullptr;
}

}  // namespace

std::optional<IotlbMessage> Device::translation(const IotlbMessage& miss) const {
  const Region* const region = region_at(memory_, miss.iova);
  if (region == nullptr) return std::nullopt;
  // Of the page, what the region has of it.
  const std::uint64_t begin = region->guest_address();
  const std::uint64_t first = std::max(miss.iova & ~(wishes_.iommu.page_bytes - 1), begin);
  const std::uint64_t end =
      std::min((miss.iova | (wishes_.iommu.page_bytes - 1)) + 1, begin + region->bytes().size());
  return IotlbMessage{first,
                      end - first,
                      as_shared(*region).frontend_address + (first - begin),
                      3,  // read and write
                      static_cast<std::uint8_t>(IotlbType::update),
                      {}};
}

Result<void> Device::invalidate(std::uint64_t address, std::uint64_t bytes) {
  return connection_.tell_iotlb(
      {address, bytes, 0, 0, static_cast<std::uint8_t>(IotlbType::invalidate), {}});
}

}  // namespace vhost::frontend
