#include "libvhost/session/event_loop.hpp"

#include <gtest/gtest.h>

namespace vhost::tests {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

TEST(EventLoop, ATimerMayBeChanged) {
  auto loop = std::move(*EventLoop::create());
  UniqueFd timer;
  int calls = 0;
  const auto began = Clock::now();
  timer = std::move(*loop.every(1h, [&] {
    if (++calls == 3) loop.stop();
  }));
  EventLoop::change(timer, 10ms);
  ASSERT_TRUE(loop.run());
  EXPECT_GE(Clock::now() - began, 30ms);
}

TEST(EventLoop, ATimerMayChangeItself) {
  auto loop = std::move(*EventLoop::create());
  UniqueFd timer;
  int calls = 0;
  timer = std::move(*loop.every(1ms, [&] {
    EventLoop::change(timer, 20ms);
    if (++calls == 3) loop.stop();
  }));
  const auto began = Clock::now();
  ASSERT_TRUE(loop.run());
  EXPECT_GE(Clock::now() - began, 40ms);
}

}  // namespace
}  // namespace vhost::tests
