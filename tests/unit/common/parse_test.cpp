#include "common/parse.hpp"

#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace common {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto largest = std::numeric_limits<std::uint64_t>::max();

TEST(ParseNumber, AcceptsItsBoundsAndNothingBeyond) {
  EXPECT_EQ(parse_number("1", 1, 64), 1U);
  EXPECT_EQ(parse_number("64", 1, 64), 64U);
  EXPECT_FALSE(parse_number("0", 1, 64));
  EXPECT_FALSE(parse_number("65", 1, 64));
  EXPECT_EQ(parse_number("18446744073709551615", 0, largest), largest);
  EXPECT_FALSE(parse_number("18446744073709551616", 0, largest));
}

TEST(ParseNumber, RefusesAnythingButDigits) {
  for (const auto* text : {"", " 1", "1 ", "-1", "+1", "0x10", "1.0", "four", "1K"}) {
    EXPECT_FALSE(parse_number(text, 0, 100)) << text;
  }
}

TEST(ParseNumber, SaysWhatWouldBeAccepted) {
  EXPECT_EQ(parse_number("65", 1, 64).error().what,
            "'65' is not accepted: give a number from 1 to 64");
}

TEST(ParseSize, KnowsPowersOf1024) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("512"), 512U);
  EXPECT_EQ(parse_size("4K"), 4096U);
  EXPECT_EQ(parse_size("4k"), 4096U);
  EXPECT_EQ(parse_size("3MiB"), 3U << 20U);
  EXPECT_EQ(parse_size("2G"), std::uint64_t{2} << 30U);
  EXPECT_EQ(parse_size("1t"), std::uint64_t{1} << 40U);
}

TEST(ParseSize, RefusesWhatOverflows) {
  EXPECT_EQ(parse_size("16777215T"), std::uint64_t{16777215} << 40U);
  EXPECT_FALSE(parse_size("16777216T"));
}

TEST(ParseSize, RefusesOtherSuffixesSignsAndSpaces) {
  for (const auto* text : {"", "K", "1P", "1KB", "1Kib", "1 K", " 1", "-1", "1.5G", "1KK", "1{"}) {
    EXPECT_FALSE(parse_size(text)) << text;
  }
}

milliseconds duration(const std::string& text) {
  return parse_duration(text, milliseconds(0), milliseconds(10'000'000)).value_or(milliseconds(-1));
}

TEST(ParseDuration, KnowsItsUnitsAndFractions) {
  EXPECT_EQ(duration("1"), milliseconds(1000));
  EXPECT_EQ(duration("0.25"), milliseconds(250));
  EXPECT_EQ(duration("1.500"), milliseconds(1500));
  EXPECT_EQ(duration("250ms"), milliseconds(250));
  EXPECT_EQ(duration("2s"), milliseconds(2000));
  EXPECT_EQ(duration("1.5m"), milliseconds(90'000));
  EXPECT_EQ(duration("1h"), milliseconds(3'600'000));
}

TEST(ParseDuration, RefusesWhatItCannotKeepExactly) {
  for (const auto* text : {"", "s", ".5", "1.", "0.0005", "1.5ms", "1d", "1 s", "-1", "1e3",
                           "0.1234567", "99999999999999999999", "18446744073709551615h"}) {
    EXPECT_EQ(duration(text), milliseconds(-1)) << text;
  }
  for (std::size_t places = 4; places < 100; ++places) {
    EXPECT_EQ(duration("0." + std::string(places, '0') + "1"), milliseconds(-1)) << places;
  }
}

TEST(ParseDuration, AcceptsItsBoundsAndNothingBeyond) {
  const auto within = [](const char* text) {
    return parse_duration(text, milliseconds(100), milliseconds(2000));
  };
  EXPECT_TRUE(within("0.1"));
  EXPECT_TRUE(within("2"));
  EXPECT_FALSE(within("99ms"));
  EXPECT_FALSE(within("2001ms"));
  EXPECT_THAT(within("9").error().what, HasSubstr("from 100ms to 2s"));
}

TEST(ParseCpus, KeepsTheOrderAndUnrollsRanges) {
  EXPECT_THAT(*parse_cpus("4"), ElementsAre(4));
  EXPECT_THAT(*parse_cpus("3,0,5-7"), ElementsAre(3, 0, 5, 6, 7));
  EXPECT_THAT(*parse_cpus("2-2"), ElementsAre(2));
}

TEST(ParseCpus, RefusesWhatIsNoList) {
  for (const auto* text : {"", ",", "1,", ",1", "3-2", "1-", "-1", "a", "1 ,2", "1--2", "1-2-3"}) {
    EXPECT_FALSE(parse_cpus(text)) << text;
  }
}

TEST(ParseCpus, RefusesACpuNamedTwice) {
  EXPECT_EQ(parse_cpus("0-3,2").error().what, "'0-3,2' names CPU 2 twice: name it once");
}

TEST(ParseCpus, KnowsTheHighestCpuThatThereCanBe) {
  EXPECT_THAT(*parse_cpus("8191"), ElementsAre(8191));
  EXPECT_FALSE(parse_cpus("8192"));
  EXPECT_FALSE(parse_cpus("0-18446744073709551615"));
}

TEST(ParseSwitch, KnowsBothAnswersAndNoOther) {
  EXPECT_EQ(parse_switch("true"), true);
  EXPECT_EQ(parse_switch("off"), false);
  EXPECT_FALSE(parse_switch("TRUE"));
  EXPECT_FALSE(parse_switch(""));
}

}  // namespace
}  // namespace common
