#include "backends/net/guest/device.hpp"

#include "tests/unit/net/guest/two_guests.hpp"

namespace net::tests {
namespace {

using NetDevice = TwoGuests;

TEST_F(NetDevice, OffersTheSameWhateverItsPeersAre) {
  make();
  const std::uint64_t offered = left_.device->features();
  for (const std::uint64_t mask :
       {feature::csum, feature::guest_csum, feature::mtu, feature::guest_tso4, feature::guest_tso6,
        feature::guest_ecn, feature::guest_ufo, feature::host_tso4, feature::host_tso6,
        feature::host_ecn, feature::host_ufo, feature::mergeable_buffers, feature::control_queue,
        feature::guest_announce, feature::multi_queue, vhost::bit(vhost::feature::in_order)}) {
    EXPECT_NE(offered & mask, 0u) << mask;
  }
  EXPECT_EQ(offered & (feature::mac | feature::status), 0u);
  EXPECT_FALSE(vhost::has(left_.device->protocol_features(), vhost::protocol_feature::config));
}

TEST_F(NetDevice, ServesTheConfigurationSpaceWhereItIsAskedTo) {
  make(1, Polling::adaptive,
       {.pairs = 3, .mac = MacAddress{2, 0, 0, 0, 0, 7}, .serves_config = true});
  EXPECT_NE(left_.device->features() & feature::mac, 0u);
  EXPECT_NE(left_.device->features() & feature::status, 0u);
  EXPECT_TRUE(vhost::has(left_.device->protocol_features(), vhost::protocol_feature::config));
  std::array<std::uint8_t, 14> config{};
  left_.device->read_config(0, std::as_writable_bytes(std::span(config)));
  const std::array<std::uint8_t, 14> expected{
      2, 0, 0, 0, 0, 7, 1, 0, 3, 0, Device::most_mtu & 0xff, Device::most_mtu >> 8, 0, 0};
  EXPECT_EQ(config, expected);
  left_.device->read_config(6, std::as_writable_bytes(std::span(config)));
  EXPECT_EQ(config[0], 1);
  EXPECT_EQ(config[6], 0);
  EXPECT_FALSE(left_.device->write_config(0, std::as_bytes(std::span(config))));
}

TEST_F(NetDevice, OffersNothingOfAControlQueueToWhoeverLeavesItToUs) {
  make(1, Polling::adaptive, {.serves_config = true});
  EXPECT_EQ(left_.device->features() &
                (feature::control_queue | feature::guest_announce | feature::multi_queue),
            0u);
  EXPECT_EQ(left_.device->features() & feature::mac, 0u) << "it has none";
}

TEST_F(NetDevice, HasRingsForThoseWhoCountPairsAndForThoseWhoCountRings) {
  make(1, Polling::adaptive, {.pairs = 4});
  const std::uint16_t answer = left_.device->queues_offered();
  EXPECT_EQ(answer, 8);                               // rings, of 4 pairs
  EXPECT_EQ(left_.device->max_queues(), 2 * answer);  // pairs, of 2 rings each
}

TEST_F(NetDevice, GoesOnWhereItWasAfterAStop) {
  make();
  start_both();
  send(left_, counting_bytes(100));
  ASSERT_TRUE(receive(right_));
  auto transmit = left_.device->stop_ring(transmit_ring);
  auto receives = right_.device->stop_ring(receive_ring);
  ASSERT_TRUE(transmit && receives);
  EXPECT_EQ(std::get<vhost::SplitRing>(*transmit).base(), 1u);
  EXPECT_EQ(std::get<vhost::SplitRing>(*receives).base(), 1u);
  EXPECT_EQ(std::get<vhost::SplitRing>(*receives).in_flight(), 0u);

  left_.device->start_ring(transmit_ring, {std::move(*transmit), left_.transmit.kick.shared(),
                                           left_.transmit.call.shared(), nullptr});
  right_.device->start_ring(receive_ring,
                            {std::move(*receives), nullptr, right_.receive.call.shared(), nullptr});
  send(left_, counting_bytes(200));
  const auto received = receive(right_);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->frame, counting_bytes(200));
}

TEST_F(NetDevice, DiscardsWhatIsSentThroughADisabledQueue) {
  make();
  start_both();
  EXPECT_FALSE(left_.device->discards_disabled(receive_ring));
  EXPECT_TRUE(left_.device->discards_disabled(transmit_ring));
  const auto restart = [&](bool discard) {
    auto ring = left_.device->stop_ring(transmit_ring);
    ASSERT_TRUE(ring);
    left_.device->start_ring(transmit_ring, {std::move(*ring), left_.transmit.kick.shared(),
                                             left_.transmit.call.shared(), nullptr, discard});
  };
  restart(true);
  ASSERT_TRUE(eventually([&] { return asleep(left_); }));
  send(left_, counting_bytes(100));
  send(left_, counting_bytes(5));
  std::size_t given_back = 0;
  ASSERT_TRUE(eventually([&] { return (given_back += left_.transmit.take_all()) == 2; }));
  const Traffic& traffic = left_.device->from_guest_stats()[0]->traffic;
  EXPECT_EQ(traffic.dropped[static_cast<std::size_t>(Drop::disabled)].value(), 2u);
  EXPECT_EQ(traffic.frames.value(), 0u);
  restart(false);
  send(left_, counting_bytes(200));
  EXPECT_EQ(receive(right_)->frame, counting_bytes(200));
}

TEST_F(NetDevice, LosesFramesForAGuestThatIsGoneAndNothingElse) {
  make();
  start_both();
  stop(right_);
  send(left_, counting_bytes(100));
  ASSERT_TRUE(eventually([&] { return left_.transmit.take_all() == 1; }));
  EXPECT_EQ(right_.to_guest->dropped_link_down(), 1u);
}

TEST_F(NetDevice, CallsBothDriversOnceWhenItStarts) {
  make();
  start_both();
  EXPECT_TRUE(left_.receive.call.wait(5s));
  EXPECT_TRUE(left_.transmit.call.wait(5s));
}

TEST_F(NetDevice, CallsOnANewDescriptorFromThenOn) {
  make();
  start_both();
  const Event receive_call;
  const Event transmit_call;
  right_.device->set_call(receive_ring, receive_call.shared());
  left_.device->set_call(transmit_ring, transmit_call.shared());
  EXPECT_EQ(receive_call.count(), 1u);
  EXPECT_EQ(transmit_call.count(), 1u);
  send(left_, counting_bytes(100));
  EXPECT_TRUE(receive_call.wait(5s));
  EXPECT_TRUE(transmit_call.wait(5s));
}

TEST_F(NetDevice, GoesOnInAnotherMemoryMap) {
  make();
  start_both();
  const auto fewer = memory_.map({0, 1}, *map_);
  for (Guest& guest : guests_) guest.device->move_to(fewer, vhost::Drain::yes);
  send(left_, counting_bytes(100));
  ASSERT_TRUE(receive(right_));
  const auto without = memory_.map({1, 2}, *map_);
  left_.device->move_to(without, vhost::Drain::yes);
  EXPECT_EQ(left_.device->from_guest_stats()[0]->broken.value(), 1u);
  EXPECT_EQ(left_.to_guest->stats(0)->broken.value(), 1u);
  EXPECT_EQ(left_.receive.error.count(), 1u);
  EXPECT_EQ(left_.transmit.error.count(), 1u);
}

TEST_F(NetDevice, AnnouncesAGuestToItsPeers) {
  make();
  start_both();
  constexpr std::array<std::byte, 6> mac{std::byte{0x52}, std::byte{0x54}, std::byte{0},
                                         std::byte{1},    std::byte{2},    std::byte{3}};
  EXPECT_TRUE(left_.device->announce(mac));
  const auto received = receive(right_);
  ASSERT_TRUE(received);
  Bytes expected(60);
  const auto put = [&](std::size_t at, std::initializer_list<int> bytes) {
    for (const int byte : bytes) expected[at++] = static_cast<std::byte>(byte);
  };
  put(0, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2, 3, 0x80, 0x35});
  put(14, {0, 1, 8, 0, 6, 4, 0, 3});
  put(22, {0x52, 0x54, 0, 1, 2, 3, 0, 0, 0, 0});
  put(32, {0x52, 0x54, 0, 1, 2, 3, 0, 0, 0, 0});
  EXPECT_EQ(received->frame, expected);
  EXPECT_EQ(left_.device->announced().frames.value(), 1u);
}

