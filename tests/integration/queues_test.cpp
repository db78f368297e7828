// Rings of every kind that a driver may negotiate, alone and many at once.
#include <thread>

#include "tests/integration/fixture.hpp"
#include "tests/integration/layout.hpp"

namespace integration {
namespace {

using vhost::bit;
namespace feature = vhost::feature;

class Queues : public Served {
 protected:
  /// A verified load on each queue, each from a thread of its own.
  void load_all(Guest& disk, std::uint64_t requests, std::uint16_t depth = 8) {
    const std::size_t queues = disk->queue_count();
    std::vector<std::unique_ptr<Load>> loads;
    for (std::size_t i = 0; i < queues; ++i) {
      loads.push_back(std::make_unique<Load>(
          disk, Load::Shape{.queue = i,
                            .first_sector = i * (image_bytes / sector / queues),
                            .blocks = 64,
                            .depth = depth,
                            .seed = static_cast<std::uint32_t>(i + 1)}));
    }
    std::vector<std::string> wrong(queues);
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < queues; ++i) {
        threads.emplace_back([&, i] {
          try {
            loads[i]->run(requests);
            loads[i]->verify();
          } catch (const std::exception& error) {
            wrong[i] = error.what();
          }
        });
      }
    }
    for (std::size_t i = 0; i < queues; ++i) EXPECT_EQ(wrong[i], "") << "queue " << i;
  }
};

struct Spread {
  std::size_t queues;
  const char* workers;
};
class Workers : public Queues, public ::testing::WithParamInterface<Spread> {};

TEST_P(Workers, ServeTheirQueuesSideBySide) {
  serve({"--workers", GetParam().workers});
  auto disk = guest(with_queues(GetParam().queues));
  load_all(disk, 300);
}
INSTANTIATE_TEST_SUITE_P(Spreads, Workers,
                         ::testing::Values(Spread{1, "1"}, Spread{4, "1"}, Spread{4, "2"},
                                           Spread{3, "4"}, Spread{8, "3"}),
                         [](const auto& test) {
                           return std::to_string(test.param.queues) + "On" + test.param.workers;
                         });

TEST_F(Queues, EveryOneOfTwoHundredFiftySixWorks) {
  serve({"--workers", "2"});
  auto disk = guest(with_queues(256, 4));
  for (std::size_t i = 0; i < 256; ++i) {
    Load load(disk, {.queue = i, .first_sector = i * 64, .blocks = 2, .depth = 1});
    load.run(4);
  }
}

class RingSize : public Queues, public ::testing::WithParamInterface<std::uint16_t> {};

TEST_P(RingSize, IsServed) {
  serve();
  auto disk = guest(with_queues(1, GetParam()));
  const auto depth = std::min<std::uint16_t>(GetParam(), 128);
  Load load(disk, {.depth = depth});
  load.run(400);
  load.verify();
}
INSTANTIATE_TEST_SUITE_P(FromOneTo, RingSize, ::testing::Values(1, 2, 4, 8, 64, 256, 1024));

TEST_F(Queues, ALargestRingIsServed) {
  serve();
  BlkOptions options = with_queues(1, 32768);
  options.queue.ring.indirect = 4;
  auto disk = guest(options);
  Load load(disk, {.blocks = 1024, .depth = 512});
  load.run(2000);
  load.verify();
}

class PackedRingSize : public Queues, public ::testing::WithParamInterface<std::uint16_t> {};

TEST_P(PackedRingSize, IsServed) {
  serve();
  auto disk = guest(packed(with_queues(1, GetParam())));
  const auto depth = std::min<std::uint16_t>(GetParam(), 128);
  Load load(disk, {.depth = depth});
  load.run(400);
  load.verify();
}
INSTANTIATE_TEST_SUITE_P(AnyNumber, PackedRingSize,
                         ::testing::Values(1, 2, 3, 5, 6, 64, 100, 255, 256, 1000));

TEST_F(Queues, ALargestPackedRingIsServed) {
  serve();
  BlkOptions options = packed(with_queues(1, 32768));
  options.queue.ring.indirect = 4;
  auto disk = guest(options);
  Load load(disk, {.blocks = 1024, .depth = 512});
  load.run(2000);
  load.verify();
}

TEST_F(Queues, PackedRingsAreServedSideBySide) {
  serve({"--workers", "2"});
  auto disk = guest(packed(with_queues(4, 50)));
  load_all(disk, 400);
}

TEST_F(Queues, APackedDriverWithoutEventIdxIsServed) {
  serve();
  BlkOptions options = packed(with_queues(2));
  options.wishes.features &= ~bit(feature::event_idx);
  auto disk = guest(options);
  load_all(disk, 400);
}

