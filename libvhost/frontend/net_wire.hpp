#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "libvhost/wire/bytes.hpp"

// The bytes of virtio-net (VIRTIO 1.3, 5.1), as a driver writes and reads them.
namespace vhost::frontend {

/// Feature bits (5.1.3). HOST: what the device takes; GUEST: what the driver takes.
namespace net_feature {
inline constexpr unsigned csum = 0;
inline constexpr unsigned guest_csum = 1;
inline constexpr unsigned mtu = 3;
inline constexpr unsigned mac = 5;
inline constexpr unsigned guest_tso4 = 7;
inline constexpr unsigned guest_tso6 = 8;
inline constexpr unsigned guest_ecn = 9;
inline constexpr unsigned guest_ufo = 10;
inline constexpr unsigned host_tso4 = 11;
inline constexpr unsigned host_tso6 = 12;
inline constexpr unsigned host_ecn = 13;
inline constexpr unsigned host_ufo = 14;
inline constexpr unsigned mrg_rxbuf = 15;
inline constexpr unsigned status = 16;
inline constexpr unsigned ctrl_vq = 17;
inline constexpr unsigned guest_announce = 21;
inline constexpr unsigned mq = 22;
}  // namespace net_feature

using MacAddress = std::array<std::uint8_t, 6>;

/// The header in front of each frame (5.1.6).
struct NetHeader {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t hdr_len = 0;
  std::uint16_t gso_size = 0;
  std::uint16_t csum_start = 0;
  std::uint16_t csum_offset = 0;
  std::uint16_t num_buffers = 0;  ///< of a received frame; not on the wire of a legacy device
};
static_assert(Wire<NetHeader> && sizeof(NetHeader) == 12);
/// What is on the wire where neither VERSION_1 nor MRG_RXBUF was negotiated (5.1.6.1).
inline constexpr std::uint32_t net_legacy_header_bytes = offsetof(NetHeader, num_buffers);

/// flags
inline constexpr std::uint8_t net_needs_csum = 1;
inline constexpr std::uint8_t net_data_valid = 2;

/// gso_type
inline constexpr std::uint8_t net_gso_none = 0;
inline constexpr std::uint8_t net_gso_tcp4 = 1;
inline constexpr std::uint8_t net_gso_udp = 3;
inline constexpr std::uint8_t net_gso_tcp6 = 4;
inline constexpr std::uint8_t net_gso_ecn = 0x80;

/// The longest frame that segmentation makes of an IP packet, Ethernet header included.
inline constexpr std::uint32_t net_longest_frame = 65535 + 14;

}  // namespace vhost::frontend
