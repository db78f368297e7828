#include "libvhost/frontend/net_driver.hpp"

#include "tests/unit/frontend/net_fixture.hpp"

namespace vhost::frontend {
namespace {

using namespace std::chrono_literals;

class NetDriverTest : public NetTest {
 protected:
  /// What this message carried, as a number.
  std::uint64_t payload(Request request) {
    switch_.backend.stop();
    const auto* seen = switch_.backend.find(request);
    return seen == nullptr ? ~std::uint64_t{0} : read_once<std::uint64_t>(seen->payload.data());
  }
};

TEST_F(NetDriverTest, PairHasTwoRingsAndAllAreEnabled) {
  attach({.pairs = 2});
  EXPECT_EQ(driver_->device().queue_count(), 4u);
  EXPECT_EQ(&driver_->queue(1).to_guest(), &driver_->device().queue(2));
  EXPECT_EQ(&driver_->queue(1).from_guest(), &driver_->device().queue(3));
  switch_.backend.stop();
  std::vector<std::uint32_t> enabled;
  for (const auto& message : switch_.backend.seen) {
    if (message.request != Request::set_vring_enable) continue;
    const auto state = read_once<VringState>(message.payload.data());
    if (state.value == 1) enabled.push_back(state.index);
  }
  EXPECT_EQ(enabled, (std::vector<std::uint32_t>{0, 1, 2, 3}));
}

TEST_F(NetDriverTest, BackendCountsPairsNotRings) {
  switch_.pairs = 2;
  attach({.pairs = 2});
  EXPECT_EQ(driver_->pair_count(), 2u);
}

TEST_F(NetDriverTest, MorePairsThanTheBackendHasAreRefused) {
  switch_.pairs = 2;
  const auto refused = try_attach({.pairs = 3});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().what, "the back-end has 2 pairs of queues, not 3");
}

TEST_F(NetDriverTest, BackendWithoutMqHasOnePair) {
  switch_.backend.protocol_features &= ~bit(protocol_feature::mq);
  attach();
  EXPECT_EQ(driver_->pair_count(), 1u);
}

TEST_F(NetDriverTest, BackendWithoutMqHasNotTwoPairs) {
  switch_.backend.protocol_features &= ~bit(protocol_feature::mq);
  EXPECT_FALSE(try_attach({.pairs = 2}));
}

TEST_F(NetDriverTest, NoPairIsRefused) {
  EXPECT_FALSE(try_attach({.pairs = 0}));
}

TEST_F(NetDriverTest, MostPairsAre128) {
  switch_.pairs = 1000;
  const auto refused = try_attach({.pairs = 129});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().what, "a network device has 1 to 128 pairs of queues, not 129");
}

TEST_F(NetDriverTest, MqIsAskedForWithSeveralPairsAlone) {
  attach({.pairs = 1});
  EXPECT_FALSE(has(driver_->device().features(), net_feature::mq));
}

TEST_F(NetDriverTest, MqIsAskedForWithTwoPairs) {
  attach({.pairs = 2});
  EXPECT_TRUE(has(driver_->device().features(), net_feature::mq));
}

TEST_F(NetDriverTest, NeitherConfigNorInflightIsAskedFor) {
  switch_.backend.protocol_features |= bit(protocol_feature::inflight_shmfd);
  attach();
  EXPECT_FALSE(has(driver_->device().protocol_features(), protocol_feature::config));
  EXPECT_FALSE(has(driver_->device().protocol_features(), protocol_feature::inflight_shmfd));
}

TEST_F(NetDriverTest, BuffersArePostedBeforeTheDeviceStarts) {
  attach({.queue = {.ring = {.size = 16}}});
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(switch_.next(to_guest)) << i;
  EXPECT_FALSE(switch_.next(to_guest));
}

TEST_F(NetDriverTest, MergeableBuffersAreSmall) {
  attach();
  EXPECT_EQ(queue().buffer_bytes(), 2048u);
}

TEST_F(NetDriverTest, WithoutMergeableBuffersEachTakesTheLongestFrame) {
  switch_.backend.features &= ~bit(net_feature::mrg_rxbuf);
  attach();
  EXPECT_EQ(queue().buffer_bytes(), net_longest_frame + 12);
}

TEST_F(NetDriverTest, WithoutSegmentationSmallBuffersDo) {
  switch_.backend.features &= ~(bit(net_feature::mrg_rxbuf) | bit(net_feature::guest_tso4));
  attach();
  EXPECT_EQ(queue().buffer_bytes(), 2048u);
}

TEST_F(NetDriverTest, MtuIsTold) {
  attach();
  EXPECT_TRUE(driver_->set_mtu(9000));
  EXPECT_EQ(payload(Request::net_set_mtu), 9000u);
}

TEST_F(NetDriverTest, MtuNeedsItsFeature) {
  switch_.backend.protocol_features &= ~bit(protocol_feature::mtu);
  attach();
  EXPECT_FALSE(driver_->set_mtu(9000));
  EXPECT_EQ(payload(Request::net_set_mtu), ~std::uint64_t{0});
}

