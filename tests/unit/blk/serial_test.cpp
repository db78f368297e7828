#include "backends/blk/serial.hpp"

#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/blk/scratch.hpp"

namespace blk {
namespace {

using namespace testing_tools;

constexpr off_t mib = 1 << 20;

std::string serial_at(const std::string& path) {
  const auto image = open_to_read(path);
  if (!image) {
    ADD_FAILURE() << image.error().what;
    return {};
  }
  return default_serial(*image);
}

TEST(BlkSerial, IsTwentyPrintableBytes) {
  const ScratchFolder folder;
  const std::string serial = serial_at(folder.file("a", mib));
  EXPECT_EQ(serial.size(), 20u);
  EXPECT_TRUE(check_serial(serial));
  EXPECT_TRUE(serial.starts_with("vub-"));
}

TEST(BlkSerial, NeverChanges) {
  // On disk in fstabs: whoever changes the hash renames everybody's disks.
  EXPECT_EQ(serial_of("path /srv/a.img"), serial_of("path /srv/a.img"));
  EXPECT_EQ(serial_of(""), "vub-cbf29ce484222325");
  EXPECT_EQ(serial_of("a"), "vub-af63dc4c8601ec8c");
}

TEST(BlkSerial, OutlivesACopyPutInTheImagesPlace) {
  const ScratchFolder folder;
  const std::string path = folder.file("a", mib);
  const std::string before = serial_at(path);
  std::filesystem::rename(folder.file("restored", 2 * mib), path);
  EXPECT_EQ(serial_at(path), before);
}

TEST(BlkSerial, IsTheSameByEveryNameOfAFile) {
  const ScratchFolder folder;
  const std::string path = folder.file("a", mib);
  const std::string link = folder.path() + "/link";
  std::filesystem::create_symlink(path, link);
  EXPECT_EQ(serial_at(link), serial_at(path));
  EXPECT_EQ(serial_at(folder.path() + "/./a"), serial_at(path));
}

TEST(BlkSerial, DiffersBetweenImages) {
  const ScratchFolder folder;
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(seen.insert(serial_at(folder.file(std::to_string(i), mib))).second);
  }
}

TEST(BlkSerial, OfALoopDeviceIsItsFilesAndNotItsNumbers) {
  const ScratchFolder folder;
  const LoopDevice one(folder.file("a", mib));
  const LoopDevice two(folder.file("b", mib));
  if (!one.path() || !two.path()) GTEST_SKIP() << "no loop devices here";
  EXPECT_NE(serial_at(*one.path()), serial_at(*two.path()));
  const LoopDevice again(folder.path() + "/a");
  ASSERT_TRUE(again.path());
  EXPECT_EQ(serial_at(*again.path()), serial_at(*one.path()));
}

TEST(BlkSerial, TakesOneToTwentyCharacters) {
  EXPECT_FALSE(check_serial(""));
  EXPECT_EQ(check_serial("x").value(), "x");
  EXPECT_TRUE(check_serial(std::string(20, 'x')));
  const auto refused = check_serial(std::string(21, 'x'));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().fault, vhost::Fault::operator_);
  EXPECT_THAT(refused.error().what, testing::HasSubstr("--serial"));
}

TEST(BlkSerial, TakesPrintableAsciiOnly) {
  EXPECT_TRUE(check_serial("Disk #1 ~!"));
  for (const std::string_view text : {"a\n", "\t", "a\x7f", "\xc3\xa9", " ", "    "}) {
    EXPECT_FALSE(check_serial(text)) << text;
  }
  EXPECT_FALSE(check_serial(std::string_view("a\0b", 3)));
}

}  // namespace
}  // namespace blk
