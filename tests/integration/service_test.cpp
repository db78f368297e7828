// What a guest gets: its data, in every cache mode, from every kind of image.
#include <sys/stat.h>

#include <algorithm>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

class CacheMode : public Served, public ::testing::WithParamInterface<const char*> {};

TEST_P(CacheMode, WritesReachTheImageAndAreReadBack) {
  serve({"--cache", GetParam()});
  auto disk = guest();
  disk.write(0, 1, 256 * kibi);
  disk.write(99, 2, 512);
  disk.write(image_bytes / sector - 1, 3, 512);
  must(disk->flush());
  EXPECT_TRUE(image_holds(99, 2, 512));
  EXPECT_TRUE(image_holds(100, 2, 512) == false);
  EXPECT_TRUE(image_holds(image_bytes / sector - 1, 3, 512));
  EXPECT_TRUE(disk.reads(99, 2, 512));
}

TEST_P(CacheMode, ALoadOfManyRequestsIsVerified) {
  serve({"--cache", GetParam()});
  auto disk = guest();
  Load load(disk, {});
  load.run(sanitized ? 300 : 1500);
  load.verify();
}

TEST_P(CacheMode, DiscardAndWriteZeroesLeaveZeroes) {
  serve({"--cache", GetParam()});
  auto disk = guest();
  disk.write(0, 1, 64 * kibi);
  must(disk->discard(0, 16));
  must(disk->write_zeroes(16, 16, false));
  must(disk->write_zeroes(32, 16, true));
  must(disk->write_zeroes(49, 3, true));  // of no alignment at all
  EXPECT_TRUE(all_zero(read_file(image, 0, 48 * sector)));
  EXPECT_TRUE(all_zero(read_file(image, 49 * sector, 3 * sector)));
  const auto whole = pattern(64 * kibi, 1);
  EXPECT_TRUE(std::ranges::equal(read_file(image, 48 * sector, sector),
                                 std::span(whole).subspan(48 * sector, sector)));
  EXPECT_TRUE(std::ranges::equal(read_file(image, 52 * sector, 76 * sector),
                                 std::span(whole).subspan(52 * sector)));
}

INSTANTIATE_TEST_SUITE_P(EveryMode, CacheMode,
                         ::testing::Values("none", "writeback", "writethrough", "directsync",
                                           "unsafe"),
                         [](const auto& test) { return std::string(test.param); });

class Service : public Served {};

TEST_F(Service, ADiscardGivesTheImagesBlocksBack) {
  serve();
  auto disk = guest();
  disk.write(0, 1, 8 * mebi);
  must(disk->flush());
  struct stat before{};
  struct stat after{};
  ASSERT_EQ(::stat(image.c_str(), &before), 0);
  must(disk->discard(0, 8 * mebi / sector));
  ASSERT_EQ(::stat(image.c_str(), &after), 0);
  EXPECT_LE(after.st_blocks + static_cast<blkcnt_t>(8 * mebi / sector), before.st_blocks + 64);
}

TEST_F(Service, ANullDiskReadsZeroesAndForgetsWrites) {
  daemon = std::make_unique<Daemon>(folder, Strings{"--socket-path", socket, "--null", "1G"});
  auto disk = guest();
  EXPECT_EQ(disk->capacity_bytes(), 1024 * mebi);
  disk.write(0, 1, 4096);
  std::vector<std::byte> content(4096, std::byte{1});
  must(disk->read(0, content));
  EXPECT_TRUE(all_zero(content));
  must(disk->flush());
}

TEST_F(Service, AReadOnlyDiskRefusesEveryChange) {
  serve();
  {
    auto disk = guest();
    disk.write(0, 1, 64 * kibi);
  }
  daemon->kill();
  restart({"--read-only"});
  auto disk = guest();
  EXPECT_TRUE(vhost::has(disk->device().features(), vhost::frontend::blk_feature::ro));
  const Buffer data = disk.allocate(4096);
  const Segment piece = data.segment();
  using enum BlkType;
  EXPECT_EQ(must(disk->perform({.type = write, .data = std::span(&piece, 1)})),
            BlkStatus::io_error);
  EXPECT_EQ(must(disk->perform({.type = discard, .sectors = 8})), BlkStatus::io_error);
  EXPECT_EQ(must(disk->perform({.type = write_zeroes, .sectors = 8})), BlkStatus::io_error);
  EXPECT_TRUE(disk.reads(0, 1, 64 * kibi));
  EXPECT_TRUE(image_holds(0, 1, 64 * kibi));
  disk.memory().release(data);
}

TEST_F(Service, TheSerialIsStableAndNeverEmpty) {
  serve();
  std::string first;
  {
    auto disk = guest();
    first = must(disk->get_id());
  }
  EXPECT_FALSE(first.empty());
  daemon->kill();
  restart();
  auto disk = guest();
  EXPECT_EQ(must(disk->get_id()), first);
}

TEST_F(Service, AnExplicitSerialMayHaveAllTwentyBytes) {
  serve({"--serial", "ABCDEFGHIJ0123456789"});
  auto disk = guest();
  EXPECT_EQ(must(disk->get_id()), "ABCDEFGHIJ0123456789");
}

TEST_F(Service, TwoImagesHaveDifferentSerials) {
  serve();
  std::string first;
  {
    auto disk = guest();
    first = must(disk->get_id());
  }
  daemon->kill();
  image = make_image(folder, image_bytes, "another");
  restart();
  auto disk = guest();
  EXPECT_NE(must(disk->get_id()), first);
}

}  // namespace
}  // namespace integration
