// kill -9 with requests in flight: a successor finishes what was begun, once.
#include "tests/integration/fixture.hpp"
#include "tests/integration/layout.hpp"
#include "tests/integration/marked.hpp"

namespace integration {
namespace {

class Crash : public Served, public ::testing::WithParamInterface<bool> {
 protected:
  /// On rings of the layout under test.
  static BlkOptions laid_out(BlkOptions options = {}) {
    return GetParam() ? packed(std::move(options)) : options;
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

TEST_P(Crash, EveryRequestInFlightCompletesOnceTwentyTimes) {
  serve();
  auto disk = guest(laid_out());
  Load load(disk, {.blocks = 320, .block_bytes = 64 * kibi, .depth = 64});
  EXPECT_GT(die_and_go_on(disk, {&load}), 0U);
  EXPECT_EQ(load.failed, 0U);
}

TEST_P(Crash, EveryRequestOfSeveralQueuesCompletesOnceTwentyTimes) {
  const Strings flags{"--workers", "2"};
  serve(flags);
  auto disk = guest(laid_out(with_queues(3)));
  Load first(disk, {.queue = 0, .blocks = 160, .block_bytes = 64 * kibi, .depth = 32});
  Load second(disk, {.queue = 1, .first_sector = 40000, .depth = 32});
  Load third(disk, {.queue = 2, .first_sector = 80000, .depth = 32, .misalignment = 1});
  EXPECT_GT(die_and_go_on(disk, {&first, &second, &third}, flags), 0U);
}

TEST_P(Crash, ADriverWithoutAnInflightRegionOffersAgain) {
  serve();
  BlkOptions options;
  options.wishes.protocol_features &= ~vhost::bit(vhost::protocol_feature::inflight_shmfd);
  auto disk = guest(laid_out(options));
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

TEST_P(Crash, DeathAtEveryMessageOfTheHandshakeLeavesASuccessorThatServes) {
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
  auto disk = guest(laid_out());
  Load load(disk, {});
  load.run(50);
}

INSTANTIATE_TEST_SUITE_P(Rings, Crash, ::testing::Bool(), layout_name);

}  // namespace
}  // namespace integration
