#include "libvhost/memory/fault_guard.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "libvhost/memory/mapping.hpp"
#include "libvhost/ring/barrier.hpp"
#include "tests/unit/memory/shared_file.hpp"

namespace vhost::tests {
namespace {

/// Reads so that no compiler leaves it out.
std::byte peek(std::span<const std::byte> bytes, std::size_t at) {
  return *static_cast<const volatile std::byte*>(&bytes[at]);
}

class FaultGuardTest : public testing::Test {
 protected:
  FaultGuardTest() { EXPECT_TRUE(fault_guard::install()); }

  static fault_guard::Listener listener() {
    auto taken = fault_guard::Listener::take();
    EXPECT_TRUE(taken);
    return std::move(*taken);
  }
  static bool woken(fault_guard::Listener& listener) {
    pollfd poll{listener.fd(), POLLIN, 0};
    const bool readable = ::poll(&poll, 1, 0) == 1;
    if (readable) listener.clear();
    return readable;
  }
  /// A fault in a range of ours.
  static void lose_something() {
    const UniqueFd fd = shared_file(page);
    const auto mapping = Mapping::map(fd.get(), 0, page);
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    (void)peek(mapping->bytes(), 0);
    ASSERT_TRUE(mapping->lost());
  }
};
using FaultGuardDeathTest = FaultGuardTest;

TEST_F(FaultGuardTest, SurvivesATruncation) {
  const UniqueFd fd = shared_file(8 * page);
  const auto mapping = Mapping::map(fd.get(), 0, 8 * page);
  auto here = listener();
  EXPECT_FALSE(woken(here));
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  EXPECT_EQ(peek(mapping->bytes(), 5 * page), std::byte{0});
  EXPECT_TRUE(mapping->lost());
  EXPECT_TRUE(woken(here));
  EXPECT_FALSE(woken(here)) << "once for all of the range";
  mapping->bytes()[0] = std::byte{1};
  EXPECT_EQ(peek(mapping->bytes(), 0), std::byte{1}) << "private memory from now on";
}

TEST_F(FaultGuardTest, SurvivesAWriteToTheFirstAndTheLastByte) {
  for (const std::size_t at : {std::size_t{0}, std::size_t{3 * page - 1}}) {
    const UniqueFd fd = shared_file(3 * page);
    const auto mapping = Mapping::map(fd.get(), 0, 3 * page);
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    *static_cast<volatile std::byte*>(&mapping->bytes()[at]) = std::byte{1};
    EXPECT_TRUE(mapping->lost());
  }
}

TEST_F(FaultGuardTest, LosesOnlyTheFileThatWasTruncated) {
  const UniqueFd fd = shared_file(page);
  const UniqueFd other = shared_file(page);
  const auto mapping = Mapping::map(fd.get(), 0, page);
  const auto whole = Mapping::map(other.get(), 0, page);
  put(other, 7, 'k');
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  (void)peek(mapping->bytes(), 0);
  EXPECT_TRUE(mapping->lost());
  EXPECT_FALSE(whole->lost());
  EXPECT_EQ(peek(whole->bytes(), 7), std::byte{'k'});
}

TEST_F(FaultGuardTest, ANewMappingInAnOldPlaceIsNotLost) {
  for (int i = 0; i < 50; ++i) {
    const UniqueFd fd = shared_file(page);
    const auto mapping = Mapping::map(fd.get(), 0, page);
    EXPECT_FALSE(mapping->lost());
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    (void)peek(mapping->bytes(), 0);
    EXPECT_TRUE(mapping->lost());
  }
}

TEST_F(FaultGuardTest, SurvivesTruncationsUnderLoad) {
#if defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "the handler's mmap counts as a write to what is being read: that is the point";
#endif
  for (int round = 0; round < 200; ++round) {
    const UniqueFd fd = shared_file(64 * page);
    const auto mapping = Mapping::map(fd.get(), 0, 64 * page);
    std::atomic<bool> cut = false;
    const auto work = [&] {
      std::size_t at = 0;
      for (int after = 0; after < 64;) {
        std::atomic_ref(mapping->bytes()[at]).store(std::byte{1}, std::memory_order_relaxed);
        at = (at + page) % mapping->bytes().size();
        after += cut.load(std::memory_order_relaxed) ? 1 : 0;
      }
    };
    std::thread first(work);
    std::thread second(work);
    ASSERT_EQ(::ftruncate(fd.get(), static_cast<off_t>(page * (static_cast<unsigned>(round) % 60))),
              0);
    cut = true;
    first.join();
    second.join();
    EXPECT_TRUE(mapping->lost());
  }
}

TEST_F(FaultGuardTest, GuardsAsManyRangesAsItSaysAndNoMore) {
  std::vector<std::byte> range(1);
  std::vector<int> slots;
  int slot = 0;
  while ((slot = fault_guard::guard(range)) >= 0) slots.push_back(slot);
  EXPECT_EQ(slots.size(), 4096u);
  const UniqueFd fd = shared_file(page);
  EXPECT_FALSE(Mapping::map(fd.get(), 0, page));
  for (const int taken : slots) fault_guard::release(taken);
  EXPECT_TRUE(Mapping::map(fd.get(), 0, page));
}

TEST_F(FaultGuardTest, WakesEveryListener) {
  auto first = listener();
  auto second = listener();
  EXPECT_NE(first.fd(), second.fd());
  lose_something();
  EXPECT_TRUE(woken(first));
  EXPECT_TRUE(woken(second)) << "the first did not take it from the second";
}

TEST_F(FaultGuardTest, WakesAListenerBehindOneThatIsGone) {
  auto first = std::optional(listener());
  auto second = listener();
  first.reset();
  lose_something();
  EXPECT_TRUE(woken(second));
}

TEST_F(FaultGuardTest, KeepsTheEventfdOfAListenerThatIsGoneForTheNext) {
  int fd = -1;
  {
    const auto gone = listener();
    fd = gone.fd();
  }
  EXPECT_NE(::fcntl(fd, F_GETFD), -1) << "the handler may be about to write to it";
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(listener().fd(), fd);
}

TEST_F(FaultGuardTest, TellsAListenerNothingOfWhatWasLostBefore) {
  {
    const auto before = listener();
    lose_something();
  }
  auto after = listener();
  EXPECT_FALSE(woken(after));
  auto moved = std::move(after);
  lose_something();
  EXPECT_TRUE(woken(moved));
}

TEST_F(FaultGuardTest, WritesToNobodyWhoIsGone) {
  pollfd poll{-1, POLLIN, 0};
  {
    const auto gone = listener();
    poll.fd = gone.fd();
  }
  lose_something();
  EXPECT_EQ(::poll(&poll, 1, 0), 0);
}

TEST_F(FaultGuardTest, HasAsManyListenersAsItSaysAndNoMore) {
  std::vector<fault_guard::Listener> all;
  while (auto taken = fault_guard::Listener::take()) all.push_back(std::move(*taken));
  EXPECT_EQ(all.size(), 256u);
  const auto refused = fault_guard::Listener::take();
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("256"), std::string::npos) << refused.error().what;
  lose_something();
  EXPECT_TRUE(woken(all.front()));
  EXPECT_TRUE(woken(all.back()));
  const int freed = all[100].fd();
  all.erase(all.begin() + 100);
  EXPECT_EQ(listener().fd(), freed);
}

TEST_F(FaultGuardTest, WakesOneListenerWhileOthersComeAndGo) {
  std::atomic<bool> stop = false;
  const auto come_and_go = [&] {
    while (!stop) {
      auto taken = fault_guard::Listener::take();
      ASSERT_TRUE(taken);
      ASSERT_GE(taken->fd(), 0);
    }
  };
  std::thread first(come_and_go);
  std::thread second(come_and_go);
  for (int i = 0; i < 200; ++i) {
    auto here = listener();
    lose_something();
    EXPECT_TRUE(woken(here));
  }
  stop = true;
  first.join();
  second.join();
}

TEST_F(FaultGuardDeathTest, InstalledAgainItDoesNotTakeItselfForThePreviousHandler) {
#if defined(__SANITIZE_ADDRESS__) || defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "the sanitizer has a handler of its own";
#endif
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        (void)fault_guard::install();
        ::raise(SIGBUS);
        std::_Exit(0);
      },
      testing::KilledBySignal(SIGBUS), "");
}

