#include "backends/net/uplink/tap_queue.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/unit/net/frame/tcp_frame.hpp"

/*
 * A TAP's queue gives and takes a frame per call, as a datagram socket does: where the kernel's
 * part does not matter, one stands in for the other.
 */
namespace net::tests {
namespace {

constexpr PortId port{7};

class TapQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
    const int bytes = 1 << 20;
    for (const int end : ends) ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    queue_ = std::make_unique<TapQueue>(vhost::UniqueFd(ends[0]), port, "--uplink tap:t");
    kernel_ = vhost::UniqueFd(ends[1]);
    burst_.room.resize(queue_->room_needed());
  }

  bool kernel_sends(const TapHeader& header, std::span<const std::byte> frame) {
    const std::array from{iovec{const_cast<TapHeader*>(&header), sizeof header},
                          iovec{const_cast<std::byte*>(frame.data()), frame.size()}};
    return ::writev(kernel_.get(), from.data(), from.size()) >= 0;
  }
  /// The header and the frame that the kernel is given next.
  std::pair<TapHeader, std::vector<std::byte>> kernel_takes() {
    TapHeader header{};
    std::vector<std::byte> frame(longest_frame + 1);
    const std::array to{iovec{&header, sizeof header}, iovec{frame.data(), frame.size()}};
    const ssize_t bytes = ::readv(kernel_.get(), to.data(), to.size());
    frame.resize(bytes < 0 ? 0 : static_cast<std::size_t>(bytes) - sizeof header);
    return {header, std::move(frame)};
  }
  [[nodiscard]] std::uint64_t dropped(Drop why) const {
    return queue_->traffic().dropped[static_cast<std::size_t>(why)].value();
  }

  std::unique_ptr<TapQueue> queue_;
  vhost::UniqueFd kernel_;
  Burst burst_;
  const Accepts all_{true, true, true, true, true};
  std::vector<std::byte> bounce_ = std::vector<std::byte>(longest_frame);
};

TEST_F(TapQueueTest, FindsNothing) {
  burst_.count = 3;
  EXPECT_FALSE(queue_->take(burst_));
  EXPECT_EQ(burst_.count, 0U);
}

TEST_F(TapQueueTest, TakesFramesOfEveryLengthAsTheyAre) {
  for (const std::size_t length : {std::size_t{14}, std::size_t{60}, Frame::longest_head - 1,
                                   Frame::longest_head, Frame::longest_head + 1, std::size_t{1518},
                                   std::size_t{9018}, std::size_t{longest_plain_frame}}) {
    const auto bytes = counting_bytes(length);
    ASSERT_TRUE(kernel_sends({}, bytes)) << length;
    ASSERT_TRUE(queue_->take(burst_));
    ASSERT_EQ(burst_.count, 1U) << length;
    EXPECT_EQ(bytes_of(burst_.frames[0]), bytes);
    EXPECT_TRUE(burst_.frames[0].plain());
    queue_->release();
  }
  EXPECT_EQ(queue_->traffic().frames.value(), 8U);
  EXPECT_EQ(queue_->traffic().bytes.value(), 14 + 60 + 3 * 256 + 1518 + 9018 + longest_plain_frame);
}

TEST_F(TapQueueTest, DropsWhatIsNoFrame) {
  const auto bytes = counting_bytes(longest_frame + 1);
  ASSERT_EQ(::write(kernel_.get(), bytes.data(), 5), 5);
  ASSERT_TRUE(kernel_sends({}, std::span(bytes).first(ethernet_bytes - 1)));
  EXPECT_TRUE(queue_->take(burst_));
  EXPECT_EQ(burst_.count, 0U);
  EXPECT_EQ(dropped(Drop::too_short), 2U);

  ASSERT_TRUE(kernel_sends({}, bytes));
  EXPECT_TRUE(queue_->take(burst_));
  EXPECT_EQ(burst_.count, 0U);
  EXPECT_EQ(dropped(Drop::too_long), 1U);
  EXPECT_EQ(queue_->traffic().frames.value(), 0U);
}

TEST_F(TapQueueTest, TakesABurstInOrderWithEveryByteInItsPlace) {
  std::vector<std::vector<std::byte>> sent;
  for (std::size_t i = 0; i < 9; ++i) {
    auto bytes = counting_bytes(200 + 173 * i);
    bytes[0] = static_cast<std::byte>(i);
    bytes.back() = static_cast<std::byte>(0xf0 + i);
    ASSERT_TRUE(kernel_sends({}, bytes));
    sent.push_back(std::move(bytes));
  }
  ASSERT_TRUE(queue_->take(burst_));
  ASSERT_EQ(burst_.count, sent.size());
  for (std::size_t i = 0; i < sent.size(); ++i) EXPECT_EQ(bytes_of(burst_.frames[i]), sent[i]) << i;
  EXPECT_EQ(queue_->traffic().bursts.value(), 1U);
}

TEST_F(TapQueueTest, EndsABurstOfTheLongestFramesWhenItsBufferIsFull) {
  constexpr TapHeader undone{{needs_csum, gso::tcp4, 54, 1448, 34, 16}, 0};
  auto bytes = tcp4_frame(65535 + ethernet_bytes);
  std::size_t in_socket = 0;
  std::vector<std::vector<std::byte>> taken;
  for (unsigned i = 0; i < 20;) {
    bytes[6] = static_cast<std::byte>(i);
    if (in_socket < 8 && kernel_sends(undone, bytes)) {
      ++in_socket;
      ++i;
      continue;
    }
    ASSERT_TRUE(queue_->take(burst_));
    ASSERT_GE(burst_.count, 1U);
    ASSERT_LE(burst_.count, 6U);
    for (const Frame& frame : burst_.taken()) taken.push_back(bytes_of(frame));
    in_socket -= burst_.count;
  }
  while (queue_->take(burst_)) {
    for (const Frame& frame : burst_.taken()) taken.push_back(bytes_of(frame));
  }
  ASSERT_EQ(taken.size(), 20U);
  for (unsigned i = 0; i < 20; ++i) {
    bytes[6] = static_cast<std::byte>(i);
    EXPECT_EQ(taken[i], bytes) << i;
  }
}

