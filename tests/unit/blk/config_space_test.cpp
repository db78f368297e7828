#include "backends/blk/config_space.hpp"

#include <array>
#include <cstring>

#include <gtest/gtest.h>

#include "backends/blk/cache_mode.hpp"

namespace blk {
namespace {

constexpr std::array<std::byte, 1> off{std::byte{0}};
constexpr std::array<std::byte, 1> on{std::byte{1}};

Disk writable_disk() {
  Disk disk;
  disk.size_bytes = 1 << 20;
  disk.logical_block_bytes = 4096;
  disk.physical_block_exp = 1;
  disk.alignment_offset = 3;
  disk.min_io_blocks = 2;
  disk.opt_io_blocks = 16;
  disk.can_discard = true;
  disk.discard_granularity_bytes = 4096;
  disk.max_discard_sectors = 1000;
  disk.can_write_zeroes = true;
  disk.write_zeroes_may_unmap = true;
  disk.max_write_zeroes_sectors = 2000;
  return disk;
}

Config whole(const ConfigSpace& space) {
  Config config;
  space.read(0, std::as_writable_bytes(std::span(&config, 1)));
  return config;
}

TEST(BlkConfigSpace, SaysWhatTheDiskIs) {
  const Config config = whole(ConfigSpace(writable_disk(), 7));
  EXPECT_EQ(config.capacity, 2048u);
  EXPECT_EQ(config.seg_max, 126u);
  EXPECT_EQ(config.blk_size, 4096u);
  EXPECT_EQ(config.topology.physical_block_exp, 1);
  EXPECT_EQ(config.topology.alignment_offset, 3);
  EXPECT_EQ(config.topology.min_io_size, 2);
  EXPECT_EQ(config.topology.opt_io_size, 16u);
  EXPECT_EQ(config.writeback, 1);
  EXPECT_EQ(config.num_queues, 7);
  EXPECT_EQ(config.max_discard_sectors, 1000u);
  EXPECT_EQ(config.max_discard_seg, max_segments);
  EXPECT_EQ(config.discard_sector_alignment, 8u);
  EXPECT_EQ(config.max_write_zeroes_sectors, 2000u);
  EXPECT_EQ(config.max_write_zeroes_seg, max_segments);
  EXPECT_EQ(config.write_zeroes_may_unmap, 1);
}

TEST(BlkConfigSpace, SegmentSizeIsNotZeroAndAFullRequestFitsOneLinuxWrite) {
  const Config config = whole(ConfigSpace(writable_disk(), 1));
  EXPECT_GT(config.size_max, 0u);
  EXPECT_LE(std::uint64_t{config.size_max} * config.seg_max, 0x7fff'f000u);
}

TEST(BlkConfigSpace, LeavesUnofferedFieldsZero) {
  Disk disk = writable_disk();
  disk.read_only = true;
  const Config config = whole(ConfigSpace(disk, 1));
  EXPECT_EQ(config.max_discard_sectors, 0u);
  EXPECT_EQ(config.max_discard_seg, 0u);
  EXPECT_EQ(config.max_write_zeroes_seg, 0u);
  EXPECT_EQ(config.zoned.model, 0);
}

TEST(BlkConfigSpace, ReadsAnyPieceAndZeroesBeyondItsEnd) {
  const ConfigSpace space(writable_disk(), 0x1234);
  std::array<std::byte, 2> queues{};
  space.read(34, queues);
  EXPECT_EQ(queues[0], std::byte{0x34});
  EXPECT_EQ(queues[1], std::byte{0x12});

  std::array<std::byte, 256> page;
  page.fill(std::byte{0xaa});
  space.read(0, page);
  EXPECT_EQ(page[34], std::byte{0x34});
  for (std::size_t i = sizeof(Config); i < page.size(); ++i) EXPECT_EQ(page[i], std::byte{0});
}

TEST(BlkConfigSpace, ReadsZeroesFromAnyOffsetBeyondItsEnd) {
  const ConfigSpace space(writable_disk(), 1);
  for (const std::uint32_t offset : {95u, 96u, 97u, 0xffff'ffffu}) {
    std::array<std::byte, 4> out;
    out.fill(std::byte{0xaa});
    space.read(offset, out);
    for (const std::byte b : out) EXPECT_EQ(b, std::byte{0}) << offset;
  }
}

TEST(BlkConfigSpace, LetsTheDriverToggleTheWriteCache) {
  ConfigSpace space(writable_disk(), 1);
  EXPECT_TRUE(space.write(32, off, feature::config_wce | feature::flush));
  EXPECT_EQ(whole(space).writeback, 0);
  EXPECT_TRUE(space.write(32, on, feature::config_wce | feature::flush));
  EXPECT_EQ(whole(space).writeback, 1);
}

TEST(BlkConfigSpace, RefusesEveryOtherWriteAndChangesNothing) {
  ConfigSpace space(writable_disk(), 1);
  const Config before = whole(space);
  const std::array<std::byte, 2> two{};
  const std::array<std::byte, 1> neither{std::byte{2}};
  EXPECT_FALSE(space.write(32, off, feature::flush));
  EXPECT_FALSE(space.write(31, off, feature::config_wce));
  EXPECT_FALSE(space.write(33, off, feature::config_wce));
  EXPECT_FALSE(space.write(32, two, feature::config_wce));
  EXPECT_FALSE(space.write(32, {}, feature::config_wce));
  EXPECT_FALSE(space.write(32, neither, feature::config_wce));
  EXPECT_FALSE(space.write(0, off, feature::config_wce));
  const Config after = whole(space);
  EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0);
}

TEST(BlkConfigSpace, CacheStartsOffForADriverThatCanSetItAndNotFlushIt) {
  ConfigSpace space(writable_disk(), 1);
  space.start_driver(feature::config_wce);
  EXPECT_EQ(whole(space).writeback, 0);
  space.start_driver(feature::config_wce | feature::flush);
  EXPECT_EQ(whole(space).writeback, 1);
}

TEST(BlkConfigSpace, NextDriverFindsTheCacheAsTheLastOneLeftIt) {
  ConfigSpace space(writable_disk(), 1);
  const std::uint64_t acked = feature::config_wce | feature::flush;
  ASSERT_TRUE(space.write(32, off, acked));
  space.start_driver(acked);
  EXPECT_EQ(whole(space).writeback, 0);
  EXPECT_TRUE(space.durable_writes(acked));
}

TEST(BlkConfigSpace, NextMachineFindsTheCacheAsTheDiskWasOpened) {
  ConfigSpace space(writable_disk(), 1);
  const std::uint64_t acked = feature::config_wce | feature::flush;
  ASSERT_TRUE(space.write(32, off, acked));
  space.forget_writeback();
  EXPECT_EQ(whole(space).writeback, 1);
  EXPECT_FALSE(space.durable_writes(acked));
}

TEST(BlkConfigSpace, WritesAreDurableWheneverTheDriverCannotFlush) {
  const ConfigSpace space(writable_disk(), 1);
  EXPECT_TRUE(space.durable_writes(0));
  EXPECT_FALSE(space.durable_writes(feature::flush));
}

TEST(BlkConfigSpace, WritesAreDurableWhileTheWriteCacheIsOff) {
  ConfigSpace space(writable_disk(), 1);
  const std::uint64_t acked = feature::config_wce | feature::flush;
  EXPECT_FALSE(space.durable_writes(acked));
  ASSERT_TRUE(space.write(32, off, acked));
  EXPECT_TRUE(space.durable_writes(acked));
}

TEST(BlkConfigSpace, WritesToAWritethroughDiskAreDurableForADriverThatFlushes) {
  Disk disk = writable_disk();
  disk.write_cache = false;
  const ConfigSpace space(disk, 1);
  EXPECT_EQ(whole(space).writeback, 0);
  EXPECT_TRUE(space.durable_writes(feature::flush));
}

TEST(BlkFeatures, OffersFlushAlwaysAndCacheControlWithIt) {
  EXPECT_TRUE(features(writable_disk(), 1) & feature::flush);
  EXPECT_TRUE(features(writable_disk(), 1) & feature::config_wce);
}

TEST(BlkFeatures, ReadOnlyDiskOffersNothingThatWrites) {
  Disk disk = writable_disk();
  disk.read_only = true;
  const std::uint64_t bits = features(disk, 1);
  EXPECT_TRUE(bits & feature::read_only);
  EXPECT_FALSE(bits & (feature::discard | feature::write_zeroes));
}

TEST(BlkFeatures, OffersDiscardAndWriteZeroesEachOnlyIfTheDiskCan) {
  Disk disk = writable_disk();
  EXPECT_TRUE(features(disk, 1) & feature::discard);
  EXPECT_TRUE(features(disk, 1) & feature::write_zeroes);
  EXPECT_FALSE(features(disk, 1) & feature::read_only);
  disk.can_discard = false;
  EXPECT_FALSE(features(disk, 1) & feature::discard);
  disk.can_write_zeroes = false;
  EXPECT_FALSE(features(disk, 1) & feature::write_zeroes);
}

TEST(BlkFeatures, OffersMultiQueueForMoreThanOneQueue) {
  EXPECT_FALSE(features(writable_disk(), 1) & feature::multi_queue);
  EXPECT_TRUE(features(writable_disk(), 2) & feature::multi_queue);
}

TEST(BlkCacheMode, MeansWhatItMeansInQemu) {
  struct Row {
    std::string_view text;
    bool direct, cache, no_flush;
  };
  constexpr std::array rows{Row{"none", true, true, false}, Row{"writeback", false, true, false},
                            Row{"writethrough", false, false, false},
                            Row{"directsync", true, false, false},
                            Row{"unsafe", false, true, true}};
  ASSERT_EQ(cache_mode_names.size(), rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& [text, mode] = cache_mode_names[i];
    EXPECT_EQ(text, rows[i].text);
    EXPECT_EQ(uses_direct_io(mode), rows[i].direct) << text;
    EXPECT_EQ(write_cache(mode), rows[i].cache) << text;
    EXPECT_EQ(ignores_flush(mode), rows[i].no_flush) << text;
    EXPECT_EQ(name(mode), text);
  }
}

}  // namespace
}  // namespace blk
