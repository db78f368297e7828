#include "common/cpu.hpp"

#include <sched.h>

#include <array>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace common {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Cpus, AllowedAreThoseOfTheAffinityMask) {
  const auto cpus = allowed_cpus();
  ASSERT_TRUE(cpus);
  cpu_set_t mask;
  ASSERT_EQ(::sched_getaffinity(0, sizeof mask, &mask), 0);
  EXPECT_EQ(cpus->size(), static_cast<std::size_t>(CPU_COUNT(&mask)));
  for (const unsigned cpu : *cpus) EXPECT_TRUE(CPU_ISSET(cpu, &mask));
}

TEST(Cpus, CheckAcceptsWhatIsAllowed) {
  EXPECT_TRUE(check_cpus({}, {0, 1}));
  EXPECT_TRUE(check_cpus({1, 0}, {0, 1}));
}

TEST(Cpus, CheckNamesTheFirstThatIsNotAllowedAndThoseThatAre) {
  EXPECT_EQ(check_cpus({1, 7}, {0, 1, 2, 5, 8, 9}).error().what,
            "CPU 7 is not there or not allowed to this process: choose from 0-2,5,8-9");
}

TEST(Cpus, PinnedThreadRunsOnTheGivenCpuOnly) {
  const auto cpus = allowed_cpus();
  ASSERT_TRUE(cpus && !cpus->empty());
  std::thread([&] {
    ASSERT_TRUE(pin_thread(::pthread_self(), {cpus->back()}));
    EXPECT_THAT(*allowed_cpus(), ElementsAre(cpus->back()));
    EXPECT_EQ(::sched_getcpu(), static_cast<int>(cpus->back()));
  }).join();
  EXPECT_EQ(*allowed_cpus(), *cpus);
}

TEST(Cpus, PinningToACpuThatIsNotThereFailsAndChangesNothing) {
  const auto before = allowed_cpus();
  EXPECT_THAT(pin_thread(::pthread_self(), {8191}).error().what, HasSubstr("CPU 8191"));
  EXPECT_FALSE(pin_thread(::pthread_self(), {}));
  EXPECT_EQ(*allowed_cpus(), *before);
}

TEST(ThreadName, IsCutToWhatTheKernelKeeps) {
  std::thread([] {
    std::array<char, 16> name{};
    name_this_thread("worker 0");
    ::pthread_getname_np(::pthread_self(), name.data(), name.size());
    EXPECT_STREQ(name.data(), "worker 0");
    name_this_thread("a name of 17 bytes");
    ::pthread_getname_np(::pthread_self(), name.data(), name.size());
    EXPECT_STREQ(name.data(), "a name of 17 by");
  }).join();
}

}  // namespace
}  // namespace common