TEST_F(NetDevice, TakesAnMtuWithinItsLimits) {
  make();
  start_both();
  EXPECT_FALSE(right_.device->set_mtu(Device::least_mtu - 1));
  EXPECT_FALSE(right_.device->set_mtu(Device::most_mtu + 1));
  EXPECT_TRUE(right_.device->set_mtu(Device::most_mtu));
  EXPECT_TRUE(right_.device->set_mtu(Device::least_mtu));
  EXPECT_EQ(right_.device->mtu(), Device::least_mtu);
  send(left_, counting_bytes(Device::least_mtu + 18 + 1));
  send(left_, counting_bytes(Device::least_mtu + 18));
  const auto received = receive(right_);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->frame.size(), Device::least_mtu + 18u);
}

TEST_F(NetDevice, ForgetsAnMtuThatTheDriverHasNotAccepted) {
  make();
  EXPECT_TRUE(right_.device->set_mtu(1500));
  right_.device->set_features(modern | feature::mtu);
  EXPECT_EQ(right_.device->mtu(), 1500);
  right_.device->set_features(modern);
  EXPECT_EQ(right_.device->mtu(), Device::most_mtu);
  start_both();
  send(left_, counting_bytes(2000));
  EXPECT_TRUE(receive(right_));
}

TEST_F(NetDevice, CallsForWhatItDeliveredBeforeItStops) {
  make();
  start_both();
  ASSERT_TRUE(left_.receive.call.wait(5s));
  (void)left_.receive.call.count();
  OwnedFrame owned(counting_bytes(100));
  Frame* const frame = &owned.frame;
  left_.to_guest->deliver(std::span(&frame, 1), 0);  // as a worker does that is not done yet
  EXPECT_TRUE(left_.device->stop_ring(receive_ring));
  EXPECT_EQ(left_.receive.call.count(), 1u);
}

