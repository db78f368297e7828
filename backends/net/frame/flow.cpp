#include "backends/net/frame/flow.hpp"

#include "backends/net/frame/headers.hpp"

namespace net {
namespace {

/// Spreads what differs in any bit. Not secret: who chooses addresses to meet in one queue slows
/// himself down.
constexpr std::uint64_t mix(std::uint64_t value) {
  value *= 0x9e37'79b9'7f4a'7c15;
  return value ^ value >> 32;
}

/// One sum for both directions: each side is mixed for itself, then they are added.
struct Sides {
  std::uint64_t one;
  std::uint64_t other;

  [[nodiscard]] std::uint32_t hash(std::uint8_t protocol) const {
    return static_cast<std::uint32_t>(mix(mix(one) + mix(other) + protocol) >> 32);
  }
};

bool has_ports(std::uint8_t protocol) {
  return protocol == ip::tcp || protocol == ip::udp || protocol == ip::sctp;
}

void add_ports(Sides& sides, const Frame& frame, std::size_t offset) {
  if (offset + 4 > frame.head().size()) return;
  sides.one += std::uint64_t{frame.field<std::uint16_t>(offset)} << 32;
  sides.other += std::uint64_t{frame.field<std::uint16_t>(offset + 2)} << 32;
}

std::uint32_t hash_ethernet(const Frame& frame) {
  const auto mac = [&](std::size_t offset) {
    return frame.field<std::uint32_t>(offset) |
           std::uint64_t{frame.field<std::uint16_t>(offset + 4)} << 32;
  };
  return Sides{mac(0), mac(source_mac_offset)}.hash(0);
}

std::uint32_t hash_ipv4(const Frame& frame, std::size_t at) {
  Sides sides{frame.field<std::uint32_t>(at + 12), frame.field<std::uint32_t>(at + 16)};
  const auto protocol = frame.field<std::uint8_t>(at + 9);
  const bool fragment = says_fragment(number_at(frame.head(), at + 6));
  if (has_ports(protocol) && !fragment) {
    add_ports(sides, frame, at + std::size_t{4} * (frame.field<std::uint8_t>(at) & 0x0f));
  }
  return sides.hash(protocol);
}

std::uint32_t hash_ipv6(const Frame& frame, std::size_t at) {
  const auto fold = [&](std::size_t offset) {
    return mix(frame.field<std::uint64_t>(offset)) ^ frame.field<std::uint64_t>(offset + 8);
  };
  Sides sides{fold(at + 8), fold(at + 24)};
  const auto protocol = frame.field<std::uint8_t>(at + 6);
  if (has_ports(protocol)) add_ports(sides, frame, at + ipv6_bytes);
  return sides.hash(protocol);
}

}  // namespace

std::uint32_t flow_hash(const Frame& frame) {
  const NetworkHeader header = network_header(frame.head());
  const std::size_t bytes = frame.head().size() - header.offset;
  if (header.type == ether_type::ipv4 && bytes >= ipv4_bytes) {
    return hash_ipv4(frame, header.offset);
  }
  if (header.type == ether_type::ipv6 && bytes >= ipv6_bytes) {
    return hash_ipv6(frame, header.offset);
  }
  return hash_ethernet(frame);
}

}  // namespace net
