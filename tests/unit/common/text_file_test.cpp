#include "common/text_file.hpp"

#include <gmock/gmock.h>

#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

using testing::HasSubstr;

TEST(TextFile, IsReadAsItIs) {
  const test::TempFolder folder;
  const std::string text = " a\n" + std::string(10'000, '-') + "\r\n";  // more than one read
  test::write_text(folder / "a", text);
  EXPECT_EQ(*read_text_file(folder / "a"), text);
  test::write_text(folder / "a", "");
  EXPECT_EQ(*read_text_file(folder / "a"), "");
}

TEST(TextFile, HasNoMoreThanAMebibyte) {
  const test::TempFolder folder;
  test::write_text(folder / "a", std::string(1 << 20, 'x'));
  EXPECT_EQ(read_text_file(folder / "a")->size(), 1U << 20);
  test::write_text(folder / "a", std::string((1 << 20) + 1, 'x'));
  EXPECT_THAT(read_text_file(folder / "a").error().what, HasSubstr("too large"));
}

TEST(TextFile, ThatCannotBeReadIsNamed) {
  EXPECT_EQ(read_text_file("/nowhere/x").error().what,
            "the file '/nowhere/x' cannot be read: No such file or directory");
}

TEST(TextLines, AreTakenOffInTheirOrderWithoutTheirBlanks) {
  std::string_view text = "a b\r\n\t c \n\n d";
  EXPECT_EQ(take_line(text), "a b");
  EXPECT_EQ(take_line(text), "c");
  EXPECT_EQ(take_line(text), "");
  EXPECT_EQ(take_line(text), "d");
  EXPECT_EQ(text, "");
  EXPECT_EQ(trimmed(" \t\r"), "");
}

}  // namespace
}  // namespace common