TEST_F(Queues, APackedDriverWithoutIndirectDescriptorsIsServed) {
  serve();
  BlkOptions options = packed(with_queues(2, 100));
  options.wishes.features &= ~bit(feature::indirect_desc);
  auto disk = guest(options);
  load_all(disk, 400);
}

TEST_F(Queues, ALegacyDriverIsServed) {
  serve();
  BlkOptions options = with_queues(2, 64);
  options.wishes.features &= ~bit(feature::version_1);
  auto disk = guest(options);
  EXPECT_FALSE(vhost::has(disk->device().features(), feature::version_1));
  load_all(disk, 300);
}

TEST_F(Queues, ADriverWithoutEventIdxIsServed) {
  serve();
  BlkOptions options = with_queues(2);
  options.wishes.features &= ~bit(feature::event_idx);
  auto disk = guest(options);
  load_all(disk, 400);
}

TEST_F(Queues, ADriverWithoutIndirectDescriptorsIsServed) {
  serve();
  BlkOptions options = with_queues(2);
  options.wishes.features &= ~bit(feature::indirect_desc);
  auto disk = guest(options);
  load_all(disk, 400);
}

TEST_F(Queues, ADriverWithNothingNegotiatedIsServed) {
  serve();
  BlkOptions options = with_queues(1);
  options.wishes.features = bit(feature::protocol_features);
  options.wishes.protocol_features = bit(vhost::protocol_feature::config);
  auto disk = guest(options);
  load_all(disk, 400);
}

TEST_F(Queues, ARingWithoutKicksIsPolled) {
  serve();
  BlkOptions options = with_queues(1);
  options.queue.kicks = false;
  auto disk = guest(options);
  load_all(disk, 300);
}

TEST_F(Queues, ARingWithoutCallsIsNotCalled) {
  serve();
  BlkOptions options = with_queues(1);
  options.queue.calls = false;
  auto disk = guest(options);
  load_all(disk, 300);
}

TEST_F(Queues, RequestsOfADisabledRingWaitUntilItIsEnabled) {
  serve();
  auto disk = guest(with_queues(2));
  auto enable = [&](std::uint32_t queue, std::uint32_t on) {
    must(disk->device().connection().tell(vhost::Request::set_vring_enable,
                                          vhost::VringState{queue, on}));
  };
  enable(1, 0);
  Load waiting(disk, {.queue = 1, .depth = 4});
  waiting.submit();
  Load other(disk, {.queue = 0, .first_sector = image_bytes / sector / 2, .depth = 4});
  other.run(50);
  EXPECT_FALSE(waiting.reap(milliseconds(30)));
  enable(1, 1);
  waiting.settle();
  waiting.run(50);
}

TEST_F(Queues, GetVringBaseTellsHowManyWereTaken) {
  serve();
  auto disk = guest();
  Load load(disk, {.depth = 10});
  load.submit();
  const auto base = must(disk->device().connection().ask_for<vhost::VringState>(
      vhost::Request::get_vring_base, vhost::bytes_of(vhost::VringState{0, 0})));
  std::uint64_t back = 0;
  while (load.reap()) {
  }
  back = load.completed;
  EXPECT_EQ(base.value, back);
}

class Layout : public Queues, public ::testing::WithParamInterface<bool> {
 protected:
  static BlkOptions laid_out(BlkOptions options = {}) {
    return GetParam() ? packed(std::move(options)) : options;
  }
};
INSTANTIATE_TEST_SUITE_P(Rings, Layout, ::testing::Bool(), layout_name);

TEST_P(Layout, StoppingUnderLoadGivesBackEverythingThatWasTaken) {
  serve({"--workers", "2"});
  auto disk = guest(laid_out(with_queues(2)));
  Load load(disk, {.blocks = 256, .block_bytes = 64 * kibi, .depth = 32});
  Load other(disk, {.queue = 1, .first_sector = 60000, .depth = 8});
  for (int round = 0; round < 30; ++round) {
    load.submit();
    other.submit();
    if (round % 3 == 0) ::usleep(static_cast<useconds_t>(round * 20));
    must(disk->stop());
    while (load.reap()) {
    }
    while (other.reap()) {
    }
    must(disk->start());
  }
  load.settle();
  other.settle();
  load.verify();
}

TEST_P(Layout, ASecondDriverBeginsAnewOnTheSameConnection) {
  serve();
  auto disk = guest(laid_out());
  for (int round = 0; round < 20; ++round) {
    Load load(disk, {});
    load.run(20);
    (void)disk->detach();
    must(disk->device().reset());
    must(disk->start());
  }
  EXPECT_TRUE(daemon->running());
}

}  // namespace
}  // namespace integration
