#include "common/counter.hpp"

#include <thread>

#include <gtest/gtest.h>

namespace common {
namespace {

TEST(Counter, CountsFromZero) {
  Counter counter;
  EXPECT_EQ(counter.value(), 0U);
  counter.add();
  counter.add(41);
  EXPECT_EQ(counter.value(), 42U);
}

TEST(Counter, NeverGoesBackForAReader) {
  constexpr std::uint64_t total = 300'000;
  Counter counter;
  std::thread owner([&] {
    for (std::uint64_t i = 0; i < total; ++i) counter.add();
  });
  std::uint64_t last = 0;
  while (last < total) {
    const std::uint64_t now = counter.value();
    ASSERT_GE(now, last);
    last = now;
  }
  owner.join();
  EXPECT_EQ(counter.value(), total);
}

}  // namespace
}  // namespace common
