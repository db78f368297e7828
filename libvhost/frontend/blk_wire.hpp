#pragma once
#include <cstdint>

#include "libvhost/wire/bytes.hpp"

// The bytes of virtio-blk (VIRTIO 1.3, 5.2), as a driver writes and reads them.
namespace vhost::frontend {

inline constexpr std::uint32_t sector_bytes = 512;

namespace blk_feature {
inline constexpr unsigned size_max = 1;
inline constexpr unsigned seg_max = 2;
inline constexpr unsigned geometry = 4;
inline constexpr unsigned ro = 5;
inline constexpr unsigned blk_size = 6;
inline constexpr unsigned flush = 9;
inline constexpr unsigned topology = 10;
inline constexpr unsigned config_wce = 11;
inline constexpr unsigned mq = 12;
inline constexpr unsigned discard = 13;
inline constexpr unsigned write_zeroes = 14;
}  // namespace blk_feature

enum class BlkType : std::uint32_t {
  read = 0,
  write = 1,
  flush = 4,
  get_id = 8,
  discard = 11,
  write_zeroes = 13,
};

enum class BlkStatus : std::uint8_t {
  ok = 0,
  io_error = 1,
  unsupported = 2,
  untouched = 0xff,  ///< ours: the device said nothing
};

struct BlkHeader {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(Wire<BlkHeader> && sizeof(BlkHeader) == 16);

/// The data of DISCARD and WRITE_ZEROES.
struct BlkRange {
  std::uint64_t sector;
  std::uint32_t sectors;
  std::uint32_t flags;  ///< bit 0: unmap
};
static_assert(Wire<BlkRange> && sizeof(BlkRange) == 16);
inline constexpr std::uint32_t blk_range_unmap = 1;

inline constexpr std::size_t blk_id_bytes = 20;

/// struct virtio_blk_config, as far as vhost-user-blk carries it.
struct BlkConfig {
  std::uint64_t capacity_sectors;
  std::uint32_t size_max_bytes;
  std::uint32_t seg_max;
  std::uint16_t cylinders;
  std::uint8_t heads;
  std::uint8_t sectors;
  std::uint32_t blk_size_bytes;
  std::uint8_t physical_block_exponent;
  std::uint8_t alignment_offset;
  std::uint16_t min_io_blocks;
  std::uint32_t opt_io_blocks;
  std::uint8_t write_cache;
  std::uint8_t unused;
  std::uint16_t queues;
  std::uint32_t max_discard_sectors;
  std::uint32_t max_discard_segments;
  std::uint32_t discard_alignment_sectors;
  std::uint32_t max_write_zeroes_sectors;
  std::uint32_t max_write_zeroes_segments;
  std::uint8_t write_zeroes_may_unmap;
  std::uint8_t unused_end[7];  // 3 in the specification; the rest makes whole 8 bytes
};
static_assert(Wire<BlkConfig> && sizeof(BlkConfig) == 64);
inline constexpr std::uint32_t blk_config_bytes = 60;       ///< what is read of it
inline constexpr std::uint32_t blk_config_wce_offset = 32;  ///< the byte that may be written

}  // namespace vhost::frontend
