#include "backends/blk/config_space.hpp"

#include <algorithm>
#include <cstring>

namespace blk {

std::uint64_t features(const Disk& disk, std::uint16_t queues) {
  std::uint64_t bits =
      feature::size_max | feature::seg_max | feature::blk_size | feature::topology | feature::flush;
  if (queues > 1) bits |= feature::multi_queue;
  if (disk.read_only) return bits | feature::read_only;

  bits |= feature::config_wce;
  if (disk.can_discard) bits |= feature::discard;
  if (disk.can_write_zeroes) bits |= feature::write_zeroes;
  return bits;
}

ConfigSpace::ConfigSpace(const Disk& disk, std::uint16_t queues) : write_cache_(disk.write_cache) {
  config_.capacity = disk.sectors();
  config_.size_max = advertised_size_max;
  config_.seg_max = advertised_seg_max;
  config_.blk_size = disk.logical_block_bytes;
  config_.topology = {.physical_block_exp = disk.physical_block_exp,
                      .alignment_offset = disk.alignment_offset,
                      .min_io_size = disk.min_io_blocks,
                      .opt_io_size = disk.opt_io_blocks};
  config_.writeback = write_cache_ ? 1 : 0;
  config_.num_queues = queues;

  const std::uint64_t offered = features(disk, queues);
  if ((offered & feature::discard) != 0) {
    config_.max_discard_sectors = disk.max_discard_sectors;
    config_.max_discard_seg = max_segments;
    config_.discard_sector_alignment =
        std::max(1U, disk.discard_granularity_bytes / static_cast<std::uint32_t>(sector_bytes));
  }
  if ((offered & feature::write_zeroes) != 0) {
    config_.max_write_zeroes_sectors = disk.max_write_zeroes_sectors;
    config_.max_write_zeroes_seg = max_segments;
    config_.write_zeroes_may_unmap = disk.write_zeroes_may_unmap ? 1 : 0;
  }
}

void ConfigSpace::read(std::uint32_t offset_bytes, std::span<std::byte> out) const {
  Config now = config_;
  now.writeback = writeback_ && !held_off_ ? 1 : 0;
  const auto whole = std::as_bytes(std::span(&now, 1));
  std::ranges::fill(out, std::byte{0});
  if (offset_bytes >= whole.size()) return;
  const std::size_t length = std::min(out.size(), whole.size() - offset_bytes);
  std::ranges::copy(whole.subspan(offset_bytes, length), out.begin());
}

bool ConfigSpace::write(std::uint32_t offset_bytes, std::span<const std::byte> in,
                        std::uint64_t acked) {
  if ((acked & feature::config_wce) == 0) return false;
  if (offset_bytes != offsetof(Config, writeback) || in.size() != 1) return false;
  const auto value = std::to_integer<std::uint8_t>(in.front());
  if (value > 1) return false;
  writeback_ = value == 1;
  held_off_ = false;
  return true;
}

void ConfigSpace::start_driver(std::uint64_t acked) {
  const bool cannot_flush = (acked & feature::config_wce) != 0 && (acked & feature::flush) == 0;
  held_off_ = cannot_flush;
}

bool ConfigSpace::durable_writes(std::uint64_t acked) const {
  if ((acked & feature::config_wce) != 0) return !writeback_ || held_off_;
  if ((acked & feature::flush) == 0) return true;
  return !write_cache_;
}

}  // namespace blk
