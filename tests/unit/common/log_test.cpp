#include "common/log.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace common::log {
namespace {

using std::chrono::seconds;
using testing::MatchesRegex;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

/// Whatever `body` logs. The log is off again afterwards.
std::string logged(Level level, Style style, const std::function<void()>& body) {
  CaptureStderr();
  set_up(level, style);
  body();
  set_up(Level::off, style);
  return GetCapturedStderr();
}

TEST(Log, HasTimeAndLevelInFrontOfALine) {
  EXPECT_THAT(logged(Level::info, Style::timestamped, [] { info("queue {} of {}", 1, "disk0"); }),
              MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+\\.[0-9]+Z info: "
                           "queue 1 of disk0\n"));
}

TEST(Log, GivesTheJournalPrioritiesAndNoTime) {
  EXPECT_EQ(logged(Level::trace, Style::journal,
                   [] {
                     write(Level::trace, "t");
                     debug("d");
                     info("i");
                     warning("w");
                     error("e");
                   }),
            "<7>t\n<7>d\n<6>i\n<4>w\n<3>e\n");
}

TEST(Log, WritesNothingBelowItsLevel) {
  EXPECT_EQ(logged(Level::warning, Style::journal,
                   [] {
                     info("i");
                     warning("w");
                   }),
            "<4>w\n");
  EXPECT_EQ(logged(Level::off, Style::journal, [] { error("e"); }), "");
}

TEST(Log, WritesOneLineWhateverIsInIt) {
  EXPECT_EQ(logged(Level::info, Style::journal, [] { info("a\n<0>b\x1b[1m%v{{}}"); }),
            "<6>a?<0>b?[1m%v{}\n");
}

TEST(Log, TakesALineWithBracesAsItIs) {
  EXPECT_EQ(logged(Level::info, Style::journal, [] { write(Level::info, "{} %d {x"); }),
            "<6>{} %d {x\n");
}

TEST(Log, FitsTheLibrarysHook) {
  using LibraryLevel = vhost::LogLevel;
  const vhost::Log hook = write_library_line;
  EXPECT_EQ(logged(Level::trace, Style::journal,
                   [&] {
                     hook(LibraryLevel::debug, "d");
                     hook(LibraryLevel::info, "i");
                     hook(LibraryLevel::warning, "w");
                     hook(LibraryLevel::error, "e");
                   }),
            "<7>d\n<6>i\n<4>w\n<3>e\n");
}

TEST(Log, KnowsTheJournalByDeviceAndInode) {
  struct stat status{};
  ASSERT_EQ(::fstat(STDERR_FILENO, &status), 0);
  const auto same = fmt::format("{}:{}", status.st_dev, status.st_ino);
  const auto other = fmt::format("{}:{}", status.st_dev, status.st_ino + 1);
  EXPECT_EQ(style_of_stderr(same.c_str()), Style::journal);
  EXPECT_EQ(style_of_stderr(other.c_str()), Style::timestamped);
  EXPECT_EQ(style_of_stderr(""), Style::timestamped);
  EXPECT_EQ(style_of_stderr(nullptr), Style::timestamped);
}

TEST(Limiter, AdmitsABurstInEachInterval) {
  Limiter limiter(seconds(10), 2);
  const Limiter::Clock::time_point start{};
  EXPECT_EQ(limiter.admit(start), 0U);
  EXPECT_EQ(limiter.admit(start + seconds(1)), 0U);
  EXPECT_FALSE(limiter.admit(start + seconds(2)));
  EXPECT_FALSE(limiter.admit(start + seconds(10) - std::chrono::nanoseconds(1)));
  EXPECT_EQ(limiter.admit(start + seconds(10)), 2U);
  EXPECT_EQ(limiter.admit(start + seconds(10)), 0U);
  EXPECT_FALSE(limiter.admit(start + seconds(11)));
}

TEST(Limiter, AdmitsAgainAfterALongSilence) {
  Limiter limiter(seconds(1));
  const Limiter::Clock::time_point start{};
  EXPECT_EQ(limiter.admit(start), 0U);
  EXPECT_EQ(limiter.admit(start + seconds(1000)), 0U);
}

TEST(Log, LimitedSaysHowManyLinesWereKeptBack) {
  Limiter limiter(std::chrono::milliseconds(20));
  const auto lines = logged(Level::info, Style::journal, [&] {
    for (int i = 0; i < 3; ++i) limited(limiter, Level::warning, "bad ring {}", i);
    ::usleep(30'000);
    limited(limiter, Level::warning, "bad ring {}", 3);
  });
  EXPECT_EQ(lines, "<4>bad ring 0\n<4>bad ring 3 (2 more lines like this were not written)\n");
}

TEST(Log, LimitedCountsNothingThatIsBelowTheLevel) {
  Limiter limiter(seconds(1000));
  EXPECT_EQ(
      logged(Level::error, Style::journal, [&] { limited(limiter, Level::warning, "quiet"); }), "");
  EXPECT_EQ(limiter.admit(), 0U);
}

}  // namespace
}  // namespace common::log
