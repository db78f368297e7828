// What reaches the storage, and when: a loop device counts the flushes that the kernel sends it.
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

/// A loop device on a file; empty path() where there are none.
class LoopDevice {
 public:
  LoopDevice(const Folder& folder, const std::string& file) {
    const std::string answer = folder / "loop";
    const std::string command = "losetup --show -f " + file + " >" + answer + " 2>/dev/null";
    if (std::system(command.c_str()) != 0) return;
    path_ = read_text(answer);
    path_.erase(path_.find_last_not_of('\n') + 1);
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice() {
    if (!path_.empty()) (void)!std::system(("losetup -d " + path_).c_str());
  }
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Flushes that it has carried out (Documentation/block/stat.rst, the 16th field).
  [[nodiscard]] std::uint64_t flushes() const {
    const auto name = std::filesystem::path(path_).filename().string();
    std::istringstream fields(read_text("/sys/class/block/" + name + "/stat"));
    std::uint64_t value = 0;
    for (int field = 1; field <= 16; ++field) fields >> value;
    return value;
  }

 private:
  std::string path_;
};

class Storage : public Served {
 protected:
  void SetUp() override {
    loop.emplace(folder, make_image(folder, image_bytes));
    if (loop->path().empty()) GTEST_SKIP() << "no loop device can be set up here";
    image = loop->path();
  }
  void TearDown() override { daemon.reset(); }

  /// Flushes that ten writes cause.
  std::uint64_t flushes_of_writes(Guest& disk) {
    const std::uint64_t before = loop->flushes();
    for (std::uint64_t i = 0; i < 10; ++i) disk.write(i * 64, i + 1, 4096);
    return loop->flushes() - before;
  }
  std::uint64_t flushes_of_flush(Guest& disk) {
    disk.write(0, 5, 4096);
    const std::uint64_t before = loop->flushes();
    must(disk->flush());
    return loop->flushes() - before;
  }

  std::optional<LoopDevice> loop;
};

TEST_F(Storage, ALoopDeviceIsServedLikeAFile) {
  serve();
  {
    auto disk = guest();
    EXPECT_EQ(disk->capacity_bytes(), image_bytes);
    Load load(disk, {});
    load.run(500);
    load.verify();
    must(disk->write_zeroes(0, 64, true));
    must(disk->flush());
    EXPECT_EQ(read_file(image, 0, 64 * sector), std::vector<std::byte>(64 * sector));
  }
  EXPECT_EQ(daemon->terminate(), good_end);
}

struct Mode {
  const char* cache;
  bool each_write;  ///< is durable
  bool flushes;     ///< a flush is one
};
class StorageMode : public Storage, public ::testing::WithParamInterface<Mode> {};

TEST_P(StorageMode, IsToldToFlushWhenTheCacheModeSaysSo) {
  serve({"--cache", GetParam().cache});
  auto disk = guest();
  const auto writes = flushes_of_writes(disk);
  if (GetParam().each_write) {
    EXPECT_GE(writes, 10U);
  } else {
    EXPECT_EQ(writes, 0U);
  }
  EXPECT_EQ(flushes_of_flush(disk) > 0, GetParam().flushes);
}
INSTANTIATE_TEST_SUITE_P(EveryMode, StorageMode,
                         ::testing::Values(Mode{"none", false, true},
                                           Mode{"writeback", false, true},
                                           Mode{"writethrough", true, true},
                                           Mode{"directsync", true, true},
                                           Mode{"unsafe", false, false}),
                         [](const auto& test) { return std::string(test.param.cache); });

TEST_F(Storage, IsToldToFlushEachWriteWhileTheDriverHasTheWriteCacheOff) {
  serve();
  auto disk = guest();
  EXPECT_EQ(flushes_of_writes(disk), 0U);
  must(disk->set_write_cache(false));
  EXPECT_GE(flushes_of_writes(disk), 10U);
  must(disk->set_write_cache(true));
  EXPECT_EQ(flushes_of_writes(disk), 0U);
}

TEST_F(Storage, IsToldToFlushEachWriteOfADriverThatCannotFlush) {
  serve();
  auto disk = guest();
  must(disk->stop());
  auto& connection = disk->device().connection();
  using namespace vhost::frontend::blk_feature;
  const auto without = disk->device().features() & ~(vhost::bit(flush) | vhost::bit(config_wce));
  // The driver library wants FLUSH; what it told is told again without.
  must(connection.tell(vhost::Request::set_features, without));
  must(connection.tell(vhost::Request::set_vring_enable, vhost::VringState{0, 1}));
  const int kick = disk->device().queue(0).kick_fd();
  must(connection.tell(vhost::Request::set_vring_kick, std::uint64_t{0}, std::span(&kick, 1)));
  EXPECT_GE(flushes_of_writes(disk), 10U);
}

TEST_F(Storage, IsToldToFlushADiscardWhileTheWriteCacheIsOff) {
  serve({"--cache", "directsync"});
  auto disk = guest();
  const auto before = loop->flushes();
  must(disk->write_zeroes(0, 64, false));
  EXPECT_GT(loop->flushes(), before);
}

}  // namespace
}  // namespace integration
