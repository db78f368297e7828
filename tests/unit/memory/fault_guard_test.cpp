#include "libvhost/memory/fault_guard.hpp"

#include <poll.h>
#include <signal.h>

#include <atomic>
#include <thread>
#include <vector>

#include "libvhost/memory/mapping.hpp"
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

  static bool woken() {
    pollfd poll{fault_guard::event_fd(), POLLIN, 0};
    const bool readable = ::poll(&poll, 1, 0) == 1;
    std::uint64_t count = 0;
    if (readable) (void)!::read(poll.fd, &count, sizeof count);
    return readable;
  }
};
using FaultGuardDeathTest = FaultGuardTest;

TEST_F(FaultGuardTest, SurvivesATruncation) {
  const UniqueFd fd = shared_file(8 * page);
  const auto mapping = Mapping::map(fd.get(), 0, 8 * page);
  (void)woken();
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  EXPECT_EQ(peek(mapping->bytes(), 5 * page), std::byte{0});
  EXPECT_TRUE(mapping->lost());
  EXPECT_TRUE(woken());
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
  for (int round = 0; round < 200; ++round) {
    const UniqueFd fd = shared_file(64 * page);
    const auto mapping = Mapping::map(fd.get(), 0, 64 * page);
    std::atomic<bool> cut = false;
    const auto work = [&] {
      std::size_t at = 0;
      for (int after = 0; after < 64;) {
        auto* byte = static_cast<volatile std::byte*>(&mapping->bytes()[at]);
        *byte = std::byte{1};
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

TEST_F(FaultGuardTest, IsInstalledOnce) {
  const int before = fault_guard::event_fd();
  EXPECT_TRUE(fault_guard::install());
  EXPECT_EQ(fault_guard::event_fd(), before);
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
