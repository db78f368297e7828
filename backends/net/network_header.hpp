#pragma once
#include <bit>
#include <cstdint>

#include "backends/net/frame.hpp"

/*
 * Where a frame's network header is: what guard, flow hash and VLAN policy need to know of the
 * Ethernet header.
 */
namespace net {

namespace ether_type {
inline constexpr std::uint16_t ipv4 = 0x0800;
inline constexpr std::uint16_t arp = 0x0806;
inline constexpr std::uint16_t rarp = 0x8035;
inline constexpr std::uint16_t vlan = 0x8100;
inline constexpr std::uint16_t ipv6 = 0x86dd;
inline constexpr std::uint16_t service_vlan = 0x88a8;
}  // namespace ether_type

/// The MAC addresses of the Ethernet header are at 0 (destination) and 6 (source).
inline constexpr std::size_t source_mac_offset = 6;
inline constexpr std::size_t ether_type_offset = 12;
inline constexpr std::size_t tci_offset = 14;

/// A field of two bytes as networks order them.
[[nodiscard]] inline std::uint16_t network16(const Frame& frame, std::size_t offset) {
  static_assert(std::endian::native == std::endian::little);
  return std::byteswap(frame.field<std::uint16_t>(offset));
}

[[nodiscard]] inline bool is_tag(std::uint16_t type) {
  return type == ether_type::vlan || type == ether_type::service_vlan;
}

struct NetworkHeader {
  std::uint16_t type;  ///< of what begins at offset; a tag's if there are too many or it is cut off
  std::size_t offset;
};

/// Looks behind two tags at most.
[[nodiscard]] inline NetworkHeader network_header(const Frame& frame) {
  NetworkHeader header{network16(frame, ether_type_offset), ethernet_bytes};
  for (int tags = 0; tags < 2 && is_tag(header.type); ++tags) {
    if (header.offset + vlan_tag_bytes > frame.head().size()) break;
    header.type = network16(frame, header.offset + 2);
    header.offset += vlan_tag_bytes;
  }
  return header;
}

}  // namespace net
