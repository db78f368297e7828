#include "common/spin.hpp"

#include <gtest/gtest.h>

namespace common {
namespace {

TEST(SpinBudget, BeginsBetweenItsBounds) {
  const SpinBudget budget;
  EXPECT_GT(budget.ns(), SpinBudget::shortest_ns);
  EXPECT_LT(budget.ns(), SpinBudget::longest_ns);
}

TEST(SpinBudget, LooksLongerAfterASleepThatLookingWouldHaveSpared) {
  SpinBudget budget;
  const auto before = budget.ns();
  budget.slept(SpinBudget::longest_ns);
  EXPECT_EQ(budget.ns(), 2 * before);
}

TEST(SpinBudget, LooksShorterAfterALongSleep) {
  SpinBudget budget;
  const auto before = budget.ns();
  budget.slept(SpinBudget::longest_ns + 1);
  EXPECT_EQ(budget.ns(), before / 2);
}

TEST(SpinBudget, NeverLeavesItsBounds) {
  SpinBudget budget;
  for (int i = 0; i < 70; ++i) budget.slept(0);
  EXPECT_EQ(budget.ns(), SpinBudget::longest_ns);
  for (int i = 0; i < 70; ++i) budget.slept(UINT64_MAX);
  EXPECT_EQ(budget.ns(), SpinBudget::shortest_ns);
}

TEST(SpinBudget, OfAQueueThatWasIdleComesBackWithItsLoad) {
  SpinBudget budget;
  for (int i = 0; i < 10; ++i) budget.slept(1'000'000);
  for (int i = 0; i < 3; ++i) budget.slept(10'000);
  EXPECT_EQ(budget.ns(), SpinBudget::longest_ns);
}

TEST(SpinBudget, OfAnIdleQueueIsAFewMicroseconds) {
  EXPECT_LE(SpinBudget::shortest_ns, 10'000U);
  EXPECT_LE(SpinBudget::longest_ns, 100'000U);
}

}  // namespace
}  // namespace common
