#pragma once
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

/*
 * Where the headers of a frame lie: Ethernet, VLAN tags, IPv4 with options or IPv6 with extension
 * headers, TCP or UDP. Only the head of the frame is looked at, and what does not lie in it wholly
 * is not found.
 *
 * Every step goes forward by at least one header's shortest length, so that no chain of extension
 * headers is longer than the head.
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

/// IP protocol numbers
namespace ip {
inline constexpr std::uint8_t hop_by_hop = 0;
inline constexpr std::uint8_t tcp = 6;
inline constexpr std::uint8_t udp = 17;
inline constexpr std::uint8_t routing = 43;
inline constexpr std::uint8_t fragment = 44;
inline constexpr std::uint8_t icmp6 = 58;
inline constexpr std::uint8_t destination_options = 60;
inline constexpr std::uint8_t sctp = 132;
}  // namespace ip

/// The MAC addresses of the Ethernet header are at 0 (destination) and 6 (source).
inline constexpr std::size_t source_mac_offset = 6;
inline constexpr std::size_t ether_type_offset = 12;
inline constexpr std::size_t tci_offset = 14;

/// A header of IPv6 whose first byte names what follows, and whose second says its length.
[[nodiscard]] constexpr bool is_extension(std::uint8_t protocol) {
  return protocol == ip::hop_by_hop || protocol == ip::routing ||
         protocol == ip::destination_options;
}

inline constexpr std::size_t ipv4_bytes = 20;
inline constexpr std::size_t ipv6_bytes = 40;
inline constexpr std::size_t tcp_bytes = 20;
inline constexpr std::size_t udp_bytes = 8;
inline constexpr std::size_t fragment_bytes = 8;

/// Where the checksum lies in the header, as a checksum request says it.
inline constexpr std::uint16_t tcp_checksum = 16;
inline constexpr std::uint16_t udp_checksum = 6;

/// A 16-bit number in network byte order: to it, and from it.
[[nodiscard]] constexpr std::uint16_t big_endian(std::uint16_t number) {
  return std::byteswap(number);
}

/// The number at `offset`. The caller has seen that it lies in `bytes`.
[[nodiscard]] inline std::uint16_t number_at(std::span<const std::byte> bytes, std::size_t offset) {
  assert(offset + sizeof(std::uint16_t) <= bytes.size());
  std::uint16_t number;
  std::memcpy(&number, bytes.subspan(offset, sizeof number).data(), sizeof number);
  return big_endian(number);
}

[[nodiscard]] constexpr bool is_tag(std::uint16_t type) {
  return type == ether_type::vlan || type == ether_type::service_vlan;
}

/// The tags that a sender may have put into a frame.
inline constexpr unsigned most_tags = 2;

/// The length of the Ethernet header and its tags, at most `tags` of them: what follows is named by
/// the number in front. The head has at least an Ethernet header's bytes.
[[nodiscard]] std::size_t link_bytes(std::span<const std::byte> head, unsigned tags);

struct NetworkHeader {
  std::uint16_t type;  ///< of what begins at offset; a tag's if there are too many or it is cut off
  std::size_t offset;
};

/// What is behind the Ethernet header and most_tags at most.
[[nodiscard]] NetworkHeader network_header(std::span<const std::byte> head);

/// Whether these two bytes of an IPv4 header, at 6, say that it is a fragment's: they have an
/// offset, or more are to come.
[[nodiscard]] constexpr bool says_fragment(std::uint16_t number) {
  return (number & 0x3fff) != 0;
}

/// Positions in the frame.
struct Headers {
  std::uint16_t network;          ///< of the IP header
  std::uint16_t transport;        ///< of the TCP or UDP header
  std::uint16_t payload;          ///< of what follows it
  std::uint16_t names_transport;  ///< of the byte that says TCP or UDP
  bool ipv6;
  std::uint8_t protocol;  ///< ip::tcp or ip::udp

  [[nodiscard]] bool operator==(const Headers&) const = default;
};

/// Nothing: it is no TCP or UDP over IP, a fragment, or does not lie wholly in the head.
[[nodiscard]] std::optional<Headers> parse_headers(std::span<const std::byte> head, unsigned tags);

}  // namespace net
