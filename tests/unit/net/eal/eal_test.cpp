#include "backends/net/eal/eal.hpp"

#include <rte_eal.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/cpu.hpp"
#include "tests/unit/common/temp_folder.hpp"

/*
 * EAL starts once in a process: each test that starts it does so in a child. So these tests are a
 * program of their own, one that has not started it.
 */
namespace net::tests {
namespace {

using testing::AllOf, testing::Contains, testing::HasSubstr, testing::IsEmpty, testing::Not;
using testing::StartsWith;

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t base_pages = 24;  // of 2 MiB, what DPDK needs itself

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::chrono::seconds soon{20};  // a sanitizer looks at each of DPDK's 150 drivers
#else
constexpr std::chrono::seconds soon{2};
#endif

class EalPlanTest : public testing::Test {
 protected:
  void have(std::string_view size, std::size_t free, std::size_t promised = 0) {
    const auto path = folder_.path() / "kernel/mm/hugepages" / ("hugepages-" + std::string(size));
    std::filesystem::create_directories(path);
    common::test::write_text(path / "free_hugepages", std::to_string(free) + '\n');
    common::test::write_text(path / "resv_hugepages", std::to_string(promised) + '\n');
  }
  EalPlan plan(EalSetup setup = {}) {
    setup.sysfs = folder_.path();
    const auto plan = plan_eal(setup);
    if (!plan) ADD_FAILURE() << plan.error().what;
    return plan.value_or(EalPlan{});
  }

  common::test::TempFolder folder_;
};

TEST_F(EalPlanTest, TakesHugepagesWhenEnoughAreFree) {
  have("2048kB", base_pages + 5);
  const auto chosen = plan({.memory_bytes = 10 * mebibyte});
  EXPECT_TRUE(chosen.hugepages);
  EXPECT_THAT(chosen.arguments, Contains("--in-memory"));
  EXPECT_THAT(chosen.arguments, Not(Contains("--no-huge")));
  EXPECT_THAT(chosen.note, IsEmpty());
}

TEST_F(EalPlanTest, SaysHowManyHugepagesAreMissing) {
  have("2048kB", base_pages + 4);
  have("1048576kB", 0);
  const auto chosen = plan({.memory_bytes = 10 * mebibyte});
  EXPECT_FALSE(chosen.hugepages);
  EXPECT_THAT(chosen.arguments, AllOf(Contains("--no-huge"), Contains("--no-shconf"),
                                      Contains("-m"), Contains("58")));
  EXPECT_THAT(chosen.arguments, Not(Contains("--in-memory")));
  EXPECT_THAT(chosen.note, HasSubstr("add 1 hugepages of 2048 kB to the 28 that are free"));
}

TEST_F(EalPlanTest, DoesNotTakeWhatIsPromisedToOthers) {
  have("2048kB", 100, 100 - base_pages + 1);
  EXPECT_FALSE(plan().hugepages);
  have("2048kB", 100, 100 - base_pages);
  EXPECT_TRUE(plan().hugepages);
  have("2048kB", 100, 200);
  EXPECT_FALSE(plan().hugepages);
}

TEST_F(EalPlanTest, TakesAnySizeThatSuffices) {
  have("2048kB", 3);
  have("1048576kB", 1);
  EXPECT_TRUE(plan({.memory_bytes = 900 * mebibyte}).hugepages);
  EXPECT_FALSE(plan({.memory_bytes = 1000 * mebibyte}).hugepages);
}

TEST_F(EalPlanTest, RunsOnAKernelWithoutHugepages) {
  EXPECT_THAT(plan().note, HasSubstr("this kernel has no hugepages"));
}

TEST_F(EalPlanTest, NeedsHugepagesWithoutAnIommu) {
  have("2048kB", 1);
  const auto refused =
      plan_eal({.pci_devices = {"0000:01:00.0"}, .no_iommu = true, .sysfs = folder_.path()});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what,
              HasSubstr("needs hugepages for its 48 MiB: add 23 hugepages of 2048 kB"));
  have("2048kB", base_pages);
  EXPECT_THAT(plan({.pci_devices = {"0000:01:00.0"}, .no_iommu = true}).arguments,
              Contains("--iova-mode=pa"));
}

TEST_F(EalPlanTest, TakesNoPciDevicesButThoseNamed) {
  EXPECT_THAT(plan().arguments, Contains("--no-pci"));
  const auto two = plan({.pci_devices = {"0000:01:00.0", "0000:02:00.1"}}).arguments;
  EXPECT_THAT(two, Not(Contains("--no-pci")));
  EXPECT_THAT(two, testing::IsSupersetOf({"-a", "0000:01:00.0", "0000:02:00.1"}));
  EXPECT_EQ(std::ranges::count(two, "-a"), 2);
  EXPECT_THAT(plan({.extra = {"-a", "0000:01:00.0"}}).arguments, Not(Contains("--no-pci")));
}

TEST_F(EalPlanTest, NeedsNothingOfADeviceThatIsNotThere) {
  const auto chosen = plan({.no_iommu = true});
  EXPECT_FALSE(chosen.hugepages);
  EXPECT_THAT(chosen.arguments, Contains("--iova-mode=va"));
}

TEST_F(EalPlanTest, LetsTheUserWin) {
  const EalSetup setup{.extra = {"--no-huge", "-m", "77", "--lcores=3@1", "--file-prefix=mine",
                                 "--iova-mode=pa", "--log-level=lib.eal:8", "--telemetry"}};
  const auto arguments = plan(setup).arguments;
  EXPECT_EQ(arguments.front(), "vhost-user-net");
  const std::vector<std::string> chosen(arguments.begin() + 1, arguments.end());
  EXPECT_THAT(chosen, testing::ElementsAre("--no-pci", "--no-huge", "-m", "77", "--lcores=3@1",
                                           "--file-prefix=mine", "--iova-mode=pa",
                                           "--log-level=lib.eal:8", "--telemetry"));
}

TEST_F(EalPlanTest, KeepsTheUsersSize) {
  const auto arguments = plan({.extra = {"-m512"}}).arguments;
  EXPECT_THAT(arguments, Contains("--no-huge"));
  EXPECT_THAT(arguments, Not(Contains("-m")));
  EXPECT_EQ(arguments.back(), "-m512");
}

TEST(EalArguments, AreSplitAtSpaces) {
  EXPECT_THAT(split_arguments(""), IsEmpty());
  EXPECT_THAT(split_arguments("   "), IsEmpty());
  EXPECT_THAT(split_arguments(" -m 64  --vdev=net_null0,size=64 "),
              testing::ElementsAre("-m", "64", "--vdev=net_null0,size=64"));
}

/// Runs `body` in a child; whether it returned true, and what it wrote to stdout and stderr.
std::pair<bool, std::string> in_child(const std::function<bool()>& body) {
  std::FILE* const output = std::tmpfile();
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::fileno(output), STDOUT_FILENO);
    ::dup2(::fileno(output), STDERR_FILENO);
    const bool good = body();
    std::fflush(nullptr);
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  std::rewind(output);
  std::string text(65536, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), output));
  std::fclose(output);
  return {WIFEXITED(status) && WEXITSTATUS(status) == 0, std::move(text)};
}

