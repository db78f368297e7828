#include "common/spin_lock.hpp"

#include <mutex>
#include <thread>

#include <gtest/gtest.h>

namespace common {
namespace {

TEST(SpinLock, IsHadByOneAtATime) {
  SpinLock lock;
  ASSERT_TRUE(lock.try_lock());
  EXPECT_FALSE(lock.try_lock());
  lock.unlock();
  EXPECT_TRUE(lock.try_lock());
}

TEST(SpinLock, LosesNoWorkOfTwoThreads) {
  SpinLock lock;
  std::uint64_t sum = 0;
  const auto work = [&] {
    for (int i = 0; i < 200'000; ++i) {
      const std::lock_guard guard(lock);
      ++sum;
    }
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(sum, 400'000U);
}

TEST(SpinLock, LetsTheNextInWhenItIsFree) {
  SpinLock lock;
  lock.lock();
  std::thread next([&] { const std::lock_guard guard(lock); });
  lock.unlock();
  next.join();
  EXPECT_TRUE(lock.try_lock());
}

}  // namespace
}  // namespace common
