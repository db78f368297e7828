// The configuration space as front-ends read it.
#include <sys/stat.h>

#include <cstring>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using vhost::frontend::BlkConfig;

class Config : public Served {};

TEST_F(Config, TellsTheDiskAndItsLimits) {
  serve({"--queues", "7"});
  auto disk = guest();
  const BlkConfig& config = disk->config();
  EXPECT_EQ(config.capacity_sectors, image_bytes / sector);
  EXPECT_EQ(config.seg_max, 126U);
  EXPECT_GT(config.size_max_bytes, 0U);
  EXPECT_EQ(config.blk_size_bytes, 512U);
  EXPECT_EQ(config.queues, 7);
  EXPECT_EQ(disk->device().max_queues(), 7U);
  EXPECT_EQ(config.write_cache, 1);
  EXPECT_GT(config.max_discard_sectors, 0U);
  EXPECT_EQ(config.max_discard_segments, 32U);
  EXPECT_GE(config.discard_alignment_sectors, 1U);
  EXPECT_GT(config.max_write_zeroes_sectors, 0U);
  EXPECT_EQ(config.max_write_zeroes_segments, 32U);
  EXPECT_EQ(config.write_zeroes_may_unmap, 1);
}

TEST_F(Config, TellsTheTopologyOfTheFile) {
  serve();
  auto disk = guest();
  struct stat file{};
  ASSERT_EQ(::stat(image.c_str(), &file), 0);
  const BlkConfig& config = disk->config();
  EXPECT_EQ(config.blk_size_bytes << config.physical_block_exponent, file.st_blksize);
  EXPECT_EQ(config.min_io_blocks * config.blk_size_bytes, file.st_blksize);
}

TEST_F(Config, AnswersQemusFiftySevenBytesAndSpdksWholeSpace) {
  serve();
  auto disk = guest();
  const auto qemu = must(disk->device().read_config(0, 57));
  const auto spdk = must(disk->device().read_config(0, 256));
  ASSERT_EQ(qemu.size(), 57U);
  ASSERT_EQ(spdk.size(), 256U);
  EXPECT_EQ(std::memcmp(qemu.data(), spdk.data(), 57), 0);
  for (std::size_t i = 96; i < 256; ++i) EXPECT_EQ(spdk[i], std::byte{0}) << i;
}

TEST_F(Config, AnswersEveryOffsetWithTheSameBytes) {
  serve();
  auto disk = guest();
  const auto whole = must(disk->device().read_config(0, 256));
  for (std::uint32_t at = 0; at < 256; at += 5) {
    const auto rest = must(disk->device().read_config(at, 256 - at));
    EXPECT_EQ(std::memcmp(rest.data(), whole.data() + at, rest.size()), 0) << at;
  }
}

TEST_F(Config, WriteCacheIsOffWhereEachWriteIsDurable) {
  serve({"--cache", "writethrough"});
  auto disk = guest();
  EXPECT_EQ(disk->config().write_cache, 0);
}

TEST_F(Config, TheDriverTurnsTheWriteCacheOffAndOn) {
  serve();
  auto disk = guest();
  must(disk->set_write_cache(false));
  must(disk->refresh_config());
  EXPECT_EQ(disk->config().write_cache, 0);
  disk.write(0, 1, 64 * kibi);
  EXPECT_TRUE(disk.reads(0, 1, 64 * kibi));
  must(disk->set_write_cache(true));
  must(disk->refresh_config());
  EXPECT_EQ(disk->config().write_cache, 1);
}

TEST_F(Config, NothingElseInItCanBeWritten) {
  serve();
  auto disk = guest();
  const auto before = must(disk->device().read_config(0, 96));
  const std::byte value{1};
  for (std::uint32_t at = 0; at < 96; ++at) {
    if (at == vhost::frontend::blk_config_wce_offset) continue;
    EXPECT_FALSE(disk->device().write_config(at, std::span(&value, 1))) << at;
  }
  const std::byte two{2};
  EXPECT_FALSE(
      disk->device().write_config(vhost::frontend::blk_config_wce_offset, std::span(&two, 1)));
  EXPECT_EQ(must(disk->device().read_config(0, 96)), before);
}

TEST_F(Config, AReadOnlyDiskOffersNothingThatWrites) {
  serve({"--read-only"});
  auto disk = guest();
  using namespace vhost::frontend::blk_feature;
  for (const unsigned feature : {discard, write_zeroes, config_wce}) {
    EXPECT_FALSE(vhost::has(disk->device().offered_features(), feature)) << feature;
  }
  EXPECT_EQ(disk->config().max_discard_sectors, 0U);
}

}  // namespace
}  // namespace integration
