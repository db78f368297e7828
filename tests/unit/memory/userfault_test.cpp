#include "libvhost/memory/userfault.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "libvhost/memory/fault_guard.hpp"
#include "libvhost/memory/mapping.hpp"
#include "tests/unit/memory/shared_file.hpp"

/* Pages that come when they are touched, or never. */
namespace vhost::tests {
namespace {

using namespace std::chrono_literals;

/// A mapping whose missing pages are waited for.
class UserfaultTest : public testing::Test {
 protected:
  static constexpr std::uint64_t pages = 8;

  void SetUp() override {
    auto opened = userfault::open();
    if (!opened) GTEST_SKIP() << opened.error().what;
    userfault_ = std::move(*opened);
    ASSERT_TRUE(fault_guard::install());
    auto mapped = Mapping::map(file_.get(), 0, pages * page);
    ASSERT_TRUE(mapped);
    mapping_ = std::move(*mapped);
    ASSERT_TRUE(userfault::watch(userfault_.get(), mapping_.pages()));
  }

  std::byte peek(std::size_t at) {
    return *static_cast<const volatile std::byte*>(&mapping_.bytes()[at]);
  }
  /// The page of ours that somebody waits for; -1 if nobody does within this time.
  std::int64_t waited_for(std::chrono::milliseconds time = 5000ms) {
    pollfd poll{userfault_.get(), POLLIN, 0};
    if (::poll(&poll, 1, static_cast<int>(time.count())) != 1) return -1;
    uffd_msg event{};
    if (::read(userfault_.get(), &event, sizeof event) != sizeof event) return -1;
    const auto base = reinterpret_cast<std::uintptr_t>(mapping_.pages().data());
    return static_cast<std::int64_t>((event.arg.pagefault.address - base) / page);
  }

