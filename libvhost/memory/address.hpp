#pragma once
#include <cstdint>
#include <utility>

namespace vhost {

/// Where the guest's driver says that a buffer is: the address in a descriptor. It cannot be
/// dereferenced; only MemoryMap turns it into bytes.
enum class GuestAddress : std::uint64_t {};

/// Where the front-end has mapped guest memory in its own process: the addresses in
/// SET_VRING_ADDR. Another space, so another type.
enum class FrontendAddress : std::uint64_t {};

[[nodiscard]] constexpr GuestAddress operator+(GuestAddress address, std::uint64_t bytes) {
  return GuestAddress{std::to_underlying(address) + bytes};
}

}  // namespace vhost
