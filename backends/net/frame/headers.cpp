#include "backends/net/frame/headers.hpp"

#include "backends/net/frame/virtio_net.hpp"

namespace net {
namespace {

constexpr std::size_t type_bytes = 2;  // the last field of an Ethernet header, tags and all

unsigned byte_at(std::span<const std::byte> bytes, std::size_t offset) {
  return std::to_integer<unsigned>(bytes[offset]);
}

/// What stands behind the IP headers, and where.
struct Upper {
  std::size_t position;
  std::uint8_t protocol;
  std::size_t named_at;
};

std::optional<Upper> behind_ipv4(std::span<const std::byte> head, std::size_t network) {
  if (head.size() < network + ipv4_bytes) return std::nullopt;
  const auto header = head.subspan(network);
  const std::size_t length = (byte_at(header, 0) & 0xf) * std::size_t{4};
  if (byte_at(header, 0) >> 4 != 4 || length < ipv4_bytes) return std::nullopt;
  if (says_fragment(number_at(header, 6))) return std::nullopt;
  return Upper{network + length, static_cast<std::uint8_t>(header[9]), network + 9};
}

std::optional<Upper> behind_ipv6(std::span<const std::byte> head, std::size_t network) {
  if (head.size() < network + ipv6_bytes) return std::nullopt;
  if (byte_at(head, network) >> 4 != 6) return std::nullopt;
  Upper upper{network + ipv6_bytes, static_cast<std::uint8_t>(head[network + 6]), network + 6};
  while (is_extension(upper.protocol)) {
    const std::size_t at = upper.position;
    if (head.size() < at + 2) return std::nullopt;
    upper = {at + 8 + byte_at(head, at + 1) * std::size_t{8}, static_cast<std::uint8_t>(head[at]),
             at};
  }
  return upper;
}

/// The length of the TCP or UDP header; 0 if it is none or does not lie in the head.
std::size_t transport_bytes(std::span<const std::byte> head, const Upper& upper) {
  if (upper.position >= head.size()) return 0;
  const auto header = head.subspan(upper.position);
  std::size_t length = 0;
  if (upper.protocol == ip::udp) {
    length = udp_bytes;
  } else if (upper.protocol == ip::tcp && header.size() >= tcp_bytes) {
    length = (byte_at(header, 12) >> 4) * std::size_t{4};
    if (length < tcp_bytes) return 0;
  }
  return length <= header.size() ? length : 0;
}

}  // namespace

std::size_t link_bytes(std::span<const std::byte> head, unsigned tags) {
  std::size_t length = ethernet_bytes;
  for (; tags > 0 && head.size() >= length + vlan_tag_bytes; --tags) {
    if (!is_tag(number_at(head, length - type_bytes))) break;
    length += vlan_tag_bytes;
  }
  return length;
}

NetworkHeader network_header(std::span<const std::byte> head) {
  const std::size_t offset = link_bytes(head, most_tags);
  return {number_at(head, offset - type_bytes), offset};
}

std::optional<Headers> parse_headers(std::span<const std::byte> head, unsigned tags) {
  if (head.size() < ethernet_bytes) return std::nullopt;
  const std::size_t network = link_bytes(head, tags);
  const auto type = number_at(head, network - type_bytes);
  const bool ipv6 = type == ether_type::ipv6;
  if (!ipv6 && type != ether_type::ipv4) return std::nullopt;
  const auto upper = ipv6 ? behind_ipv6(head, network) : behind_ipv4(head, network);
  if (!upper) return std::nullopt;
  const std::size_t length = transport_bytes(head, *upper);
  if (length == 0) return std::nullopt;
  return Headers{.network = static_cast<std::uint16_t>(network),
                 .transport = static_cast<std::uint16_t>(upper->position),
                 .payload = static_cast<std::uint16_t>(upper->position + length),
                 .names_transport = static_cast<std::uint16_t>(upper->named_at),
                 .ipv6 = ipv6,
                 .protocol = upper->protocol};
}

}  // namespace net
