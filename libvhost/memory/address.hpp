#pragma once
#include <cstdint>
#include <utility>

namespace vhost {

/// Where the guest's driver says that a buffer is: the address in a descriptor. It is an address of
/// the guest's memory or, with VIRTIO_F_ACCESS_PLATFORM, one that an IOMMU translates (an IOVA). It
/// cannot be dereferenced; only MemoryMap and Iotlb turn it into bytes.
enum class GuestAddress : std::uint64_t {};

/// Where the front-end has mapped guest memory in its own process: the addresses in
/// SET_VRING_ADDR, unless those are IOVAs. Another space, so another type; with GPA_ADDRESSES its
/// numbers are the guest's.
enum class FrontendAddress : std::uint64_t {};

/// What the device does with bytes of the guest's; also what an IOTLB entry permits.
enum class Access : std::uint8_t { none = 0, read = 1, write = 2, both = 3 };

[[nodiscard]] constexpr bool permits(Access granted, Access wanted) {
  return (std::to_underlying(granted) & std::to_underlying(wanted)) == std::to_underlying(wanted);
}

[[nodiscard]] constexpr GuestAddress operator+(GuestAddress address, std::uint64_t bytes) {
  return GuestAddress{std::to_underlying(address) + bytes};
}

}  // namespace vhost