TEST(Eal, StartsQuicklyAndQuietly) {
  const auto [good, output] = in_child([] {
    const auto before = std::chrono::steady_clock::now();
    const auto eal = Eal::start({.memory_bytes = 16 * mebibyte});
    return eal && std::chrono::steady_clock::now() - before < soon;
  });
  EXPECT_TRUE(good);
  EXPECT_EQ(output, "");
}

TEST(Eal, LeavesTheThreadOnItsCpus) {
  const auto [good, output] = in_child([] {
    const auto before = common::allowed_cpus();
    const auto eal = Eal::start({.extra = {"--lcores=0@" + std::to_string(before->front())}});
    return eal && *common::allowed_cpus() == *before;
  });
  EXPECT_TRUE(good) << output;
}

TEST(Eal, HasTheMemoryThatWasAskedFor) {
  const auto [good, output] = in_child([] {
    const auto eal = Eal::start({.memory_bytes = 64 * mebibyte});
    return eal && ::rte_malloc(nullptr, 64 * mebibyte, 0) != nullptr;
  });
  EXPECT_TRUE(good) << output;
}

TEST(Eal, RefusesWhatTheUserAddedInOneSentence) {
  const auto [good, output] = in_child([] {
    const auto eal = Eal::start({.extra = {"--no-such-option"}});
    if (!eal) std::puts(eal.error().what.c_str());
    return !eal && eal.error().fault == vhost::Fault::operator_;
  });
  EXPECT_TRUE(good);
  EXPECT_THAT(output, StartsWith("--eal: DPDK does not start with these arguments ("));
  EXPECT_EQ(std::ranges::count(output, '\n'), 1) << output;
}

TEST(Eal, LeavesNothingBehind) {
  const common::test::TempFolder runtime;
  const auto [good, output] = in_child([&] {
    ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
    if (::geteuid() == 0 &&
        (::setgid(65534) != 0 || ::chown(runtime.path().c_str(), 65534, 65534) != 0 ||
         ::setuid(65534) != 0)) {
      return false;
    }
    return Eal::start({}).has_value();
  });
  EXPECT_TRUE(good) << output;
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(runtime.path())) {
    if (entry.path().filename() != "dpdk") ++files;
  }
  EXPECT_EQ(files, 0U);
}

TEST(Eal, GivesEachThreadAPlace) {
  const auto [good, output] = in_child([] {
    const auto eal = Eal::start({});
    if (!eal) return false;
    bool had = false;
    bool lost = false;
    std::thread worker([&] {
      {
        const EalThread place;
        had = ::rte_lcore_id() != LCORE_ID_ANY;
      }
      lost = ::rte_lcore_id() == LCORE_ID_ANY;
    });
    worker.join();
    return had && lost;
  });
  EXPECT_TRUE(good) << output;
}

}  // namespace
}  // namespace net::tests
