#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "backends/blk/virtio_blk.hpp"

namespace blk {

/// Segments of one discard or write-zeroes request, at most. A request carries them by value.
inline constexpr std::size_t max_segments = 32;

/// What a disk is to its guest, as plain data: the image fills it in (or `--null` does), the
/// configuration space and the request parser read it. Nothing in it needs a system call.
struct Disk {
  std::uint64_t size_bytes = 0;  ///< a multiple of 512
  bool read_only = false;
  bool write_cache = true;  ///< what the guest finds in `writeback`

  std::uint32_t logical_block_bytes = 512;
  std::uint8_t physical_block_exp = 0;  ///< physical block = logical block << exp
  std::uint8_t alignment_offset = 0;    ///< first aligned logical block
  std::uint16_t min_io_blocks = 1;      ///< logical blocks; preferred smallest request
  std::uint32_t opt_io_blocks = 0;      ///< logical blocks; 0: no preference

  bool can_discard = false;
  std::uint32_t discard_granularity_bytes = 512;
  std::uint32_t max_discard_sectors = 0;  ///< per segment

  bool can_write_zeroes = false;
  bool write_zeroes_may_unmap = false;
  std::uint32_t max_write_zeroes_sectors = 0;  ///< per segment

  /// The answer to get_id, padded with NUL.
  std::array<char, serial_bytes> serial{};

  [[nodiscard]] std::uint64_t sectors() const { return size_bytes / sector_bytes; }

  /// Takes up to 20 bytes; the rest of a longer text is dropped (see check_serial()).
  void set_serial(std::string_view text) {
    serial.fill('\0');
    text.substr(0, serial.size()).copy(serial.data(), serial.size());
  }
};

}  // namespace blk
