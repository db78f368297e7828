#include "backends/net/forwarding/guard.hpp"

#include <algorithm>

#include "backends/net/frame/headers.hpp"

namespace net {
namespace {

constexpr std::uint8_t neighbour_advertisement = 136;  // RFC 4861, 4.4

constexpr Ipv4Address any4{};
constexpr Ipv4Address everyone4{255, 255, 255, 255};
constexpr Ipv6Address any6{};

template <class T>
bool listed(const std::vector<T>& list, const T& one) {
  return std::ranges::find(list, one) != list.end();
}

bool holds(const Frame& frame, std::size_t offset, std::size_t bytes) {
  return offset + bytes <= frame.head().size();
}

/// RFC 4291, appendix A.
Ipv6Address link_local_of(const MacAddress& mac) {
  return {
      0xfe,   0x80,   0,    0,    0,      0,      0,     0, static_cast<std::uint8_t>(mac[0] ^ 2),
      mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
}

/// Checks one frame behind its Ethernet header.
class Inspection {
 public:
  Inspection(const Guard& guard, const Frame& frame)
      : guard_(guard),
        frame_(frame),
        mac_(guard.mac.value_or(frame.field<MacAddress>(source_mac_offset))),
        header_(network_header(frame.head())) {}

  [[nodiscard]] bool passes() const {
    switch (header_.type) {
      case ether_type::arp:
      case ether_type::rarp: return arp();
      case ether_type::ipv4: return !guard_.checks_ip() || ipv4();
      case ether_type::ipv6: return !guard_.checks_ip() || ipv6();
      default: return !guard_.checks_ip();
    }
  }

 private:
  [[nodiscard]] bool arp() const {
    constexpr std::size_t arp_bytes = 28;
    // Ethernet addresses of 6 bytes for IPv4 addresses of 4 (RFC 826).
    constexpr std::array<std::uint8_t, 6> kind{0, 1, 8, 0, 6, 4};
    const std::size_t at = header_.offset;
    if (!holds(frame_, at, arp_bytes)) return false;
    if (frame_.field<std::array<std::uint8_t, 6>>(at) != kind) return false;
    if (frame_.field<MacAddress>(at + 8) != mac_) return false;
    if (!guard_.checks_ip()) return true;
    const auto sender = frame_.field<Ipv4Address>(at + 14);
    return sender == any4 || listed(guard_.ipv4, sender);
  }

  [[nodiscard]] bool ipv4() const {
    const std::size_t at = header_.offset;
    if (!holds(frame_, at, ipv4_bytes)) return false;
    if (frame_.field<std::uint8_t>(at) >> 4 != 4) return false;
    const auto source = frame_.field<Ipv4Address>(at + 12);
    return source == any4 ? dhcp() : listed(guard_.ipv4, source);
  }

  [[nodiscard]] bool dhcp() const {
    const std::size_t at = header_.offset;
    const auto words = static_cast<std::size_t>(frame_.field<std::uint8_t>(at) & 0x0f);
    const bool fragment = says_fragment(number_at(frame_.head(), at + 6));
    if (words < 5 || fragment || frame_.field<std::uint8_t>(at + 9) != ip::udp) return false;
    if (frame_.field<Ipv4Address>(at + 16) != everyone4) return false;
    const std::size_t ports = at + words * 4;
    return holds(frame_, ports, 4) && number_at(frame_.head(), ports) == 68 &&
           number_at(frame_.head(), ports + 2) == 67;
  }

  [[nodiscard]] bool ipv6() const {
    const std::size_t at = header_.offset;
    if (!holds(frame_, at, ipv6_bytes)) return false;
    if (frame_.field<std::uint8_t>(at) >> 4 != 6) return false;
    const auto source = frame_.field<Ipv6Address>(at + 8);
    if (source == any6) {
      if (number_at(frame_.head(), at + 24) != 0xff02) return false;
    } else if (!own(source)) {
      return false;
    }
    return advertises_own(frame_.field<std::uint8_t>(at + 6), at + ipv6_bytes);
  }

  [[nodiscard]] bool own(const Ipv6Address& address) const {
    return listed(guard_.ipv6, address) || address == link_local_of(mac_);
  }

  /// What begins here is no advertisement of a neighbour, or one of the guest itself. Extension
  /// headers could hide one, so they are walked; a fragment cannot be one (RFC 6980).
  [[nodiscard]] bool advertises_own(std::uint8_t type, std::size_t at) const {
    while (is_extension(type)) {
      if (!holds(frame_, at, 2)) return false;
      type = frame_.field<std::uint8_t>(at);
      at += (frame_.field<std::uint8_t>(at + 1) + std::size_t{1}) * 8;
    }
    if (type != ip::icmp6) return true;
    if (!holds(frame_, at, 1)) return false;
    if (frame_.field<std::uint8_t>(at) != neighbour_advertisement) return true;
    return holds(frame_, at, 24) && own(frame_.field<Ipv6Address>(at + 8));
  }

  const Guard& guard_;
  const Frame& frame_;
  const MacAddress mac_;
  const NetworkHeader header_;
};

}  // namespace

bool Guard::allows(const Frame& frame) const {
  if (mac && frame.field<MacAddress>(source_mac_offset) != *mac) return false;
  return Inspection(*this, frame).passes();
}

}  // namespace net
