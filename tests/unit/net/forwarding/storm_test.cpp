#include "backends/net/forwarding/storm.hpp"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace net::tests {
namespace {

constexpr std::uint64_t start_ns = 5'000'000'000;

unsigned taken(StormLimit& limit, unsigned frames, std::uint64_t now_ns) {
  unsigned count = 0;
  for (unsigned i = 0; i < frames; ++i) count += limit.take(now_ns) ? 1 : 0;
  return count;
}

TEST(StormLimit, ZeroIsNone) {
  StormLimit limit(0);
  EXPECT_FALSE(limit.limited());
  EXPECT_EQ(taken(limit, 100'000, start_ns), 100'000U);
}

TEST(StormLimit, LetsATenthOfASecondThroughAtOnce) {
  StormLimit limit(1000);
  EXPECT_TRUE(limit.limited());
  EXPECT_EQ(taken(limit, 1000, start_ns), 100U);
}

TEST(StormLimit, RefillsAtItsRate) {
  StormLimit limit(1000);
  EXPECT_EQ(taken(limit, 1000, start_ns), 100U);
  EXPECT_EQ(taken(limit, 1, start_ns + 999'999), 0U);
  EXPECT_EQ(taken(limit, 2, start_ns + 1'000'000), 1U);
  EXPECT_EQ(taken(limit, 1000, start_ns + 51'000'000), 50U);
}

TEST(StormLimit, HoldsNoMoreThanATenthOfASecond) {
  StormLimit limit(1000);
  EXPECT_EQ(taken(limit, 1, start_ns), 1U);
  EXPECT_EQ(taken(limit, 1000, start_ns + 3'000'000'000), 100U);
}

TEST(StormLimit, OneFrameASecondIsOne) {
  StormLimit limit(1);
  EXPECT_EQ(taken(limit, 5, start_ns), 1U);
  EXPECT_EQ(taken(limit, 5, start_ns + 999'999'999), 0U);
  EXPECT_EQ(taken(limit, 5, start_ns + 1'000'000'000), 1U);
}

TEST(StormLimit, AFrameMayCountAsMany) {
  StormLimit limit(1000);
  EXPECT_TRUE(limit.take(start_ns, 60));
  EXPECT_EQ(taken(limit, 1000, start_ns), 40U);
  EXPECT_FALSE(limit.take(start_ns + 999'999, 60));
  EXPECT_TRUE(limit.take(start_ns + 1'000'000, 1));
}

TEST(StormLimit, WhatIsMoreThanItHoldsPassesAndIsPaidForLater) {
  StormLimit limit(1000);
  EXPECT_EQ(taken(limit, 99, start_ns), 99U);
  EXPECT_TRUE(limit.take(start_ns, 1024));  // one is there, and 1023 are owed
  EXPECT_EQ(taken(limit, 10, start_ns + 1'023'999'999), 0U);
  EXPECT_EQ(taken(limit, 10, start_ns + 1'024'000'000), 1U);
  StormLimit one(1);
  EXPECT_TRUE(one.take(start_ns, 1024));
  EXPECT_FALSE(one.take(start_ns + 1'023'999'999'999));
  EXPECT_TRUE(one.take(start_ns + 1'024'000'000'000));
}

TEST(StormLimit, BearsAClockThatIsBehind) {
  StormLimit limit(1000);
  EXPECT_EQ(taken(limit, 1000, start_ns), 100U);
  EXPECT_EQ(taken(limit, 10, start_ns - 1'000'000), 0U);
  EXPECT_EQ(taken(limit, 10, start_ns + 1'000'000), 1U);
}

TEST(StormLimit, CountsWhatSeveralWorkersTake) {
  StormLimit limit(100'000);
  std::atomic<unsigned> all = 0;
  {
    std::vector<std::jthread> workers;
    for (int i = 0; i < 4; ++i) workers.emplace_back([&] { all += taken(limit, 5000, start_ns); });
  }
  EXPECT_EQ(all, 10'000U);
}

}  // namespace
}  // namespace net::tests
