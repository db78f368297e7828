#include "common/stats_file.hpp"

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/log.hpp"
#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;
using testing::StartsWith;

class StatsFileTest : public testing::Test {
 protected:
  /// From here on log lines are kept, up to lines().
  static void keep_log() {
    testing::internal::CaptureStderr();
    log::set_up(log::Level::info, log::Style::journal);
  }
  static std::string lines() {
    log::set_up(log::Level::off, log::Style::journal);
    return testing::internal::GetCapturedStderr();
  }

  TempFolder folder;
  std::string path = folder / "stats.json";
  StatsFile stats{path};
};

TEST_F(StatsFileTest, HoldsTheLastDocumentAndNothingElseIsLeft) {
  EXPECT_TRUE(stats.write("first, and a longer one"));
  EXPECT_TRUE(stats.write("second"));
  EXPECT_EQ(read_text(path), "second");
  EXPECT_EQ(folder.file_count(), 1U);
}

TEST_F(StatsFileTest, MayBeReadByAllWhateverTheUmask) {
  const mode_t before = ::umask(0077);
  EXPECT_TRUE(stats.write("x"));
  ::umask(before);
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0644U);
}

TEST_F(StatsFileTest, NeverShowsAReaderHalfADocument) {
  std::atomic<bool> done = false;
  std::atomic<bool> opened = false;
  ASSERT_TRUE(stats.write_json({{"n", 0}, {"pad", ""}}));
  std::thread reader([&] {
    int last = 0;
    while (!done) {
      const auto document = nlohmann::json::parse(read_text(path), nullptr, false);
      ASSERT_FALSE(document.is_discarded());
      ASSERT_GE(document["n"].get<int>(), last);
      last = document["n"].get<int>();
      opened = true;
    }
  });
  for (int i = 1; i <= 3000 || !opened; ++i) {
    ASSERT_TRUE(stats.write_json(
        {{"n", i}, {"pad", std::string(static_cast<std::size_t>(i % 1000), 'x')}}));
  }
  done = true;
  reader.join();
}

TEST_F(StatsFileTest, RemovesWhatAKilledPredecessorLeft) {
  write_text(folder / ".stats.json.tmp", "half a docu");
  EXPECT_TRUE(stats.write("whole"));
  EXPECT_EQ(read_text(path), "whole");
  EXPECT_EQ(folder.file_count(), 1U);
}

TEST_F(StatsFileTest, FollowsNoLinkLaidWhereItWrites) {
  write_text(folder / "victim", "precious");
  std::filesystem::create_symlink(folder / "victim", folder / ".stats.json.tmp");
  EXPECT_TRUE(stats.write("x"));
  EXPECT_EQ(read_text(folder / "victim"), "precious");
  EXPECT_EQ(read_text(path), "x");
}

TEST_F(StatsFileTest, ReplacesNothingButARegularFile) {
  std::filesystem::create_directory(path);
  EXPECT_FALSE(stats.write("x"));
  EXPECT_TRUE(std::filesystem::is_directory(path));
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/dev/null", path);
  EXPECT_FALSE(stats.write("x"));
  EXPECT_TRUE(std::filesystem::is_symlink(path));
  EXPECT_EQ(folder.file_count(), 1U);
}

TEST_F(StatsFileTest, WarnsOnceOfAMissingFolderAndSaysWhenItIsThere) {
  StatsFile deep(folder / "later/stats.json");
  keep_log();
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(deep.write("x"));
  const std::string missing = lines();
  EXPECT_THAT(missing, StartsWith("<4>the stats file "));
  EXPECT_THAT(missing, HasSubstr("No such file or directory\n"));
  EXPECT_EQ(std::ranges::count(missing, '\n'), 1);

  std::filesystem::create_directory(folder / "later");
  keep_log();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(deep.write("x"));
  EXPECT_EQ(lines(), "<6>the stats file " + deep.path() + " is written again\n");
}

TEST_F(StatsFileTest, WarnsAgainWhenTheReasonChanges) {
  StatsFile deep(folder / "later/stats.json");
  keep_log();
  EXPECT_FALSE(deep.write("x"));
  write_text(folder / "later", "a file, not a folder");
  EXPECT_FALSE(deep.write("x"));
  EXPECT_FALSE(deep.write("x"));
  const std::string both = lines();
  EXPECT_EQ(std::ranges::count(both, '\n'), 2);
  EXPECT_THAT(both, HasSubstr("Not a directory\n"));
}

TEST_F(StatsFileTest, KeepsTheOldDocumentWhenWritingFailsMidway) {
  EXPECT_TRUE(stats.write("old"));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 1000;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_FALSE(stats.write(std::string(2000, 'x')));
  EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(folder.file_count(), 1U);
}

TEST_F(StatsFileTest, KeepsTheOldDocumentWhileTheDiskIsFull) {
  const std::string small = folder / "small";
  std::filesystem::create_directory(small);
  if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "mounting a small tmpfs needs root";
  }
  const std::unique_ptr<const char, void (*)(const char*)> mounted(
      small.c_str(), [](const char* where) { ::umount2(where, MNT_DETACH); });
  StatsFile full(small + "/stats.json");
  EXPECT_TRUE(full.write("old"));
  keep_log();
  const std::string large(200'000, 'x');
  EXPECT_FALSE(full.write(large));
  EXPECT_FALSE(full.write(large));
  const std::string warning = lines();
  EXPECT_THAT(warning, HasSubstr("No space left on device\n"));
  EXPECT_EQ(std::ranges::count(warning, '\n'), 1);
  EXPECT_EQ(read_text(full.path()), "old");
  EXPECT_FALSE(std::filesystem::exists(small + "/.stats.json.tmp"));

  EXPECT_TRUE(full.write("new"));
  EXPECT_EQ(read_text(full.path()), "new");
}

TEST_F(StatsFileTest, RepairsTextThatIsNoUtf8) {
  EXPECT_TRUE(stats.write_json({{"image", "/srv/\xff.img"}}));
  EXPECT_EQ(nlohmann::json::parse(read_text(path))["image"], "/srv/\xef\xbf\xbd.img");
}

TEST_F(StatsFileTest, StaysWhenItsWriterEnds) {
  StatsFile(path).write("last");
  EXPECT_EQ(read_text(path), "last");
}

TEST_F(StatsFileTest, MayHaveANameWithoutAFolder) {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  EXPECT_TRUE(StatsFile("here.json").write("x"));
  std::filesystem::current_path(before);
  EXPECT_EQ(read_text(folder / "here.json"), "x");
}

}  // namespace
}  // namespace common
