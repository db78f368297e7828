#include "libvhost/frontend/net_queue.hpp"

#include "tests/unit/frontend/net_fixture.hpp"

namespace vhost::frontend {
namespace {

/// Receive buffers of 100 bytes, unless a test wants others.
class NetQueueReceiving : public NetTest {
 protected:
  static constexpr std::uint32_t room = 100;
  void attach_small(NetOptions options = {}) {
    options.queue.ring.size = 16;
    if (options.buffer_bytes == 0) options.buffer_bytes = room;
    attach(options);
  }
  /// Has the device say of one buffer that it wrote this much.
  void use_one(std::uint32_t written, std::uint16_t num_buffers) {
    const auto chain = switch_.next(to_guest);
    ASSERT_TRUE(chain);
    Bytes header(12);
    std::memcpy(header.data() + 10, &num_buffers, sizeof num_buffers);
    switch_.fill(*chain, header);
    switch_.use(to_guest, chain->head, written);
  }
};

TEST_F(NetQueueReceiving, FrameInOneBuffer) {
  attach_small();
  switch_.deliver(to_guest, behind_header(pattern(60)), 1);
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(60));
  EXPECT_EQ(last_pieces_, 1u);
  NetFrame none;
  EXPECT_EQ(queue().receive(none), Poll::empty);
}

TEST_F(NetQueueReceiving, HeaderIsHandedOn) {
  attach_small();
  Bytes whole = behind_header(pattern(60));
  const NetHeader header{1, 4, 54, 1448, 34, 16, 0};
  std::memcpy(whole.data(), &header, 10);
  switch_.deliver(to_guest, whole, 1);
  switch_.show(to_guest);
  EXPECT_EQ(receive().size(), 60u);
  EXPECT_EQ(last_header_.flags, 1);
  EXPECT_EQ(last_header_.gso_type, 4);
  EXPECT_EQ(last_header_.gso_size, 1448);
  EXPECT_EQ(last_header_.csum_start, 34);
  EXPECT_EQ(last_header_.csum_offset, 16);
  EXPECT_EQ(last_header_.num_buffers, 1);
}

TEST_F(NetQueueReceiving, FrameIsPutTogetherFromSeveralBuffers) {
  attach_small();
  const std::size_t two_buffers = 2 * room - 12;
  for (const std::size_t bytes : {two_buffers - 1, two_buffers, two_buffers + 1}) {
    const std::uint16_t buffers = bytes <= two_buffers ? 2 : 3;
    EXPECT_EQ(switch_.deliver(to_guest, behind_header(pattern(bytes)), buffers), buffers);
    switch_.show(to_guest);
    EXPECT_EQ(receive(), pattern(bytes));
    EXPECT_EQ(last_pieces_, buffers);
  }
}

TEST_F(NetQueueReceiving, FrameMayTakeEveryBuffer) {
  attach_small();
  const std::size_t bytes = 16 * room - 12;
  EXPECT_EQ(switch_.deliver(to_guest, behind_header(pattern(bytes)), 16), 16u);
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(bytes));
}

TEST_F(NetQueueReceiving, DeviceSeesABufferAgainOnlyWhenItWasGivenBack) {
  attach_small({.buffers = 2});
  NetFrame first, second;
  for (int i = 0; i < 2; ++i) switch_.deliver(to_guest, behind_header(pattern(10)), 1);
  switch_.show(to_guest);
  ASSERT_EQ(queue().receive(first), Poll::done);
  ASSERT_EQ(queue().receive(second), Poll::done);
  EXPECT_NE(first.pieces.front().buffer, second.pieces.front().buffer);
  queue().kick();
  EXPECT_FALSE(switch_.next(to_guest));

  queue().give_back(first);
  EXPECT_TRUE(first.pieces.empty());
  EXPECT_FALSE(switch_.next(to_guest)) << "before kick()";
  queue().kick();
  EXPECT_TRUE(switch_.next(to_guest));
  EXPECT_FALSE(switch_.next(to_guest));
}

TEST_F(NetQueueReceiving, HeaderAloneIsAnEmptyFrame) {
  attach_small();
  use_one(12, 1);
  switch_.show(to_guest);
  EXPECT_EQ(receive().size(), 0u);
}

