#pragma once
#include <cstdint>

#include "libvhost/wire/bytes.hpp"

/*
 * The bytes of vhost-user: message ids, feature bits and payload layouts.
 *
 * Numbers are in the byte order of the host (vhost-user, "Message Specification"). Nothing here
 * is checked: libvhost/session/request_table.hpp says which sizes, descriptors and states go with
 * which message.
 */
namespace vhost {

/// Messages from the front-end (vhost-user, "Front-end message types").
enum class Request : std::uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_mem_table = 5,
  set_log_base = 6,
  set_log_fd = 7,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  send_rarp = 19,
  net_set_mtu = 20,
  set_backend_req_fd = 21,
  iotlb_msg = 22,
  get_config = 24,
  set_config = 25,
  postcopy_advise = 28,
  postcopy_listen = 29,
  postcopy_end = 30,
  get_inflight_fd = 31,
  set_inflight_fd = 32,
  reset_device = 34,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
  set_status = 39,
  get_status = 40,
  get_vring_base_skip_drain = 45,
};

/// Messages to the front-end, on the back-end channel ("Back-end message types").
enum class BackendRequest : std::uint32_t {
  iotlb_msg = 1,
  config_change = 2,
};

struct Header {
  std::uint32_t request;
  std::uint32_t flags;
  std::uint32_t payload_bytes;
};
static_assert(Wire<Header> && sizeof(Header) == 12);

inline constexpr std::uint32_t header_version = 0x1;
inline constexpr std::uint32_t header_version_mask = 0x3;
inline constexpr std::uint32_t header_reply = 0x4;
inline constexpr std::uint32_t header_need_reply = 0x8;

inline constexpr std::size_t max_message_fds = 8;
/// The largest payload we read. The largest we know is a configuration space of 256 bytes.
inline constexpr std::size_t max_payload_bytes = 4096;

/// Bits of GET_FEATURES that belong to the transport (VIRTIO 6) and to vhost itself.
namespace feature {
inline constexpr unsigned notify_on_empty = 24;
inline constexpr unsigned log_all = 26;
inline constexpr unsigned any_layout = 27;
inline constexpr unsigned indirect_desc = 28;
inline constexpr unsigned event_idx = 29;
inline constexpr unsigned protocol_features = 30;
inline constexpr unsigned version_1 = 32;
inline constexpr unsigned access_platform = 33;
inline constexpr unsigned ring_packed = 34;
inline constexpr unsigned in_order = 35;
}  // namespace feature

/// Bits of GET_PROTOCOL_FEATURES.
namespace protocol_feature {
inline constexpr unsigned mq = 0;
inline constexpr unsigned log_shmfd = 1;
inline constexpr unsigned rarp = 2;
inline constexpr unsigned reply_ack = 3;
inline constexpr unsigned mtu = 4;
inline constexpr unsigned backend_req = 5;
inline constexpr unsigned pagefault = 8;
inline constexpr unsigned config = 9;
inline constexpr unsigned backend_send_fd = 10;
inline constexpr unsigned inflight_shmfd = 12;
inline constexpr unsigned reset_device = 13;
inline constexpr unsigned configure_mem_slots = 15;
inline constexpr unsigned status = 16;
inline constexpr unsigned get_vring_base_inflight = 20;
inline constexpr unsigned gpa_addresses = 21;
inline constexpr unsigned get_vring_base_skip_drain = 23;
}  // namespace protocol_feature

[[nodiscard]] constexpr std::uint64_t bit(unsigned number) {
  return std::uint64_t{1} << number;
}
[[nodiscard]] constexpr bool has(std::uint64_t features, unsigned number) {
  return (features & bit(number)) != 0;
}

/// SET_VRING_NUM, _BASE, _ENABLE and both directions of GET_VRING_BASE, with or without
/// _SKIP_DRAIN.
struct VringState {
  std::uint32_t index;
  std::uint32_t value;
};
static_assert(Wire<VringState> && sizeof(VringState) == 8);

