#pragma once
#include <bit>
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

/// Ethernet types
namespace ether {
inline constexpr std::uint16_t ipv4 = 0x0800;
inline constexpr std::uint16_t ipv6 = 0x86dd;
inline constexpr std::uint16_t tag = 0x8100;
inline constexpr std::uint16_t outer_tag = 0x88a8;
}  // namespace ether

/// IP protocol numbers
namespace ip {
inline constexpr std::uint8_t hop_by_hop = 0;
inline constexpr std::uint8_t tcp = 6;
inline constexpr std::uint8_t udp = 17;
inline constexpr std::uint8_t routing = 43;
inline constexpr std::uint8_t fragment = 44;
inline constexpr std::uint8_t destination_options = 60;
}  // namespace ip

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
  std::uint16_t number;
  std::memcpy(&number, bytes.subspan(offset, sizeof number).data(), sizeof number);
  return big_endian(number);
}

/// The tags that a sender may have put into a frame.
inline constexpr unsigned most_tags = 2;

/// The length of the Ethernet header and its tags, at most `tags` of them: what follows is named by
/// the number in front. The head has at least an Ethernet header's bytes.
[[nodiscard]] std::size_t link_bytes(std::span<const std::byte> head, unsigned tags);

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
