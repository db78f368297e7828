// kill -9 with requests in flight: a successor finishes what was begun, once.
#include <sys/mman.h>

#include <cstring>

#include "libvhost/memory/inflight.hpp"
#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

class Crash : public Served {
 protected:
  /// Requests that the kept inflight region says were begun and not finished.
  static std::size_t marked(Guest& disk) {
    const auto& described = disk->device().inflight();
    const std::size_t bytes = described.mmap_size_bytes;
    void* const mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, disk->device().inflight_fd(),
                                static_cast<off_t>(described.mmap_offset_bytes));
    if (mapped == MAP_FAILED) throw std::runtime_error("cannot map the inflight region");
    std::size_t count = 0;
    for (std::uint16_t queue = 0; queue < described.queues; ++queue) {
      const auto* section = static_cast<const std::byte*>(mapped) +
                            queue * vhost::inflight_section_bytes(described.queue_size);
      for (std::uint16_t head = 0; head < described.queue_size; ++head) {
        vhost::InflightEntry entry{};
        std::memcpy(&entry, section + sizeof(vhost::InflightHeader) + head * sizeof entry,
                    sizeof entry);
        count += entry.inflight;
      }
    }
    ::munmap(mapped, bytes);
    return count;
  }
  /// Twenty deaths; returns how many requests were in the middle of it, all together.
  std::size_t die_and_go_on(Guest& disk, std::vector<Load*> loads, const Strings& flags = {}) {
    std::size_t caught = 0;
    for (int death = 0; death < 20; ++death) {
      for (int round = 0; round <= death % 4; ++round) {
        for (Load* load : loads) load->submit();
        for (Load* load : loads) (void)load->reap(milliseconds(100));
      }
      for (Load* load : loads) load->submit();
      ::usleep(static_cast<useconds_t>(death * 37 % 400));
      daemon->kill();
      caught += marked(disk);
      must(disk->reconnect(resurrect(flags)));
      for (Load* load : loads) load->settle();
    }
    for (Load* load : loads) load->verify();
    return caught;
  }
};

TEST_F(Crash, EveryRequestInFlightCompletesOnceTwentyTimes) {
  serve();
  auto disk = guest();
  Load load(disk, {.blocks = 320, .block_bytes = 64 * kibi, .depth = 64});
  EXPECT_GT(die_and_go_on(disk, {&load}), 0U);
  EXPECT_EQ(load.failed, 0U);
}

TEST_F(Crash, EveryRequestOfSeveralQueuesCompletesOnceTwentyTimes) {
  const Strings flags{"--workers", "2"};
  serve(flags);
  auto disk = guest(with_queues(3));
  Load first(disk, {.queue = 0, .blocks = 160, .block_bytes = 64 * kibi, .depth = 32});
  Load second(disk, {.queue = 1, .first_sector = 40000, .depth = 32});
  Load third(disk, {.queue = 2, .first_sector = 80000, .depth = 32, .misalignment = 1});
  EXPECT_GT(die_and_go_on(disk, {&first, &second, &third}, flags), 0U);
}

TEST_F(Crash, ADriverWithoutAnInflightRegionOffersAgain) {
  serve();
  BlkOptions options;
  options.wishes.protocol_features &= ~vhost::bit(vhost::protocol_feature::inflight_shmfd);
  auto disk = guest(options);
  Load load(disk, {.blocks = 160, .block_bytes = 64 * kibi, .depth = 32});
  for (int death = 0; death < 10; ++death) {
    load.submit();
    (void)load.reap(milliseconds(100));
    load.submit();
    daemon->kill();
    while (load.reap()) {
    }
    must(disk->reconnect(resurrect()));
    load.settle();
  }
  load.verify();
}

TEST_F(Crash, DeathAtEveryMessageOfTheHandshakeLeavesASuccessorThatServes) {
  serve();
  for (int told = 0; told < 5; ++told) {
    auto connection = connect(socket);
    using vhost::Request;
    for (int i = 0; i < told; ++i) {
      const Request request =
          std::array{Request::get_features, Request::set_owner, Request::get_protocol_features,
                     Request::get_features, Request::set_owner}[static_cast<std::size_t>(i)];
      must(connection.send_raw(static_cast<std::uint32_t>(request), 0, {}));
    }
    daemon->kill();
    restart();
  }
  auto disk = guest();
  Load load(disk, {});
  load.run(50);
}

}  // namespace
}  // namespace integration
