// What an IOMMU takes back while the storage is slow: a frozen file system ends no write.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cstdlib>
#include <thread>

#include "tests/integration/iommu.hpp"

namespace integration {
namespace {

/// A file system of its own, whose writes stand still while it is frozen.
class FrozenFolder {
 public:
  explicit FrozenFolder(const Folder& folder) : path_(folder / "frozen") {
    const std::string file = make_image(folder, 32 * mebi, "ext4");
    const std::string make = "mkfs.ext4 -q " + file + " && mount -o loop " + file + " " + path_;
    mounted_ = ::mkdir(path_.c_str(), 0700) == 0 &&
               std::system(("{ " + make + "; } >/dev/null 2>&1").c_str()) == 0;
    if (mounted_) fd_ = vhost::UniqueFd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  FrozenFolder(const FrozenFolder&) = delete;
  FrozenFolder& operator=(const FrozenFolder&) = delete;
  ~FrozenFolder() {
    if (!mounted_) return;
    (void)thaw();
    fd_ = vhost::UniqueFd();
    ::umount2(path_.c_str(), MNT_DETACH);
  }
  [[nodiscard]] bool is_there() const { return mounted_; }
  [[nodiscard]] bool freeze() const { return ::ioctl(fd_.get(), FIFREEZE, 0) == 0; }
  [[nodiscard]] bool thaw() const { return ::ioctl(fd_.get(), FITHAW, 0) == 0; }

 private:
  std::string path_;
  vhost::UniqueFd fd_;
  bool mounted_ = false;
};

class IommuSlow : public TranslatedDisk {
 protected:
  void SetUp() override {
    storage.emplace(folder);
    if (!storage->is_there()) GTEST_SKIP() << "no file system can be mounted here";
    image = make_image(folder, 16 * mebi, "frozen/disk");
  }
  void TearDown() override {
    if (storage->is_there()) (void)storage->thaw();
    daemon.reset();
  }
  std::optional<FrozenFolder> storage;
};
INSTANTIATE_TEST_SUITE_P(Layouts, IommuSlow, testing::Bool(), layout_name);

TEST_P(IommuSlow, AnInvalidationWaitsForTheRequestThatUsesTheRangeAndForNoOther) {
  serve();
  auto disk = guest(options());
  auto& device = disk->device();
  const Buffer pages = disk.allocate(3 * page);
  fill(pages.bytes(), 7);
  const Segment middle = pages.segment(page, page);
  ASSERT_EQ(must(disk->perform({.type = BlkType::write, .data = std::span(&middle, 1)})),
            BlkStatus::ok);
  ASSERT_TRUE(storage->freeze());
  auto& queue = disk->queue(0);
  ASSERT_TRUE(queue.submit(
      {.type = BlkType::write, .sector = 64, .data = std::span(&middle, 1), .cookie = 9}));
  queue.kick();
  const auto in_flight = [&](const auto& s) {
    must(device.connection().serve_channel());
    return !s.at("queues").empty() && s.at("queues").at(0).at("in_flight") == 1;
  };
  (void)stats_when(stats, in_flight);

  // Whoever waited for the request would wait for ever.
  must(device.invalidate(middle.guest_address - page, page));
  must(device.invalidate(middle.guest_address + page, page));
  must(device.invalidate(middle.guest_address + (std::uint64_t{1} << 50), UINT64_MAX));
  vhost::frontend::BlkCompletion completion;
  EXPECT_EQ(queue.poll(completion), vhost::frontend::Poll::empty);

  std::atomic<bool> thawed = false;
  std::jthread later([&] {
    ::usleep(300'000);
    thawed = true;
    EXPECT_TRUE(storage->thaw());
  });
  must(device.invalidate(middle.guest_address + page - 1, 1));
  EXPECT_TRUE(thawed) << "the write had not ended";
  ASSERT_EQ(queue.poll(completion), vhost::frontend::Poll::done)
      << "who may use the page for something else knows that the device does not";
  EXPECT_EQ(completion.cookie, 9u);
  EXPECT_EQ(completion.status, BlkStatus::ok);
  ASSERT_EQ(must(disk->perform({.type = BlkType::read, .data = std::span(&middle, 1)})),
            BlkStatus::ok);
  const auto counts =
      stats_when(stats,
                 [](const auto& s) { return s.at("connection").at("iommu").at("drains") != 0; })
          .at("connection")
          .at("iommu");
  EXPECT_EQ(counts.at("drains"), 1);
  EXPECT_EQ(counts.at("invalidations"), 4);
}

TEST_P(IommuSlow, ARequestThatWaitsForATranslationHoldsUpNoInvalidation) {
  serve();
  auto disk = guest(options());
  auto& device = disk->device();
  disk.write(0, 1, page);
  const Buffer pages = disk.allocate(2 * page);
  fill(pages.bytes(), 7);
  const Segment both = pages.segment();
  must(device.invalidate(both.guest_address, 2 * page));  // the driver has used them before
  auto& queue = disk->queue(0);
  ASSERT_TRUE(queue.submit({.type = BlkType::write, .data = std::span(&both, 1)}));
  queue.kick();
  (void)stats_when(stats,
                   [](const auto& s) { return s.at("connection").at("iommu").at("waiting") == 2; });
  must(device.invalidate(both.guest_address, 2 * page));  // its misses are answered after this
  vhost::frontend::BlkCompletion completion;
  EXPECT_TRUE(eventually([&] {
    must(device.connection().serve_channel());
    return queue.poll(completion) == vhost::frontend::Poll::done;
  }));
  EXPECT_EQ(completion.status, BlkStatus::ok);
  EXPECT_TRUE(image_holds(0, 7, 2 * page));
}

}  // namespace
}  // namespace integration