TEST_F(NetDriverTest, RarpCarriesTheAddressInItsFirstSixBytes) {
  attach();
  EXPECT_TRUE(driver_->send_rarp({0x02, 0, 0, 0, 0, 0x0a}));
  EXPECT_EQ(payload(Request::send_rarp), 0x0a'00'00'00'00'02u);
}

TEST_F(NetDriverTest, RarpNeedsItsFeature) {
  switch_.backend.protocol_features &= ~bit(protocol_feature::rarp);
  attach();
  EXPECT_FALSE(driver_->send_rarp({}));
  EXPECT_EQ(payload(Request::send_rarp), ~std::uint64_t{0});
}

TEST_F(NetDriverTest, SendWaitsUntilTheDeviceHasTheFrame) {
  attach();
  std::vector<Bytes> frames;
  std::thread device([&] {
    for (int i = 0; i < 5000 && frames.empty(); ++i) {
      frames = switch_.take(from_guest);
      std::this_thread::sleep_for(1ms);
    }
  });
  const auto sent = driver_->send(pattern(60), {.flags = 1});
  device.join();
  ASSERT_TRUE(sent) << sent.error().what;
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].size(), 72u);
  EXPECT_EQ(frames[0][0], std::byte{1});
  EXPECT_EQ(Bytes(frames[0].begin() + 12, frames[0].end()), pattern(60));
}

TEST_F(NetDriverTest, SilentDeviceEndsASendAtItsDeadline) {
  attach({.send_deadline = 20ms});
  const auto sent = driver_->send(pattern(60));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().what, "a frame was not taken in time");
  EXPECT_FALSE(driver_->send(pattern(60))) << "the first is still out";
}

TEST_F(NetDriverTest, ReceiveCopiesTheFrameAndOffersItsBufferAgain) {
  attach({.buffers = 1});
  for (const std::size_t bytes : {60u, 1500u}) {
    ASSERT_EQ(switch_.deliver(to_guest, behind_header(pattern(bytes)), 1), 1u);
    switch_.show(to_guest);
    const auto received = driver_->receive(1s);
    ASSERT_TRUE(received) << received.error().what;
    EXPECT_EQ(received->bytes, pattern(bytes));
  }
}

TEST_F(NetDriverTest, NoFrameInTimeIsAnError) {
  attach();
  const auto received = driver_->receive(10ms);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().what, "no frame came in time");
}

TEST_F(NetDriverTest, BackendThatDiesIsNoticed) {
  attach();
  switch_.backend.stop();
  const auto received = driver_->receive(5s);
  ASSERT_FALSE(received);
  EXPECT_NE(received.error().what.find("went away"), std::string::npos) << received.error().what;
}

TEST_F(NetDriverTest, HostileLengthIsAnErrorOfReceive) {
  attach();
  const auto chain = switch_.next(to_guest);
  ASSERT_TRUE(chain);
  switch_.use(to_guest, chain->head, 5000);
  switch_.show(to_guest);
  const auto received = driver_->receive(1s);
  ASSERT_FALSE(received);
  EXPECT_NE(received.error().what.find("more than the buffer"), std::string::npos);
}

TEST_F(NetDriverTest, DetachReturnsTheCookiesOfSendsAlone) {
  attach({.pairs = 2});
  const auto buffer = memory_.allocate(60);
  ASSERT_TRUE(buffer);
  const Segment data = buffer->segment();
  ASSERT_TRUE(queue(1).send({}, std::span(&data, 1), 70));
  ASSERT_TRUE(queue(1).send({}, std::span(&data, 1), 71));
  queue(1).kick();
  const auto returned = driver_->detach();
  ASSERT_EQ(returned.size(), 2u);
  EXPECT_EQ(returned[0].cookie, 70u);
  EXPECT_EQ(returned[1].cookie, 71u);
  EXPECT_EQ(returned[0].queue, 3u);
  EXPECT_EQ(queue(1).from_guest().ring().outstanding(), 0u);
}

TEST_F(NetDriverTest, SlotsAreFreeAgainAfterDetach) {
  attach({.queue = {.ring = {.size = 2}}});
  const auto buffer = memory_.allocate(72);
  ASSERT_TRUE(buffer);
  const Segment data = buffer->segment();
  ASSERT_TRUE(queue().send({}, std::span(&data, 1)));
  std::ignore = driver_->detach();
  EXPECT_TRUE(queue().prepare(std::span(&data, 1)));
  EXPECT_TRUE(queue().prepare(std::span(&data, 1)));
}

TEST_F(NetDriverTest, GoesOnAfterStopAndStart) {
  attach({.buffers = 2});
  for (int i = 0; i < 3; ++i) {
    switch_.deliver(to_guest, behind_header(pattern(100)), 1);
    switch_.show(to_guest);
    EXPECT_EQ(receive(), pattern(100));
    ASSERT_TRUE(driver_->stop());
    ASSERT_TRUE(driver_->start());
  }
}

TEST_F(NetDriverTest, SuccessorOfADeadBackendFindsTheBuffers) {
  attach({.buffers = 2});
  switch_.backend.stop();
  FakeSwitch successor;
  auto connection = Connection::adopt(successor.backend.socket());
  ASSERT_TRUE(connection);
  successor.backend.run();
  const auto done = driver_->reconnect(std::move(*connection));
  ASSERT_TRUE(done) << done.error().what;
  EXPECT_EQ(successor.deliver(to_guest, behind_header(pattern(3000)), 2), 2u);
  successor.show(to_guest);
  EXPECT_EQ(receive(), pattern(3000));
  driver_.reset();
}

TEST_F(NetDriverTest, EachPairMayHaveAThread) {
  attach({.pairs = 2});
  const auto echo = [this](std::size_t pair) {
    for (std::size_t i = 1; i <= 200; ++i) {
      switch_.deliver(2 * pair, behind_header(pattern(i)), 1);
      switch_.show(2 * pair);
      NetFrame frame;
      ASSERT_EQ(queue(pair).receive(frame), Poll::done);
      EXPECT_EQ(frame.length, i);
      queue(pair).give_back(frame);
      queue(pair).kick();
    }
  };
  std::thread other([&] { echo(1); });
  echo(0);
  other.join();
}

}  // namespace
}  // namespace vhost::frontend
