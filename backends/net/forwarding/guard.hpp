#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "backends/net/frame/frame.hpp"

/*
 * Refuses frames that claim to come from somebody else (Drop::spoofed).
 *
 * With a MAC address, frames must come from it, and so must what ARP says in them.
 *
 * With IP addresses, every frame must show that it comes from one of them: IPv4 and IPv6 by their
 * source, ARP by its sender, a neighbour advertisement also by its target. What cannot be shown is
 * refused: other types, headers that do not lie in the frame's head whole, three tags. Besides
 * these pass, because a guest needs them before it has an address:
 *   - DHCP: UDP from 0.0.0.0 port 68 to 255.255.255.255 port 67
 *   - ARP probes, whose sender is 0.0.0.0 (RFC 5227)
 *   - IPv6 from the link-local address that the MAC address gives (RFC 4291, appendix A), and from
 *     :: to link-local multicast (RFC 4862, 5.4)
 */
namespace net {

using MacAddress = std::array<std::uint8_t, 6>;
using Ipv4Address = std::array<std::uint8_t, 4>;
using Ipv6Address = std::array<std::uint8_t, 16>;

struct Guard {
  std::optional<MacAddress> mac;
  std::vector<Ipv4Address> ipv4;
  std::vector<Ipv6Address> ipv6;

  /// There is something to check.
  [[nodiscard]] bool active() const { return mac || checks_ip(); }
  /// IP addresses are limited: to none of a version that has none here.
  [[nodiscard]] bool checks_ip() const { return !ipv4.empty() || !ipv6.empty(); }
  [[nodiscard]] bool allows(const Frame& frame) const;
};

}  // namespace net
