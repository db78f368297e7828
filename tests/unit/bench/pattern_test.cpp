#include "tools/vhost_bench/pattern.hpp"

#include <gtest/gtest.h>

namespace bench {
namespace {

class PatternTest : public testing::Test {
 protected:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(4096);
};

TEST_F(PatternTest, BlockIsRecognised) {
  fill_block(bytes_, {7, 3, 99});
  EXPECT_EQ(judge_block(bytes_, {7, 3, 99}), "");
}

TEST_F(PatternTest, AnotherBlockIsNamed) {
  fill_block(bytes_, {8, 3, 99});
  EXPECT_EQ(judge_block(bytes_, {7, 3, 99}), "is block 8");
}

TEST_F(PatternTest, OlderGenerationIsALostWrite) {
  fill_block(bytes_, {7, 2, 99});
  EXPECT_EQ(judge_block(bytes_, {7, 3, 99}), "is generation 2 instead of 3");
}

TEST_F(PatternTest, AnotherRunIsTold) {
  fill_block(bytes_, {7, 3, 98});
  EXPECT_EQ(judge_block(bytes_, {7, 3, 99}), "was written in another run");
}

TEST_F(PatternTest, EverySpoiltByteIsFound) {
  for (std::size_t at = 0; at < bytes_.size(); ++at) {
    fill_block(bytes_, {7, 3, 99});
    bytes_[at] ^= std::byte{1};
    ASSERT_NE(judge_block(bytes_, {7, 3, 99}), "") << "byte " << at;
  }
}

TEST_F(PatternTest, BookJudgesOnlyWhatWasWrittenCompletely) {
  Book book(10, 99);
  EXPECT_EQ(book.judge_read(4, bytes_), "");
  const Block block = book.begin_write(4);
  EXPECT_EQ(book.judge_read(4, bytes_), "");
  book.written(4);
  EXPECT_NE(book.judge_read(4, bytes_), "");
  fill_block(bytes_, block);
  EXPECT_EQ(book.judge_read(4, bytes_), "");
}

TEST_F(PatternTest, BookForgetsABlockWhileItIsWrittenAgain) {
  Book book(10, 99);
  const Block first = book.begin_write(4);
  book.written(4);
  const Block second = book.begin_write(4);
  EXPECT_EQ(second.generation, first.generation + 1);
  EXPECT_EQ(book.judge_read(4, bytes_), "");
}

}  // namespace
}  // namespace bench