inline constexpr std::uint32_t vring_flag_log = 0x1;

/// SET_LOG_BASE: where in the shared file the dirty log lies.
struct LogDescription {
  std::uint64_t size_bytes;
  std::uint64_t offset_bytes;
};
static_assert(Wire<LogDescription> && sizeof(LogDescription) == 16);

/// SET_VRING_ADDR. The addresses are those of the front-end's own process; with GPA_ADDRESSES, the
/// guest's.
struct VringAddr {
  std::uint32_t index;
  std::uint32_t flags;
  std::uint64_t descriptors;
  std::uint64_t used;
  std::uint64_t available;
  std::uint64_t log;
};
static_assert(Wire<VringAddr> && sizeof(VringAddr) == 40);

/// SET_VRING_KICK, _CALL and _ERR carry a u64: the ring in bits 0-7, and bit 8 for "no fd".
inline constexpr std::uint64_t vring_index_mask = 0xff;
inline constexpr std::uint64_t vring_no_fd = 0x100;

struct MemoryRegion {
  std::uint64_t guest_address;
  std::uint64_t size_bytes;
  std::uint64_t frontend_address;
  std::uint64_t mmap_offset_bytes;
};
static_assert(Wire<MemoryRegion> && sizeof(MemoryRegion) == 32);

/// Begins SET_MEM_TABLE; `count` regions follow, with one descriptor each.
struct MemoryTableHeader {
  std::uint32_t count;
  std::uint32_t padding;
};
static_assert(Wire<MemoryTableHeader> && sizeof(MemoryTableHeader) == 8);
inline constexpr std::size_t max_table_regions = 8;

/// ADD_MEM_REG and REM_MEM_REG.
struct SingleRegion {
  std::uint64_t padding;
  MemoryRegion region;
};
static_assert(Wire<SingleRegion> && sizeof(SingleRegion) == 40);

/// Begins GET_CONFIG and SET_CONFIG; `size_bytes` bytes follow, in both directions.
struct ConfigHeader {
  std::uint32_t offset_bytes;
  std::uint32_t size_bytes;
  std::uint32_t flags;
};
static_assert(Wire<ConfigHeader> && sizeof(ConfigHeader) == 12);
inline constexpr std::uint32_t config_flag_migration = 0x1;
inline constexpr std::size_t max_config_bytes = 256;

/// GET_INFLIGHT_FD and SET_INFLIGHT_FD. 24 bytes on the wire: QEMU sends the tail padding too.
struct InflightDescription {
  std::uint64_t mmap_size_bytes;
  std::uint64_t mmap_offset_bytes;
  std::uint16_t queues;
  std::uint16_t queue_size;
  std::uint32_t padding;
};
static_assert(Wire<InflightDescription> && sizeof(InflightDescription) == 24);

/// What an IotlbMessage is (the kernel's vhost_iotlb_msg).
enum class IotlbType : std::uint8_t { miss = 1, update = 2, invalidate = 3, access_fail = 4 };

/// IOTLB_MSG, in both directions. `access` is 1 to read, 2 to write, 3 for both.
struct IotlbMessage {
  std::uint64_t iova;
  std::uint64_t size_bytes;
  std::uint64_t frontend_address;
  std::uint8_t access;
  std::uint8_t type;
  std::uint8_t padding[6];
};
static_assert(Wire<IotlbMessage> && sizeof(IotlbMessage) == 32);

/// Device status bits (VIRTIO 2.1), as SET_STATUS and GET_STATUS carry them.
namespace status {
inline constexpr std::uint8_t acknowledge = 1;
inline constexpr std::uint8_t driver = 2;
inline constexpr std::uint8_t driver_ok = 4;
inline constexpr std::uint8_t features_ok = 8;
inline constexpr std::uint8_t needs_reset = 64;
inline constexpr std::uint8_t failed = 128;
}  // namespace status

}  // namespace vhost