  UniqueFd file_ = shared_file(pages * page);
  UniqueFd userfault_;
  Mapping mapping_;
};

TEST_F(UserfaultTest, APageThatComesLateIsWaitedForAndIsRight) {
  std::atomic<int> got = -1;
  std::jthread reader([&] { got = static_cast<int>(peek(3 * page + 7)); });
  ASSERT_EQ(waited_for(), 3);
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(got, -1) << "it waits until it is woken";
  put(file_, 3 * page + 7, 'x');
  userfault::wake(userfault_.get(), mapping_.pages().subspan(3 * page, page));
  reader.join();
  EXPECT_EQ(got, 'x');
}

TEST_F(UserfaultTest, APageThatIsThereIsNotWaitedFor) {
  put(file_, page, 'y');
  EXPECT_EQ(peek(page), std::byte{'y'});
  EXPECT_EQ(waited_for(0ms), -1);
}

TEST_F(UserfaultTest, TheKernelWaitsForAPageAsWeDo) {
  std::array<UniqueFd, 2> ends;
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  ends[0] = UniqueFd(pipe[0]);
  ends[1] = UniqueFd(pipe[1]);
  std::jthread writer([&] { (void)!::write(pipe[1], mapping_.bytes().data(), 1); });
  ASSERT_EQ(waited_for(), 0);
  put(file_, 0, 'k');
  userfault::wake(userfault_.get(), mapping_.pages());
  char got = 0;
  ASSERT_EQ(::read(pipe[0], &got, 1), 1);
  EXPECT_EQ(got, 'k');
}

TEST_F(UserfaultTest, APageIsWaitedForBeforeItIsMappedOnceMore) {
  std::jthread other([&] {
    const std::array pieces{mapping_.bytes().subspan(page, page),
                            mapping_.bytes().subspan(4 * page, 8)};
    const auto again = Mapping::gather(pieces);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->bytes()[0], std::byte{'a'});
    EXPECT_EQ(again->bytes()[page], std::byte{'b'});
  });
  for (const auto& [number, value] : {std::pair{1U, 'a'}, std::pair{4U, 'b'}}) {
    ASSERT_EQ(waited_for(), number);
    put(file_, number * page, value);
    userfault::wake(userfault_.get(), mapping_.pages());
  }
}

TEST_F(UserfaultTest, WhoWaitsWhenTheRangeIsForgottenFindsZeroes) {
  std::atomic<int> got = -1;
  std::jthread reader([&] { got = static_cast<int>(peek(5 * page)); });
  ASSERT_EQ(waited_for(), 5);
  userfault::forget(userfault_.get(), mapping_.pages());
  reader.join();
  EXPECT_EQ(got, 0);
  (void)peek(6 * page);  // nobody waits any more
  EXPECT_EQ(waited_for(0ms), -1);
}

TEST_F(UserfaultTest, WhoWaitsWhenTheRangeIsGivenUpFindsZeroesThatAreNotInTheFile) {
  std::atomic<int> got = -1;
  std::jthread reader([&] { got = static_cast<int>(peek(5 * page)); });
  ASSERT_EQ(waited_for(), 5);
  ASSERT_TRUE(mapping_.give_up());
  userfault::wake(userfault_.get(), mapping_.pages());
  reader.join();
  EXPECT_EQ(got, 0);
  EXPECT_TRUE(mapping_.lost());
  EXPECT_EQ(::lseek(file_.get(), 0, SEEK_DATA), -1) << "the file has no page";
}

TEST_F(UserfaultTest, TheKernelGetsNothingOfARangeThatWasGivenUp) {
  put(file_, 0, 'a');
  (void)peek(0);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd in(pipe[0]);
  const UniqueFd out(pipe[1]);
  std::atomic<ssize_t> written = 1;
  std::jthread writer(
      [&] { written = ::write(pipe[1], mapping_.bytes().data() + 2 * page, page); });
  ASSERT_EQ(waited_for(), 2);
  ASSERT_TRUE(mapping_.give_up());
  EXPECT_EQ(peek(5 * page), std::byte{0}) << "what we read ourselves gets a page, that page alone";
  userfault::wake(userfault_.get(), mapping_.pages());
  writer.join();
  EXPECT_EQ(written, -1);
  EXPECT_EQ(::write(pipe[1], mapping_.bytes().data(), 1), -1) << "a page that had come";
  EXPECT_EQ(::write(pipe[1], mapping_.bytes().data() + 4 * page, 1), -1);
  EXPECT_EQ(::write(pipe[1], mapping_.bytes().data() + 6 * page, 1), -1);
}

TEST_F(UserfaultTest, KnowsWhetherAnyRangeIsLost) {
  EXPECT_FALSE(fault_guard::any_lost());
  ASSERT_TRUE(mapping_.give_up());
  ASSERT_TRUE(mapping_.give_up()) << "twice is once";
  (void)peek(0);
  EXPECT_TRUE(fault_guard::any_lost());
  mapping_ = Mapping();
  EXPECT_FALSE(fault_guard::any_lost());
}

TEST_F(UserfaultTest, SurvivesMoreLostPagesThanTheKernelAllowsPieces) {
  constexpr std::uint64_t many = 200'000;  // vm.max_map_count is 65530
  const UniqueFd file = shared_file(many * page);
  const auto mapping = Mapping::map(file.get(), 0, many * page);
  ASSERT_TRUE(mapping->give_up());
  for (std::uint64_t at = 0; at < many; at += 2) mapping->bytes()[at * page] = std::byte{1};
  EXPECT_TRUE(mapping->lost());
}

TEST_F(UserfaultTest, RefusesWhatIsNoSharedMemoryAndWhatIsWatchedAlready) {
  auto other = userfault::open();
  ASSERT_TRUE(other);
  EXPECT_FALSE(userfault::watch(other->get(), mapping_.pages()));
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  void* const raw = ::mmap(nullptr, page, PROT_READ, MAP_SHARED, file.get(), 0);
  ASSERT_NE(raw, MAP_FAILED);
  EXPECT_FALSE(userfault::watch(other->get(), {static_cast<std::byte*>(raw), page}));
  ::munmap(raw, page);
}

TEST_F(UserfaultTest, ServesHugePagesAndOffsetsInsideThem) {
  constexpr std::uint64_t huge = 2 << 20;
  const UniqueFd file(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | 21U << 26));
  if (!file || ::ftruncate(file.get(), 2 * huge) != 0) GTEST_SKIP() << "no huge pages";
  const auto mapping = Mapping::map(file.get(), page, huge);
  if (!mapping) GTEST_SKIP() << mapping.error().what;
  EXPECT_EQ(mapping->pages().size(), 2 * huge);
  EXPECT_EQ(mapping->pages().data() + page, mapping->bytes().data());
  EXPECT_TRUE(userfault::watch(userfault_.get(), mapping->pages()));
  EXPECT_TRUE(mapping->give_up());
  EXPECT_EQ(mapping->bytes()[huge - 1], std::byte{0});
}

}  // namespace
}  // namespace vhost::tests