TEST_F(TapQueueTest, EndsABurstThatIsToBeCutIntoTooManySegments) {
  constexpr TapHeader into_bytes{{needs_csum, gso::tcp4, 54, 1, 34, 16}, 0};
  const auto sends = [&](std::size_t segments) {
    ASSERT_TRUE(kernel_sends(into_bytes, tcp4_frame(54 + segments)));
  };
  const auto takes = [&](std::size_t frames) {
    ASSERT_TRUE(queue_->take(burst_));
    EXPECT_EQ(burst_.count, frames);
  };
  sends(most_segments);
  sends(most_segments);
  sends(most_segments);
  takes(2);  // as many as a burst may have
  takes(1);
  sends(2);
  sends(most_segments - 1);
  sends(2);
  takes(2);  // one more might have been too much
  takes(1);
}

TEST_F(TapQueueTest, TakesWhatTheKernelLeftUndone) {
  auto bytes = counting_bytes(1000);
  const TapHeader undone{{needs_csum, gso::none, 99, 0, 34, 16}, 5};
  bytes[12] = std::byte{8};
  bytes[13] = std::byte{0};
  ASSERT_TRUE(kernel_sends(undone, bytes));
  ASSERT_TRUE(queue_->take(burst_));
  ASSERT_EQ(burst_.count, 1U);
  EXPECT_EQ(burst_.frames[0].offload.flags, needs_csum);
  EXPECT_EQ(burst_.frames[0].offload.csum_start, 34);
  EXPECT_EQ(burst_.frames[0].offload.csum_offset, 16);
}

TEST_F(TapQueueTest, ChecksTheKernelsHeaderAsAGuests) {
  const auto bytes = counting_bytes(1000);
  ASSERT_TRUE(kernel_sends({{needs_csum, gso::none, 0, 0, 999, 16}, 0}, bytes));
  ASSERT_TRUE(kernel_sends({{needs_csum, gso::tcp4, 0, 0, 34, 16}, 0}, bytes));
  EXPECT_TRUE(queue_->take(burst_));
  EXPECT_EQ(burst_.count, 0U);
  EXPECT_EQ(dropped(Drop::bad_checksum), 1U);
  EXPECT_EQ(dropped(Drop::bad_segmentation), 1U);
}

TEST_F(TapQueueTest, SendsAFrameWithWhatIsUndone) {
  OwnedFrame owned(counting_bytes(9000), 1000);
  owned.frame.offload = {needs_csum, gso::tcp6, 0, 1400, 54, 16};
  ASSERT_EQ(queue_->send(owned.frame, all_, bounce_), TapQueue::Sent::sent);
  const auto [header, frame] = kernel_takes();
  EXPECT_EQ(frame, counting_bytes(9000));
  EXPECT_EQ(header.offload.flags, needs_csum);
  EXPECT_EQ(header.offload.gso_type, gso::tcp6);
  EXPECT_EQ(header.offload.gso_size, 1400);
  EXPECT_EQ(header.offload.csum_start, 54);
  EXPECT_EQ(header.offload.csum_offset, 16);
  // Never more than is there, and never 0: the kernel would take the frame in one piece.
  EXPECT_EQ(header.offload.hdr_len, Frame::usual_head);
  EXPECT_EQ(header.num_buffers, 0);
}

TEST_F(TapQueueTest, SendsAFrameInMorePiecesThanTheKernelTakes) {
  for (const std::size_t pieces : {1022U, 1023U, 5000U}) {
    const std::size_t length = Frame::usual_head + pieces;
    const OwnedFrame owned(counting_bytes(length), 1);
    ASSERT_EQ(owned.frame.rest.size(), pieces);
    ASSERT_EQ(queue_->send(owned.frame, all_, bounce_), TapQueue::Sent::sent);
    EXPECT_EQ(kernel_takes().second, counting_bytes(length));
  }
}

TEST_F(TapQueueTest, NeverWaitsForTheKernel) {
  const OwnedFrame owned(counting_bytes(60000));
  int sent = 0;
  while (queue_->send(owned.frame, all_, bounce_) == TapQueue::Sent::sent)
    ASSERT_LT(++sent, 10'000);
  EXPECT_EQ(queue_->send(owned.frame, all_, bounce_), TapQueue::Sent::full);
  (void)kernel_takes();
  for (int i = 1; i < sent; ++i) (void)kernel_takes();
  EXPECT_EQ(queue_->send(owned.frame, all_, bounce_), TapQueue::Sent::sent);
}

TEST_F(TapQueueTest, SaysWhatTheKernelRefuses) {
  kernel_ = {};
  const OwnedFrame owned(counting_bytes(100));
  EXPECT_EQ(queue_->send(owned.frame, all_, bounce_), TapQueue::Sent::refused);
  EXPECT_FALSE(queue_->gone());
}

TEST_F(TapQueueTest, LooksOnceMoreBeforeItsWorkerSleeps) {
  EXPECT_FALSE(queue_->arm());
  ASSERT_TRUE(kernel_sends({}, counting_bytes(60)));
  EXPECT_TRUE(queue_->arm());
  pollfd wake{queue_->wake_fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&wake, 1, 0), 1);
}

TEST_F(TapQueueTest, BelongsToItsPort) {
  EXPECT_EQ(queue_->port(), port);
}

}  // namespace
}  // namespace net::tests
