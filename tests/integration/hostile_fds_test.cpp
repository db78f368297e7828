// Descriptors that are not what they should be, and files that shrink.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstring>
#include <random>

#include "libvhost/memory/inflight.hpp"
#include "tests/integration/hostile.hpp"

namespace integration {
namespace {

class HostileFds : public Hostile {
 protected:
  static void set_blocking(int fd) {
    ASSERT_EQ(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
  }
};

TEST_F(HostileFds, WhatIsNoEventfdIsNotTakenForARing) {
  std::array<int, 2> pipe{};
  std::array<int, 2> pair{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const std::array<UniqueFd, 6> others{
      UniqueFd(pipe[0]), UniqueFd(pipe[1]), UniqueFd(pair[0]),
      UniqueFd(pair[1]), shared_file(4096), UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC))};
  auto connection = acquaintance();
  for (const auto request :
       {Request::set_vring_kick, Request::set_vring_call, Request::set_vring_err}) {
    for (const UniqueFd& other : others) {
      const int fd = other.get();
      EXPECT_FALSE(accepts(connection, request, std::uint64_t{0}, std::span(&fd, 1)));
    }
    const int own = connection.fd();
    EXPECT_FALSE(accepts(connection, request, std::uint64_t{0}, std::span(&own, 1)));
    const UniqueFd right = event();
    const int fd = right.get();
    EXPECT_TRUE(accepts(connection, request, std::uint64_t{0}, std::span(&fd, 1)));
  }
}

TEST_F(HostileFds, ACallThatBlocksHoldsUpNoQuestionAndNoEnd) {
  auto disk = guest();
  const int call = disk->device().queue(0).call_fd();
  (void)disk->device().queue(0).clear_call();
  const std::uint64_t almost_full = 0xfffffffffffffffe;
  ASSERT_EQ(::write(call, &almost_full, sizeof almost_full), 8);
  set_blocking(call);
  auto& queue = disk->queue(0);
  (void)queue.queue().ring().arm_calls();
  ASSERT_TRUE(queue.submit({.type = BlkType::flush}));
  queue.kick();
  ::usleep(50'000);  // by now the worker hangs in the call
  EXPECT_TRUE(disk->device().connection().ask_for<std::uint64_t>(Request::get_features));
  const auto first = read_stats(stats).at("uptime_ms");
  EXPECT_TRUE(eventually([&] { return read_stats(stats).at("uptime_ms") != first; }));
  const auto began = std::chrono::steady_clock::now();
  must(disk->stop());
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(1) * slowness);
}

TEST_F(HostileFds, ACallThatBlocksDoesNotKeepTheDaemonFromEnding) {
  auto disk = guest();
  const int call = disk->device().queue(0).call_fd();
  (void)disk->device().queue(0).clear_call();
  const std::uint64_t almost_full = 0xfffffffffffffffe;
  ASSERT_EQ(::write(call, &almost_full, sizeof almost_full), 8);
  set_blocking(call);
  auto& queue = disk->queue(0);
  (void)queue.queue().ring().arm_calls();
  ASSERT_TRUE(queue.submit({.type = BlkType::flush}));
  queue.kick();
  ::usleep(20'000);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(daemon->terminate(), good_end);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(2) * slowness);
  restart();
}

TEST_F(HostileFds, AKickThatBlocksAndIsStolenHoldsUpNobody) {
  auto disk = guest(with_queues(2));
  const int kick = disk->device().queue(1).kick_fd();
  set_blocking(kick);
  Load load(disk, {});
  for (int i = 0; i < 200; ++i) {
    disk->device().queue(1).kick();
    std::uint64_t count = 0;
    pollfd ready{kick, POLLIN, 0};
    if (::poll(&ready, 1, 0) == 1 && i % 2 == 0) {
      // Stolen, unless the daemon was faster; then ours would block, so not for long.
      ::fcntl(kick, F_SETFL, ::fcntl(kick, F_GETFL) | O_NONBLOCK);
      (void)!::read(kick, &count, sizeof count);
      set_blocking(kick);
    }
    load.run(2);
  }
}

TEST_F(HostileFds, MemoryThatIsNoFileOrTooShortIsRefused) {
  auto connection = acquaintance();
  const UniqueFd file = shared_file(mebi);
  const UniqueFd other = event();
  const auto add = [&](vhost::MemoryRegion region, int fd) {
    return accepts(connection, Request::add_mem_reg, vhost::SingleRegion{0, region},
                   std::span(&fd, 1));
  };
  EXPECT_FALSE(add({0x1000, mebi, 0x1000, 0}, other.get()));
  EXPECT_FALSE(add({0x1000, mebi + 1, 0x1000, 0}, file.get()));
  EXPECT_FALSE(add({0x1000, mebi, 0x1000, 1}, file.get()));
  EXPECT_FALSE(add({0x1000, 0, 0x1000, 0}, file.get()));
  EXPECT_FALSE(add({0x1000, 4096, 0x1000, ~std::uint64_t{4095}}, file.get()));
  EXPECT_FALSE(add({~std::uint64_t{4095}, 8192, 0x1000, 0}, file.get()));
  EXPECT_FALSE(add({0x1000, 8192, ~std::uint64_t{4095}, 0}, file.get()));
  EXPECT_FALSE(add({0x1000, ~std::uint64_t{0}, 0x1000, 0}, file.get()));
  EXPECT_TRUE(add({0x1000, 8192, 0x1000, 0}, file.get()));
  EXPECT_FALSE(add({0x2000, 8192, 0x100000, 0}, file.get())) << "overlaps in guest addresses";
  EXPECT_FALSE(add({0x100000, 8192, 0x2000, 0}, file.get())) << "overlaps in its addresses";
  EXPECT_TRUE(add({0x3000, 8192, 0x3000, 0}, file.get())) << "adjacent regions are two";
}

TEST_F(HostileFds, ATableWhoseCountIsALieIsRefused) {
  const UniqueFd file = shared_file(mebi);
  for (const std::uint32_t count : {0U, 1U, 2U, 8U, 9U, 0xffffffffU}) {
    for (std::size_t fds = 0; fds <= 8; ++fds) {
      auto connection = acquaintance();
      const std::size_t regions = std::min<std::size_t>(count, 8);
      std::vector<std::byte> payload(8 + regions * sizeof(vhost::MemoryRegion));
      std::memcpy(payload.data(), &count, sizeof count);
      for (std::size_t i = 0; i < regions; ++i) {
        const vhost::MemoryRegion region{(i + 1) << 20, 4096, (i + 1) << 20, 0};
        std::memcpy(payload.data() + 8 + i * sizeof region, &region, sizeof region);
      }
      const std::vector<int> descriptors(fds, file.get());
      const bool told = connection.tell(Request::set_mem_table, payload, descriptors).has_value();
      EXPECT_EQ(told, count <= 8 && fds == count) << count << " with " << fds;
    }
  }
}

TEST_F(HostileFds, MemoryThatIsCutOffUnderLoadEndsOnlyThatConnection) {
  std::minstd_rand random(7);
  for (int round = 0; round < (sanitized ? 15 : 60); ++round) {
    auto disk = guest(with_queues(2));
    Load load(disk, {.blocks = 64, .block_bytes = 16 * kibi, .depth = 32});
    load.submit();
    ::usleep(static_cast<useconds_t>(random() % 600));
    const auto& region = *disk.memory().regions()[0];
    const auto bytes = static_cast<off_t>(region.bytes().size());
    const auto kept = round % 3 == 0 ? 0 : static_cast<off_t>(random() % 64) * 4096;
    ASSERT_EQ(::ftruncate(region.fd(), kept), 0);
    // Nothing here may touch the memory now, but the daemon does.
    for (int kick = 0; kick < 3; ++kick) {
      disk->device().queue(0).kick();
      ::usleep(100);
    }
    ASSERT_TRUE(daemon->running()) << daemon->words();
    if (kept == 0) {
      EXPECT_TRUE(disk->device().connection().closed_within(milliseconds(3000) * slowness));
    }
    ASSERT_EQ(::ftruncate(region.fd(), bytes), 0);
  }
}

TEST_F(HostileFds, AnInflightRegionThatIsCutOffUnderLoadEndsOnlyThatConnection) {
  BlkOptions options;
  options.wishes.protocol_features &= ~vhost::bit(vhost::protocol_feature::inflight_shmfd);
  for (int round = 0; round < 10; ++round) {
    const UniqueFd file = shared_file(mebi);
    auto disk = guest(options);
    auto& connection = disk->device().connection();
    must(disk->stop());
    must(connection.tell(Request::set_protocol_features,
                         vhost::frontend::default_protocol_features));
    const int fd = file.get();
    must(connection.tell(Request::set_inflight_fd, vhost::InflightDescription{mebi, 0, 1, 128, 0},
                         std::span(&fd, 1)));
    must(disk->start());
    Load load(disk, {});
    load.tolerate_errors();  // once something of the guest is lost, no write is believed
    load.submit();
    ASSERT_EQ(::ftruncate(fd, 0), 0);
    EXPECT_TRUE(eventually([&] {
      (void)load.reap();
      load.submit();
      return connection.closed_within(milliseconds(1));
    }));
    (void)disk->detach();
  }
}

/// Scrambles the inflight region of a stopped disk in place.
void scramble(Guest& disk, std::minstd_rand& random, bool plausible) {
  const auto& described = disk->device().inflight();
  void* const mapped = ::mmap(nullptr, described.mmap_size_bytes, PROT_READ | PROT_WRITE,
                              MAP_SHARED, disk->device().inflight_fd(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(mapped);
  for (std::size_t i = 0; i < described.mmap_size_bytes; ++i) {
    bytes[i] = static_cast<std::byte>(plausible ? random() % 2 : random());
  }
  if (plausible) {
    for (std::uint16_t queue = 0; queue < described.queues; ++queue) {
      const vhost::InflightHeader header{
          0, vhost::inflight_version, described.queue_size, static_cast<std::uint16_t>(random()),
          static_cast<std::uint16_t>(random() % 4 == 0 ? random() : 0)};
      std::memcpy(bytes + queue * vhost::inflight_section_bytes(described.queue_size), &header,
                  sizeof header);
    }
  }
  ::munmap(mapped, described.mmap_size_bytes);
}

TEST_F(HostileFds, AnInflightRegionMayLieAboutEverything) {
  std::minstd_rand random(11);
  for (int round = 0; round < 40; ++round) {
    auto disk = guest(with_queues(2));
    Load load(disk, {});
    load.run(10);
    must(disk->stop());
    scramble(disk, random, round % 2 == 0);
    (void)disk->start();
    disk->device().queue(0).kick();
    disk->device().queue(1).kick();
    EXPECT_TRUE(answers_or_closes(disk->device().connection()));
    ASSERT_TRUE(daemon->running()) << daemon->words();
  }
}

}  // namespace
}  // namespace integration
