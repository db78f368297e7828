#include "common/config_file.hpp"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<Setting> settings_of(const std::string& text) {
  auto parsed = parse_config(text, "x.conf");
  if (!parsed) ADD_FAILURE() << parsed.error().what;
  return parsed.value_or(std::vector<Setting>{});
}

std::string refusal_of(const std::string& text) {
  const auto parsed = parse_config(text, "x.conf");
  return parsed ? "accepted" : parsed.error().what;
}

TEST(ConfigFile, SkipsBlankLinesAndComments) {
  EXPECT_THAT(settings_of(""), IsEmpty());
  EXPECT_THAT(settings_of("\n  \t\r\n# a = b\n  ; a = b\n"), IsEmpty());
}

TEST(ConfigFile, ReadsWordsAndQuotedText) {
  EXPECT_THAT(
      settings_of("queues = 4\n"
                  "cpus=0,2-3 # the second node\r\n"
                  "  blk-file = \"/srv/my disk#1.img\"   # the image\n"
                  "serial = 'a\"b\\c'"),
      ElementsAre(Setting{"queues", "4", 1}, Setting{"cpus", "0,2-3", 2},
                  Setting{"blk-file", "/srv/my disk#1.img", 3}, Setting{"serial", "a\"b\\c", 4}));
}

TEST(ConfigFile, UnderstandsTwoEscapesInDoubleQuotes) {
  EXPECT_EQ(settings_of(R"(a = "x\"y\\z")")[0].value, "x\"y\\z");
  EXPECT_THAT(refusal_of(R"(a = "x\n")"), HasSubstr("the value of a cannot be read"));
}

TEST(ConfigFile, AllowsAnEmptyQuotedValueOnly) {
  EXPECT_EQ(settings_of("a = \"\"")[0].value, "");
  EXPECT_THAT(refusal_of("a ="), HasSubstr("the value of a cannot be read"));
  EXPECT_THAT(refusal_of("a = # none"), HasSubstr("the value of a cannot be read"));
}

TEST(ConfigFile, RefusesWhatItWouldHaveToGuess) {
  for (const auto* value : {"two words", "\"open", "'open", "\"a\" b", "[1, 2]", "a\"b\"", "a=b",
                            "\"ends in an escape\\"}) {
    EXPECT_EQ(refusal_of("\nname = " + std::string(value)),
              "x.conf, line 2: the value of name cannot be read: put it in double quotes");
  }
}

TEST(ConfigFile, RefusesALineThatIsNoSetting) {
  EXPECT_EQ(refusal_of("read-only"), "x.conf, line 1: this is no setting: write name = value");
  EXPECT_THAT(refusal_of("= 4"), HasSubstr("no setting"));
  EXPECT_THAT(refusal_of("two names = 4"), HasSubstr("no setting"));
  EXPECT_THAT(refusal_of("[disk]"), HasSubstr("sections are not supported"));
}

TEST(ConfigFile, RefusesASettingMadeTwice) {
  EXPECT_EQ(refusal_of("a = 1\nb = 2\na = 3\n"),
            "x.conf, line 3: a is set in line 1 already: remove one of the two");
}

TEST(ConfigFile, TakesARepeatedSettingAgain) {
  const auto settings = parse_config("a = 1\nb = 2\na = 3\n", "x.conf", {"a"});
  ASSERT_TRUE(settings.has_value()) << settings.error().what;
  EXPECT_EQ(*settings, (std::vector<Setting>{{"a", "1", 1}, {"b", "2", 2}, {"a", "3", 3}}));
  EXPECT_EQ(parse_config("b = 1\nb = 2\n", "x.conf", {"a"}).error().what,
            "x.conf, line 2: b is set in line 1 already: remove one of the two");
}

TEST(ConfigFile, SurvivesAnyBytes) {
  std::string bytes = "a=\"";
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  for (std::size_t from = 0; from < bytes.size(); ++from) {
    (void)parse_config(bytes.substr(from), "x.conf");
  }
}

TEST(ConfigFile, IsReadFromTheDisk) {
  const test::TempFolder folder;
  // Longer than one read.
  test::write_text(folder / "a.conf", "# " + std::string(10'000, '-') + "\nqueues = 4\n");
  EXPECT_THAT(*read_config(folder / "a.conf"), ElementsAre(Setting{"queues", "4", 2}));
}

TEST(ConfigFile, RefusesAFileThatIsMissingOrAFolder) {
  const test::TempFolder folder;
  EXPECT_THAT(read_config(folder / "none").error().what,
              HasSubstr("none' cannot be read: No such file"));
  EXPECT_THAT(read_config(folder.path().string()).error().what, HasSubstr("Is a directory"));
}

TEST(ConfigFile, RefusesAFileWithoutAnEnd) {
  EXPECT_THAT(read_config("/dev/zero").error().what, HasSubstr("too large"));
}

}  // namespace
}  // namespace common