TEST_F(NetQueueReceiving, LessThanAHeaderBreaks) {
  attach_small();
  use_one(11, 1);
  switch_.show(to_guest);
  expect_broken("less than a header");
}

TEST_F(NetQueueReceiving, WholeBufferIsWritten) {
  attach_small();
  use_one(room, 1);
  switch_.show(to_guest);
  EXPECT_EQ(receive().size(), room - 12);
}

TEST_F(NetQueueReceiving, MoreThanTheBufferBreaks) {
  attach_small();
  use_one(room + 1, 1);
  switch_.show(to_guest);
  expect_broken("more than the buffer");
}

TEST_F(NetQueueReceiving, NoBuffersBreaks) {
  attach_small();
  use_one(room, 0);
  switch_.show(to_guest);
  expect_broken("no buffers");
}

TEST_F(NetQueueReceiving, MoreBuffersThanThereAreBreaks) {
  attach_small();
  use_one(room, 17);
  switch_.show(to_guest);
  expect_broken("more than there are");
}

TEST_F(NetQueueReceiving, FrameThatIsNotThereAsAWholeBreaks) {
  attach_small();
  use_one(room, 2);
  switch_.show(to_guest);
  expect_broken("before all of its buffers");
}

TEST_F(NetQueueReceiving, RoomInABufferThatIsNotTheLastBreaks) {
  attach_small();
  use_one(room - 1, 2);
  use_one(room, 0);
  switch_.show(to_guest);
  expect_broken("left room");
}

TEST_F(NetQueueReceiving, RoomInAMiddleBufferBreaks) {
  attach_small();
  use_one(room, 3);
  use_one(room - 1, 0);
  use_one(room, 0);
  switch_.show(to_guest);
  expect_broken("left room");
}

TEST_F(NetQueueReceiving, NothingInALaterBufferBreaks) {
  attach_small();
  use_one(room, 2);
  use_one(0, 0);
  switch_.show(to_guest);
  expect_broken("wrote nothing");
}

TEST_F(NetQueueReceiving, MoreThanALaterBufferBreaks) {
  attach_small();
  use_one(room, 2);
  use_one(room + 1, 0);
  switch_.show(to_guest);
  expect_broken("more than the buffer, into one");
}

TEST_F(NetQueueReceiving, ForeignChainBreaksTheRing) {
  attach_small();
  switch_.use(to_guest, 16, 60);
  switch_.show(to_guest);
  expect_broken("beyond the ring");
}

TEST_F(NetQueueReceiving, ForeignChainWithinAFrameBreaksToo) {
  attach_small();
  use_one(room, 2);
  switch_.use(to_guest, 16, 60);
  switch_.show(to_guest);
  expect_broken("beyond the ring");
}

TEST_F(NetQueueReceiving, BrokenPairStillSends) {
  attach_small();
  use_one(room + 1, 1);
  switch_.show(to_guest);
  expect_broken("more than");
  const auto buffer = memory_.allocate(60);
  ASSERT_TRUE(buffer);
  const Segment data = buffer->segment();
  EXPECT_TRUE(queue().send({}, std::span(&data, 1)));
  queue().kick();
  EXPECT_EQ(switch_.take(from_guest).size(), 1u);
}

TEST_F(NetQueueReceiving, BrokenPairIsWholeAfterDetachAndStart) {
  attach_small();
  use_one(room, 3);
  use_one(room - 1, 0);
  switch_.show(to_guest);
  expect_broken("left room");
  std::ignore = driver_->detach();
  ASSERT_TRUE(driver_->start());
  const std::size_t every_buffer = 16 * room - 12;
  EXPECT_EQ(switch_.deliver(to_guest, behind_header(pattern(every_buffer)), 16), 16u);
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(every_buffer));
}

