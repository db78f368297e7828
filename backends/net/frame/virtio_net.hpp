#pragma once
#include <cstddef>
#include <cstdint>

#include "libvhost/wire/bytes.hpp"

/*
 * The bytes of virtio-net (VIRTIO 1.3, 5.1): feature bits, configuration space, the header in
 * front of each frame. Names and layouts only.
 *
 * Fields are in the order of a little-endian machine. A legacy guest of the other byte order is
 * not served, as everywhere in this project.
 */
namespace net {

/// Device feature bits (5.1.3), as masks.
namespace feature {
inline constexpr std::uint64_t csum = 1ULL << 0;        ///< we take frames without their checksum
inline constexpr std::uint64_t guest_csum = 1ULL << 1;  ///< the driver does
inline constexpr std::uint64_t mtu = 1ULL << 3;
inline constexpr std::uint64_t mac = 1ULL << 5;
inline constexpr std::uint64_t guest_tso4 = 1ULL << 7;
inline constexpr std::uint64_t guest_tso6 = 1ULL << 8;
inline constexpr std::uint64_t guest_ecn = 1ULL << 9;
inline constexpr std::uint64_t guest_ufo = 1ULL << 10;
inline constexpr std::uint64_t host_tso4 = 1ULL << 11;
inline constexpr std::uint64_t host_tso6 = 1ULL << 12;
inline constexpr std::uint64_t host_ecn = 1ULL << 13;
inline constexpr std::uint64_t host_ufo = 1ULL << 14;
inline constexpr std::uint64_t mergeable_buffers = 1ULL << 15;
inline constexpr std::uint64_t status = 1ULL << 16;
inline constexpr std::uint64_t control_queue = 1ULL << 17;
inline constexpr std::uint64_t guest_announce = 1ULL << 21;
inline constexpr std::uint64_t multi_queue = 1ULL << 22;
}  // namespace feature

/// The header in front of each frame (5.1.6) without its last field, num_buffers. All of it is
/// written by the guest, or by the kernel for a TAP: none of it is believed before check().
struct VnetHeader {
  std::uint8_t flags;
  std::uint8_t gso_type;
  std::uint16_t hdr_len;  ///< a hint; never used (5.1.6.2.2)
  std::uint16_t gso_size;
  std::uint16_t csum_start;
  std::uint16_t csum_offset;
};
static_assert(vhost::Wire<VnetHeader> && sizeof(VnetHeader) == 10);

/// flags
inline constexpr std::uint8_t needs_csum = 1;
inline constexpr std::uint8_t data_valid = 2;

/// gso_type
namespace gso {
inline constexpr std::uint8_t none = 0;
inline constexpr std::uint8_t tcp4 = 1;
inline constexpr std::uint8_t udp = 3;
inline constexpr std::uint8_t tcp6 = 4;
inline constexpr std::uint8_t ecn = 0x80;  ///< on top of tcp4 or tcp6
}  // namespace gso

/// num_buffers follows where MRG_RXBUF or VERSION_1 was negotiated (5.1.6.1).
inline constexpr std::size_t legacy_header_bytes = sizeof(VnetHeader);
inline constexpr std::size_t header_bytes = sizeof(VnetHeader) + sizeof(std::uint16_t);

/// struct virtio_net_config (5.1.4), as far as we fill it.
struct Config {
  std::uint8_t mac[6];
  std::uint16_t status;
  std::uint16_t max_virtqueue_pairs;
  std::uint16_t mtu;
};
static_assert(vhost::Wire<Config> && sizeof(Config) == 12);
inline constexpr std::uint16_t status_link_up = 1;

inline constexpr std::size_t ethernet_bytes = 14;
inline constexpr std::uint16_t vlan_tag_bytes = 4;
/// A guest's frame without segmentation: 9216 bytes and a tag; with it, what IP can say (and a
/// bit).
inline constexpr std::uint32_t longest_plain_frame = 9216 + vlan_tag_bytes;
inline constexpr std::uint32_t longest_frame = 65535 + ethernet_bytes + vlan_tag_bytes;

}  // namespace net
