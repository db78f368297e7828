#include "libvhost/frontend/net_queue.hpp"
#include "tests/unit/frontend/net_fixture.hpp"

namespace vhost::frontend {
namespace {

/// Rings of 16 descriptors.
class NetQueueSending : public NetTest {
 protected:
  void attach_small() { attach({.queue = {.ring = {.size = 16, .indirect = 4}}}); }
};

TEST_F(NetQueueSending, FrameStandsBehindItsHeader) {
  attach_small();
  const auto buffer = memory_.allocate(60);
  ASSERT_TRUE(buffer);
  std::ranges::copy(pattern(60), buffer->data);
  const std::array parts{buffer->segment(0, 14), buffer->segment(14, 46)};
  const NetHeader header{1, 0, 0, 0, 34, 6, 0};
  ASSERT_TRUE(queue().send(header, parts, 7));
  EXPECT_TRUE(switch_.take(from_guest).empty()) << "before kick()";
  queue().kick();
  const auto frames = switch_.take(from_guest);
  ASSERT_EQ(frames.size(), 1u);
  Bytes expected = behind_header(pattern(60));
  std::memcpy(expected.data(), &header, sizeof header);
  EXPECT_EQ(frames[0], expected);
  NetSent sent;
  ASSERT_EQ(queue().poll_sent(sent), Poll::done);
  EXPECT_EQ(sent.cookie, 7u);
  EXPECT_EQ(queue().poll_sent(sent), Poll::empty);
}

TEST_F(NetQueueSending, LegacyFrameStandsBehindTenBytes) {
  switch_.backend.features &= ~(bit(feature::version_1) | bit(net_feature::mrg_rxbuf));
  attach_small();
  const auto buffer = memory_.allocate(60);
  ASSERT_TRUE(buffer);
  const Segment data = buffer->segment();
  ASSERT_TRUE(queue().send({}, std::span(&data, 1)));
  queue().kick();
  EXPECT_EQ(switch_.take(from_guest).at(0).size(), 70u);
}

TEST_F(NetQueueSending, FullRingRefusesUntilPolled) {
  attach_small();
  const auto buffer = memory_.allocate(60);
  ASSERT_TRUE(buffer);
  const Segment data = buffer->segment();
  const auto send = [&] { return queue().send({}, std::span(&data, 1)); };
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(send());
  EXPECT_FALSE(send());
  queue().kick();
  EXPECT_EQ(switch_.take(from_guest).size(), 16u);
  EXPECT_FALSE(send());
  NetSent sent;
  ASSERT_EQ(queue().poll_sent(sent), Poll::done);
  EXPECT_TRUE(send());
  EXPECT_FALSE(send());
}

TEST_F(NetQueueSending, PreparedChainIsSentAgainAndAgain) {
  attach_small();
  const auto buffer = memory_.allocate(72);
  ASSERT_TRUE(buffer);
  std::ranges::copy(pattern(72), buffer->data);
  const Segment whole = buffer->segment();
  const auto slot = queue().prepare(std::span(&whole, 1), 5);
  ASSERT_TRUE(slot);
  NetSent sent;
  for (int i = 0; i < 3; ++i) {
    queue().start(*slot);
    EXPECT_FALSE(queue().drop(*slot));
    queue().kick();
    EXPECT_EQ(switch_.take(from_guest), std::vector<Bytes>{pattern(72)});
    ASSERT_EQ(queue().poll_sent(sent), Poll::done);
    EXPECT_EQ(sent.cookie, 5u);
    EXPECT_EQ(sent.slot, *slot);
  }
  EXPECT_TRUE(queue().drop(*slot));
  EXPECT_FALSE(queue().drop(*slot));
}

TEST_F(NetQueueSending, DroppedSlotsMakeRoom) {
  attach_small();
  const auto buffer = memory_.allocate(72);
  ASSERT_TRUE(buffer);
  const Segment whole = buffer->segment();
  std::optional<std::uint16_t> slot;
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(slot = queue().prepare(std::span(&whole, 1)));
  EXPECT_FALSE(queue().prepare(std::span(&whole, 1)));
  EXPECT_TRUE(queue().drop(*slot));
  EXPECT_TRUE(queue().prepare(std::span(&whole, 1)));
}

TEST_F(NetQueueSending, ForeignChainBreaksSendingAlone) {
  attach_small();
  switch_.use(from_guest, 3, 0);
  switch_.show(from_guest);
  NetSent sent;
  EXPECT_EQ(queue().poll_sent(sent), Poll::broken);
  switch_.deliver(to_guest, behind_header(pattern(10)), 1);
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(10));
}

}  // namespace
}  // namespace vhost::frontend