TEST_F(FaultGuardDeathTest, AFaultInMemoryThatIsNotOursStillKills) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        (void)fault_guard::install();
        const UniqueFd fd = shared_file(page);
        void* const raw = ::mmap(nullptr, page, PROT_READ, MAP_SHARED, fd.get(), 0);
        (void)!::ftruncate(fd.get(), 0);
        (void)peek({static_cast<const std::byte*>(raw), page}, 0);
        std::_Exit(0);
      },
      "");
}

TEST_F(FaultGuardDeathTest, AnUnmappedRangeIsNotGuardedAnyMore) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        (void)fault_guard::install();
        const UniqueFd fd = shared_file(page);
        void* place = nullptr;
        {
          const auto mapping = Mapping::map(fd.get(), 0, page);
          place = mapping->bytes().data();
        }
        void* const raw = ::mmap(place, page, PROT_READ, MAP_SHARED | MAP_FIXED, fd.get(), 0);
        (void)!::ftruncate(fd.get(), 0);
        (void)peek({static_cast<const std::byte*>(raw), page}, 0);
        std::_Exit(0);
      },
      "");
}

TEST_F(FaultGuardDeathTest, ASignalThatSomebodySendsStillKills) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        (void)fault_guard::install();
        ::raise(SIGBUS);
        std::_Exit(0);
      },
      "");
}

}  // namespace
}  // namespace vhost::tests