TEST_F(NetQueueReceiving, HeldFrameSurvivesDetachAndStart) {
  attach_small({.buffers = 2});
  switch_.deliver(to_guest, behind_header(pattern(10)), 1);
  switch_.show(to_guest);
  NetFrame frame;
  ASSERT_EQ(queue().receive(frame), Poll::done);
  std::ignore = driver_->detach();
  ASSERT_TRUE(driver_->start());
  EXPECT_TRUE(switch_.next(to_guest));
  EXPECT_FALSE(switch_.next(to_guest)) << "the frame's buffer was offered";
  queue().give_back(frame);
  queue().kick();
  EXPECT_TRUE(switch_.next(to_guest));
}

TEST_F(NetQueueReceiving, LegacyHeaderHasTenBytesAndADescriptor) {
  switch_.backend.features &= ~(bit(feature::version_1) | bit(net_feature::mrg_rxbuf));
  attach_small();
  EXPECT_EQ(queue().header_bytes(), 10u);
  const auto chain = switch_.next(to_guest);
  ASSERT_TRUE(chain);
  ASSERT_EQ(chain->descriptors.size(), 2u);
  EXPECT_EQ(chain->descriptors[0].length, 10u);
  EXPECT_EQ(chain->descriptors[1].length, room - 10);
  const Bytes whole = behind_header(pattern(60), 10);
  switch_.use(to_guest, chain->head, static_cast<std::uint32_t>(switch_.fill(*chain, whole)));
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(60));
  EXPECT_EQ(last_header_.num_buffers, 1);
}

TEST_F(NetQueueReceiving, LegacyDeviceOfAnyLayoutGetsOneDescriptor) {
  switch_.backend.features &= ~(bit(feature::version_1) | bit(net_feature::mrg_rxbuf));
  switch_.backend.features |= bit(feature::any_layout);
  attach_small();
  EXPECT_EQ(queue().header_bytes(), 10u);
  EXPECT_EQ(switch_.next(to_guest)->descriptors.size(), 1u);
}

TEST_F(NetQueueReceiving, MergeableLegacyHeaderHasTwelveBytes) {
  switch_.backend.features &= ~bit(feature::version_1);
  attach_small();
  EXPECT_EQ(queue().header_bytes(), 12u);
  EXPECT_TRUE(driver_->mergeable());
}

TEST_F(NetQueueReceiving, WithoutMergeableBuffersTheirNumberIsNotRead) {
  switch_.backend.features &= ~bit(net_feature::mrg_rxbuf);
  attach_small();
  EXPECT_EQ(queue().header_bytes(), 12u);
  switch_.deliver(to_guest, behind_header(pattern(60)), 0xffff);
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(60));
}

TEST_F(NetQueueReceiving, BuffersAreCutIntoDescriptors) {
  attach_small({.queue = {.ring = {}}, .descriptor_bytes = 40});
  EXPECT_EQ(queue().buffers(), 16u / 3);
  const auto chain = switch_.next(to_guest);
  ASSERT_EQ(chain->descriptors.size(), 3u);
  EXPECT_EQ(chain->descriptors[2].length, 20u);
  const Bytes whole = behind_header(pattern(80));
  switch_.use(to_guest, chain->head, static_cast<std::uint32_t>(switch_.fill(*chain, whole)));
  const std::uint16_t one = 1;
  switch_.fill(*chain, Bytes(10));
  std::memcpy(memory_.regions()[0]->bytes().data() + chain->descriptors[0].addr -
                  memory_.regions()[0]->guest_address() + 10,
              &one, sizeof one);
  switch_.show(to_guest);
  EXPECT_EQ(receive(), pattern(80));
}

TEST_F(NetQueueReceiving, MoreBuffersThanTheRingHoldsAreRefused) {
  const auto refused =
      try_attach({.queue = {.ring = {.size = 16}}, .buffers = 17, .buffer_bytes = room});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().what,
            "a ring of 16 descriptors has no room for 17 receive buffers of 1 each");
}

TEST_F(NetQueueReceiving, BufferWithoutRoomForAHeaderIsRefused) {
  EXPECT_FALSE(try_attach({.buffer_bytes = 11}));
}

TEST_F(NetQueueReceiving, BufferOfAHeaderAloneIsTaken) {
  EXPECT_TRUE(try_attach({.buffer_bytes = 12}));
}

}  // namespace
}  // namespace vhost::frontend