TEST_F(NetDevice, LetsGoOfTheDescriptorsOfAGuestThatIsGone) {
  make(2);
  for (const std::uint16_t index : {receive_ring, transmit_ring}) {
    auto ring = index == receive_ring ? left_.receive.start(map_) : left_.transmit.start(map_);
    const std::array held{ring.call, ring.error, ring.kick};
    left_.device->start_ring(index, std::move(ring));
    EXPECT_TRUE(left_.device->stop_ring(index));
    for (const auto& descriptor : held) EXPECT_EQ(descriptor.use_count(), 1) << index;
  }
}

TEST_F(NetDevice, PassesAChecksumRequestOnOnlyToWhoAcceptsIt) {
  make();
  auto frame = counting_bytes(100);
  start_both(modern | feature::csum | feature::guest_csum);
  send(left_, frame, {needs_csum, gso::none, 0, 0, 34, 16});
  auto received = receive(right_);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->header.flags, needs_csum);
  EXPECT_EQ(received->header.csum_start, 34);
  EXPECT_EQ(received->frame, frame);

  stop(right_);
  start(right_, modern);
  send(left_, frame, {needs_csum, gso::none, 0, 0, 34, 16});
  received = receive(right_);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->header.flags, 0);
  EXPECT_NE(received->frame, frame);
  EXPECT_EQ(right_.to_guest->stats(0)->traffic.summed.value(), 1u);
}

TEST_F(NetDevice, RefusesWhatTheDriverMayNotLeaveOpen) {
  make();
  start_both(modern);
  send(left_, counting_bytes(100), {needs_csum, gso::none, 0, 0, 34, 16});
  ASSERT_TRUE(eventually([&] { return left_.transmit.take_all() == 1; }));
  const auto& dropped = left_.device->from_guest_stats()[0]->traffic.dropped;
  EXPECT_EQ(dropped[static_cast<std::size_t>(Drop::bad_checksum)].value(), 1u);
}

TEST_F(NetDevice, SpreadsItsQueuesOverTheWorkers) {
  make(2, Polling::adaptive, {.pairs = 2});
  start_both();
  GuestTransmit second(memory_, 5);
  left_.device->start_ring(3, second.start(map_));
  (void)second.send(counting_bytes(300));
  second.kick.add();
  ASSERT_TRUE(receive(right_));
  for (const auto& worker : workers_) {
    EXPECT_TRUE(eventually([&] { return worker->stats().busy_turns.value() > 0; }));
  }
  EXPECT_TRUE(left_.device->stop_ring(3));
}

}  // namespace
}  // namespace net::tests
