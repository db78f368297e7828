#pragma once
#include <cstddef>
#include <cstdint>

/*
 * The bytes of virtio-blk (VIRTIO 1.3, 5.2): feature bits, configuration space, requests.
 * Names and layouts only; what they mean to us is in config_space.hpp and request.hpp.
 *
 * Fields are in the order of a little-endian machine. A legacy guest of the other byte order is
 * not served, as everywhere in this project.
 */
namespace blk {

/// The unit of every sector number and count on the wire, whatever blk_size says (5.2.4).
inline constexpr std::uint64_t sector_bytes = 512;

/// Device feature bits (5.2.3), as masks.
namespace feature {
inline constexpr std::uint64_t size_max = 1ULL << 1;
inline constexpr std::uint64_t seg_max = 1ULL << 2;
inline constexpr std::uint64_t geometry = 1ULL << 4;
inline constexpr std::uint64_t read_only = 1ULL << 5;
inline constexpr std::uint64_t blk_size = 1ULL << 6;
inline constexpr std::uint64_t flush = 1ULL << 9;
inline constexpr std::uint64_t topology = 1ULL << 10;
inline constexpr std::uint64_t config_wce = 1ULL << 11;
inline constexpr std::uint64_t multi_queue = 1ULL << 12;
inline constexpr std::uint64_t discard = 1ULL << 13;
inline constexpr std::uint64_t write_zeroes = 1ULL << 14;
}  // namespace feature

/// struct virtio_blk_config (5.2.4), whole: a field beyond what was negotiated reads as zero.
struct Config {
  std::uint64_t capacity;  ///< sectors of 512 bytes
  std::uint32_t size_max;  ///< bytes
  std::uint32_t seg_max;
  struct Geometry {
    std::uint16_t cylinders;
    std::uint8_t heads;
    std::uint8_t sectors;
  } geometry;
  std::uint32_t blk_size;  ///< bytes; the unit of the topology
  struct Topology {
    std::uint8_t physical_block_exp;
    std::uint8_t alignment_offset;
    std::uint16_t min_io_size;
    std::uint32_t opt_io_size;
  } topology;
  std::uint8_t writeback;
  std::uint8_t unused0;
  std::uint16_t num_queues;
  std::uint32_t max_discard_sectors;
  std::uint32_t max_discard_seg;
  std::uint32_t discard_sector_alignment;  ///< sectors of 512 bytes
  std::uint32_t max_write_zeroes_sectors;
  std::uint32_t max_write_zeroes_seg;
  std::uint8_t write_zeroes_may_unmap;
  std::uint8_t unused1[3];
  std::uint32_t max_secure_erase_sectors;
  std::uint32_t max_secure_erase_seg;
  std::uint32_t secure_erase_sector_alignment;
  struct Zoned {
    std::uint32_t zone_sectors;
    std::uint32_t max_open_zones;
    std::uint32_t max_active_zones;
    std::uint32_t max_append_sectors;
    std::uint32_t write_granularity;
    std::uint8_t model;
    std::uint8_t unused2[3];
  } zoned;
};
static_assert(offsetof(Config, seg_max) == 12 && offsetof(Config, blk_size) == 20);
static_assert(offsetof(Config, topology) == 24 && offsetof(Config, writeback) == 32);
static_assert(offsetof(Config, num_queues) == 34 && offsetof(Config, max_discard_sectors) == 36);
static_assert(offsetof(Config, discard_sector_alignment) == 44);
static_assert(offsetof(Config, write_zeroes_may_unmap) == 56);
static_assert(offsetof(Config, max_secure_erase_sectors) == 60 && offsetof(Config, zoned) == 72);
static_assert(sizeof(Config) == 96);

/// Request types (5.2.6). Types of features that are never offered have no name here.
enum class Type : std::uint32_t {
  in = 0,
  out = 1,
  flush = 4,
  flush_out = 5,  ///< legacy synonym of flush (5.2.6.3)
  get_id = 8,
  discard = 11,
  write_zeroes = 13,
};

/// struct virtio_blk_req up to its data (5.2.6).
struct RequestHeader {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);

/// struct virtio_blk_discard_write_zeroes (5.2.6).
struct Segment {
  std::uint64_t sector;
  std::uint32_t num_sectors;
  std::uint32_t flags;
};
static_assert(sizeof(Segment) == 16);
inline constexpr std::uint32_t segment_flag_unmap = 1;

/// The answer to a request, its last writable byte (5.2.6).
enum class Status : std::uint8_t { ok = 0, io_error = 1, unsupported = 2 };

/// Length of the answer to get_id: ASCII, padded with NUL, no NUL if all are used (5.2.6).
inline constexpr std::size_t serial_bytes = 20;

}  // namespace blk
