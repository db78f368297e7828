#include "tools/vhost_bench/generator.hpp"

#include <gtest/gtest.h>

#include "tools/vhost_bench/loopback.hpp"

namespace bench {
namespace {

using namespace std::chrono_literals;
using namespace vhost::frontend;

class GeneratorTest : public testing::Test {
 protected:
  RunResult run(Plan plan, bool answers = true) {
    EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20));
    auto queue = Queue::create(memory_, {.ring = {.size = 64, .event_idx = true, .indirect = 4}});
    EXPECT_TRUE(queue);
    auto blk = BlkQueue::create(memory_, *queue, 64);
    EXPECT_TRUE(blk);
    auto lane = Lane::create(plan, *blk, memory_, 1000, 0, nullptr);
    EXPECT_TRUE(lane) << lane.error().what;
    std::vector<Lane> lanes;
    lanes.push_back(std::move(*lane));
    Loopback device(queue->ring().split());
    RunHooks hooks;
    if (answers) hooks.device = [&device] { device.serve(); };
    return Generator(plan, std::move(lanes), std::move(hooks)).run();
  }
  SharedMemory memory_;
};

TEST_F(GeneratorTest, CountsWhatCameBackInTheMeasuredPart) {
  const RunResult result = run({.depth = 4, .duration = 50ms, .warmup = 10ms});
  EXPECT_GT(result.counters.requests, 100u);
  EXPECT_EQ(result.counters.requests, result.latency.count());
  EXPECT_EQ(result.lost, 0u);
  EXPECT_GE(result.seconds, 0.05);
}

TEST_F(GeneratorTest, OpenLoopKeepsTheRate) {
  const RunResult result = run({.depth = 4, .rate = 2000, .duration = 200ms, .warmup = 0ms});
  EXPECT_GT(result.counters.requests, 200u);  // 400 on a machine that is not busy
  EXPECT_LE(static_cast<double>(result.counters.requests), 2000 * result.seconds + 4);
}

TEST_F(GeneratorTest, RefusesMoreInFlightThanThereAreBlocks) {
  ASSERT_TRUE(memory_.add_region(std::size_t{1} << 20));
  auto queue = Queue::create(memory_, {.ring = {.size = 64, .indirect = 4}});
  ASSERT_TRUE(queue);
  auto blk = BlkQueue::create(memory_, *queue, 64);
  ASSERT_TRUE(blk);
  EXPECT_TRUE(Lane::create({.depth = 8}, *blk, memory_, 8, 0, nullptr));
  EXPECT_FALSE(Lane::create({.depth = 8}, *blk, memory_, 7, 0, nullptr));
}

}  // namespace
}  // namespace bench
