#include <gtest/gtest.h>

#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {
namespace {

TEST(Frame, IsCopiedWholeWhereverItsPiecesEnd) {
  const auto bytes = counting_bytes(1518);
  for (const std::size_t piece : {1UL, 7UL, 128UL, 1390UL, 4096UL}) {
    const OwnedFrame owned(bytes, piece);
    EXPECT_EQ(bytes_of(owned.frame), bytes);
  }
}

TEST(Frame, IsCopiedToPiecesOfAnySize) {
  const auto bytes = counting_bytes(300);
  const OwnedFrame owned(bytes, 100);
  std::vector<std::byte> copy(310);
  for (const std::size_t first : {0UL, 1UL, 127UL, 128UL, 129UL, 299UL, 300UL}) {
    std::ranges::fill(copy, std::byte{0xee});
    const std::array to{iovec{copy.data(), first}, iovec{copy.data() + first, 310 - first}};
    copy_frame(owned.frame, to);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), copy.begin())) << first;
    EXPECT_EQ(copy[300], std::byte{0xee});
  }
}

/// From one port of a guest to another one, with a buffer that overlaps what was sent.
TEST(Frame, IsCopiedOverItself) {
  const auto bytes = counting_bytes(1000);
  for (const bool in_one_piece : {true, false}) {
    std::vector<std::byte> memory(16);
    memory.insert(memory.end(), bytes.begin(), bytes.end());
    Frame frame;
    frame.start(Frame::usual_head, 1000);
    iovec piece{};
    fill(frame, memory.data() + 16, piece);
    if (in_one_piece) {
      copy_frame(frame, memory.data());
    } else {
      copy_frame(frame, std::array{iovec{memory.data(), 1000}});
    }
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), memory.begin()));
  }
}

TEST(Frame, TakesATagInAndOutAgain) {
  const auto bytes = counting_bytes(200);
  OwnedFrame owned(bytes);
  owned.frame.offload = {needs_csum, gso::none, 0, 0, 34, 16};
  owned.frame.push_tag(0x2fed);

  auto tagged = bytes;
  tagged.insert(tagged.begin() + 12,
                {std::byte{0x81}, std::byte{0}, std::byte{0x2f}, std::byte{0xed}});
  EXPECT_EQ(bytes_of(owned.frame), tagged);
  EXPECT_EQ(owned.frame.offload.csum_start, 38);

  owned.frame.pop_tag();
  EXPECT_EQ(bytes_of(owned.frame), bytes);
  EXPECT_EQ(owned.frame.offload.csum_start, 34);
}

TEST(Frame, LosesTheTagItCameWith) {
  auto bytes = counting_bytes(64);
  OwnedFrame owned(bytes);
  owned.frame.pop_tag();
  bytes.erase(bytes.begin() + 12, bytes.begin() + 16);
  EXPECT_EQ(bytes_of(owned.frame), bytes);
}

TEST(TakeFront, LeavesWhatLiesBehind) {
  auto bytes = counting_bytes(30);
  std::array pieces{iovec{bytes.data(), 10}, iovec{bytes.data() + 10, 20}};
  for (const std::size_t front : {0UL, 9UL, 10UL, 11UL, 30UL}) {
    auto copy = pieces;
    std::span<iovec> rest(copy);
    std::vector<std::byte> taken(front);
    take_front(rest, taken);
    EXPECT_TRUE(std::equal(taken.begin(), taken.end(), bytes.begin()));
    std::vector<std::byte> behind;
    for (const iovec& piece : rest) {
      const auto* base = static_cast<const std::byte*>(piece.iov_base);
      behind.insert(behind.end(), base, base + piece.iov_len);
    }
    EXPECT_EQ(behind, std::vector(bytes.begin() + static_cast<long>(front), bytes.end())) << front;
  }
}

}  // namespace
}  // namespace net::tests
