#include "tools/vhost_bench/net_generator.hpp"

#include <gtest/gtest.h>

#include "tools/vhost_bench/null_switch.hpp"

namespace bench {
namespace {

using namespace std::chrono_literals;
using namespace vhost::frontend;

/// Runs on a null switch, unless a test gives another device.
class NetGeneratorTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(memory_.add_region(std::size_t{4} << 20));
    for (auto* ring : {&to_guest_, &from_guest_}) {
      auto queue = Queue::create(memory_, {.ring = {.size = 64, .event_idx = true}});
      ASSERT_TRUE(queue);
      ring->emplace(std::move(*queue));
    }
    auto queue = NetQueue::create(memory_, *to_guest_, *from_guest_, {});
    ASSERT_TRUE(queue);
    queue_.emplace(std::move(*queue));
    queue_->post();
  }
  NetResult run(NetPlan plan, std::function<void()> device = {}) {
    plan.duration = 20ms;
    plan.warmup = 5ms;
    std::vector<Sender> senders;
    std::vector<Receiver> receivers;
    if (plan.sends()) {
      auto sender = Sender::create(plan, *queue_, memory_, 0);
      EXPECT_TRUE(sender);
      senders.push_back(std::move(*sender));
    }
    if (plan.receives()) receivers.emplace_back(plan, *queue_);
    NullSwitch null(plan, *queue_);
    NetHooks hooks;
    hooks.device = device ? device : [&null] { null.serve(); };
    return NetGenerator(plan, std::move(senders), std::move(receivers), std::move(hooks)).run();
  }

  SharedMemory memory_;
  std::optional<Queue> to_guest_, from_guest_;
  std::optional<NetQueue> queue_;
};

TEST_F(NetGeneratorTest, TransmitCountsWhatTheDeviceTook) {
  const NetResult result = run({.mode = NetMode::transmit, .frame_bytes = 100, .rounds = 3});
  ASSERT_EQ(result.rounds.size(), 3u);
  for (const NetRound& round : result.rounds) {
    EXPECT_GT(round.frames, 1000u);
    EXPECT_EQ(round.bytes, round.frames * 100);
    EXPECT_GE(round.seconds, 0.02);
  }
  EXPECT_EQ(result.lost, 0u);
  EXPECT_EQ(result.received, 0u);
}

TEST_F(NetGeneratorTest, ReceiveCountsWhatArrives) {
  const NetResult result = run({.mode = NetMode::receive, .frame_bytes = 100});
  EXPECT_GT(result.rounds.at(0).frames, 1000u);
  EXPECT_EQ(result.rounds.at(0).bytes, result.rounds.at(0).frames * 100);
  EXPECT_EQ(result.sent, 0u);
  EXPECT_EQ(result.lost, 0u);
}

TEST_F(NetGeneratorTest, LoopLosesNothingOnADeviceThatLosesNothing) {
  const NetResult result = run({.mode = NetMode::loop});
  EXPECT_GT(result.sent, 1000u);
  EXPECT_EQ(result.received, result.sent);
  EXPECT_EQ(result.lost, 0u);
  EXPECT_EQ(result.broken, nullptr);
}

TEST_F(NetGeneratorTest, FramesThatDoNotComeBackAreLost) {
  Loopback hole(from_guest_->ring().split());
  const NetResult result = run({.mode = NetMode::loop}, [&hole] { hole.serve(); });
  EXPECT_GT(result.sent, 1000u);
  EXPECT_EQ(result.lost, result.sent);
}

TEST_F(NetGeneratorTest, WindowBoundsWhatIsOnItsWay) {
  const NetResult result = run({.mode = NetMode::loop, .window = 10}, [] {});
  // It is given up at most once in 20 ms, and the run has little more than one of these.
  EXPECT_GE(result.sent, 10u);
  EXPECT_LE(result.sent, 60u);
  EXPECT_GT(result.idle, 0.99) << "nothing comes back, and nothing may be sent";
}

TEST_F(NetGeneratorTest, WindowOpensAgainWhenFramesAreLost) {
  Loopback hole(from_guest_->ring().split());
  const NetResult result =
      run({.mode = NetMode::loop, .window = 10, .rounds = 4}, [&hole] { hole.serve(); });
  EXPECT_GE(result.sent, 20u);
}

TEST_F(NetGeneratorTest, FramesOfAnotherLengthAreForeign) {
  Loopback own(from_guest_->ring().split());
  Loopback other(to_guest_->ring().split(), 12 + 65);
  const NetResult result = run({.mode = NetMode::loop, .frame_bytes = 64}, [&] {
    own.serve();
    other.serve(1);
  });
  EXPECT_GT(result.foreign, 0u);
  EXPECT_EQ(result.foreign, result.received);
  EXPECT_EQ(result.lost, result.sent);
}

TEST_F(NetGeneratorTest, DeviceThatBreaksTheRulesEndsTheRun) {
  Loopback liar(to_guest_->ring().split(), 4000);
  const NetResult result = run({.mode = NetMode::receive, .rounds = 5}, [&] { liar.serve(); });
  ASSERT_NE(result.broken, nullptr);
  EXPECT_LT(result.rounds.size(), 5u);
}

TEST_F(NetGeneratorTest, SlowDeviceLeavesTheGeneratorIdle) {
  Loopback slow(from_guest_->ring().split());
  unsigned turns = 0;
  const NetResult result = run({.mode = NetMode::transmit}, [&] {
    if (++turns % 8 == 0) slow.serve(1);
  });
  EXPECT_GT(result.idle, 0.5);
  EXPECT_LT(result.idle, 1.0);
}

}  // namespace
}  // namespace bench
