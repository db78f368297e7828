// Storage that fails under us, and front-ends that do not listen.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "tests/integration/hostile.hpp"

namespace integration {
namespace {

class Trouble : public Hostile {
 protected:
  void grow_image(std::uint64_t by) {
    ASSERT_EQ(::truncate(image.c_str(), static_cast<off_t>(image_bytes + by)), 0);
    daemon->signal(SIGHUP);
  }
};

TEST_F(Trouble, AnImageThatIsCutShortGivesErrorsAndNoEnd) {
  auto disk = guest();
  disk.write(0, 1, 4096);
  Load load(disk, {.first_sector = image_bytes / sector / 2});
  load.tolerate_errors();
  load.run(50);
  ASSERT_EQ(::truncate(image.c_str(), image_bytes / 2), 0);
  std::vector<std::byte> bytes(4096);
  EXPECT_FALSE(disk->read(image_bytes / sector - 8, bytes));
  EXPECT_TRUE(disk.reads(0, 1, 4096));
  ASSERT_EQ(::truncate(image.c_str(), image_bytes), 0);
  EXPECT_TRUE(disk->read(image_bytes / sector - 8, bytes));
}

TEST_F(Trouble, AShrunkImageToldBySighupIsSmaller) {
  auto disk = guest();
  ASSERT_EQ(::truncate(image.c_str(), image_bytes / 2), 0);
  daemon->signal(SIGHUP);
  EXPECT_TRUE(eventually([&] {
    must(disk->refresh_config());
    return disk->capacity_bytes() == image_bytes / 2;
  }));
  std::vector<std::byte> bytes(512);
  EXPECT_FALSE(disk->read(image_bytes / 2 / sector, bytes));
  EXPECT_TRUE(disk->read(image_bytes / 2 / sector - 1, bytes));
}

TEST_F(Trouble, ASizeThatIsNoneIsNotTaken) {
  auto disk = guest();
  for (const off_t size : {off_t{0}, off_t{513}, static_cast<off_t>(image_bytes + 1)}) {
    ASSERT_EQ(::truncate(image.c_str(), size), 0);
    daemon->signal(SIGHUP);
    ::usleep(20'000);
    must(disk->refresh_config());
    EXPECT_EQ(disk->capacity_bytes(), image_bytes) << size;
  }
  ASSERT_EQ(::truncate(image.c_str(), image_bytes), 0);
}

TEST_F(Trouble, AFullFileSystemFailsWritesAndServesOn) {
  const std::string small = folder / "small";
  ASSERT_EQ(::mkdir(small.c_str(), 0700), 0);
  if (::mount("none", small.c_str(), "tmpfs", 0, "size=8m") != 0) {
    GTEST_SKIP() << "no file system can be mounted here";
  }
  const auto unmount = [&](const void*) { ::umount2(small.c_str(), MNT_DETACH); };
  const std::unique_ptr<const std::string, decltype(unmount)> cleanup(&small, unmount);
  const std::string full = make_image(folder, image_bytes, "small/disk");
  const Folder other;
  Daemon second(other, {"--socket-path", other / "socket", "--blk-file", full});
  {
    Guest disk(other / "socket");
    disk.write(0, 1, mebi);
    std::uint64_t at = 2 * mebi / sector;
    while (at < 16 * mebi / sector && disk->write(at, pattern(mebi, 2))) at += mebi / sector;
    EXPECT_LT(at, 16 * mebi / sector) << "it never was full";
    EXPECT_TRUE(disk.reads(0, 1, mebi));
    must(disk->discard(2 * mebi / sector, 8 * mebi / sector));
    disk.write(2 * mebi / sector, 3, mebi);
    EXPECT_TRUE(disk.reads(2 * mebi / sector, 3, mebi));
  }
  EXPECT_EQ(second.terminate(), good_end);
}

TEST_F(Trouble, AnswersThatNobodyReadsEndTheConnection) {
  auto connection = stranger();
  bool refused = false;
  for (int i = 0; i < 20'000 && !refused; ++i) {
    refused = !connection.send_raw(static_cast<std::uint32_t>(Request::get_features), 0, {});
  }
  const auto first = read_stats(stats).at("uptime_ms");
  EXPECT_TRUE(eventually([&] { return read_stats(stats).at("uptime_ms") != first; }));
}

TEST_F(Trouble, AChannelThatNobodyReadsHoldsUpNobody) {
  auto disk = guest();
  for (std::uint64_t i = 1; i <= 600; ++i) {
    grow_image(i * sector);
    ::usleep(300);
  }
  disk.write(0, 1, 4096);
  EXPECT_TRUE(disk.reads(0, 1, 4096));
  EXPECT_TRUE(eventually([&] {
    must(disk->refresh_config());
    return disk->capacity_bytes() == image_bytes + 600 * sector;
  }));
}

TEST_F(Trouble, AChannelThatIsNoSocketOrFullAndBlockingHoldsUpNobody) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd full(pair[0]);
  const UniqueFd reader(pair[1]);
  const std::vector<char> bytes(65536);
  while (::send(full.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
  }
  const UniqueFd file = shared_file(4096);
  const UniqueFd counter = event();
  std::uint64_t grown = 0;
  for (const int fd : {full.get(), file.get(), counter.get()}) {
    auto connection = acquaintance();
    (void)connection.tell(Request::set_backend_req_fd, {}, std::span(&fd, 1));
    grow_image(++grown * sector);
    ::usleep(10'000);
    EXPECT_TRUE(answers_or_closes(connection));
  }
}

TEST_F(Trouble, ARingWhoseMemoryGoesStopsAlone) {
  auto disk = guest(with_queues(2));
  Load load(disk, {});
  load.submit();
  vhost::MemoryRegion wire = disk.memory().regions()[0]->wire();
  must(disk->device().connection().tell(Request::rem_mem_reg, vhost::SingleRegion{0, wire}));
  EXPECT_TRUE(answers_or_closes(disk->device().connection()));
}

TEST_F(Trouble, EveryOrderOfARingsMessagesIsSurvived) {
  std::array<int, 5> order{0, 1, 2, 3, 4};
  auto disk = guest(with_queues(2));
  must(disk->stop());
  auto& connection = disk->device().connection();
  const auto addresses = disk->device().queue(1).ring().addresses(1);
  const int kick = disk->device().queue(1).kick_fd();
  const int inflight = disk->device().inflight_fd();
  do {
    for (const int step : order) {
      using vhost::VringState;
      switch (step) {
        case 0: (void)accepts(connection, Request::set_vring_num, VringState{1, 128}); break;
        case 1: (void)accepts(connection, Request::set_vring_addr, addresses); break;
        case 2:
          (void)accepts(connection, Request::set_inflight_fd, disk->device().inflight(),
                        std::span(&inflight, 1));
          break;
        case 3: (void)accepts(connection, Request::set_vring_enable, VringState{1, 1}); break;
        default:
          (void)accepts(connection, Request::set_vring_kick, std::uint64_t{1}, std::span(&kick, 1));
          break;
      }
      (void)accepts(connection, Request::set_vring_num, VringState{1, 64});
    }
    ASSERT_TRUE(connection.ask_for<vhost::VringState>(Request::get_vring_base,
                                                      bytes_of(vhost::VringState{1, 0})));
    must(connection.tell(Request::set_vring_enable, vhost::VringState{1, 0}));
  } while (std::ranges::next_permutation(order).found);
}

TEST_F(Trouble, AfterAFrontEndThatLeftInAHurryItSleeps) {
  BlkOptions options = with_queues(2);
  options.queue.kicks = false;
  {
    auto disk = guest(options);
    Load load(disk, {});
    load.submit();
    ASSERT_EQ(::shutdown(disk->device().connection().fd(), SHUT_RDWR), 0);
  }
  ::usleep(200'000);
  const auto before = daemon->cpu_time();
  ::usleep(500'000);
  EXPECT_LE((daemon->cpu_time() - before).count(), 40 * slowness);
}

TEST_F(Trouble, ARequestOfManyMebibytesIsOne) {
  BlkOptions options;
  Guest disk(connect(socket), options, 64 * mebi);
  const Buffer big = disk.allocate(24 * mebi);
  const Segment whole = big.segment();
  fill(big.bytes(), 1);
  EXPECT_EQ(must(disk->perform({.type = BlkType::write, .data = std::span(&whole, 1)})),
            BlkStatus::ok);
  EXPECT_TRUE(image_holds(0, 1, 24 * mebi));
  fill(big.bytes(), 0);
  EXPECT_EQ(must(disk->perform({.type = BlkType::read, .data = std::span(&whole, 1)})),
            BlkStatus::ok);
  EXPECT_TRUE(holds(big.bytes(), 1));
}

}  // namespace
}  // namespace integration
