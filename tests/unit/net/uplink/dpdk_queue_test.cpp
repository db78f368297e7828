#include "backends/net/uplink/dpdk_queue.hpp"

#include <gtest/gtest.h>

#include "tests/unit/net/uplink/dpdk_fixture.hpp"

namespace net::tests {
namespace {

constexpr UplinkSetup setup{.port = PortId{3}, .workers = 1, .mtu = 9000};

class DpdkQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    need_eal();
    ring_ = std::make_unique<RingDevice>("queue");
    auto device = DpdkDevice::adopt(ring_->port(), {.text = "ring"}, setup);
    ASSERT_TRUE(device) << device.error().what;
    device_ = std::move(*device);
    burst_.room.resize(source().room_needed());
  }
  void TearDown() override {
    while (rte_mbuf* const mbuf = ring_->get()) ::rte_pktmbuf_free(mbuf);
    source_.reset();
    EXPECT_EQ(::rte_mempool_in_use_count(device_->tx_pool.get()), 0U);
    EXPECT_EQ(::rte_mempool_in_use_count(device_->rx_pool.get()), 0U);
    device_.reset();
    ring_.reset();
  }

  DpdkSource& source() {
    if (!source_) source_ = std::make_unique<DpdkSource>(*device_, 0, PortId{3});
    return *source_;
  }
  void send(DpdkSink& sink, std::span<Frame* const> frames) { sink.send(frames, traffic_); }
  void send(DpdkSink& sink, Frame& frame) {
    Frame* const one = &frame;
    sink.send({&one, 1}, traffic_);
  }
  /// Frames of 100 bytes and more, each one longer than the one before.
  void send_many(DpdkSink& sink, unsigned count) {
    std::vector<std::unique_ptr<OwnedFrame>> owned;
    std::vector<Frame*> frames;
    for (unsigned i = 0; i < count; ++i) {
      owned.push_back(std::make_unique<OwnedFrame>(counting_bytes(100 + i)));
      frames.push_back(&owned.back()->frame);
    }
    send(sink, frames);
  }
  rte_mbuf* received(std::span<const std::byte> bytes, std::size_t segment_bytes = SIZE_MAX) {
    rte_mbuf* first = nullptr;
    for (std::size_t at = 0; at < bytes.size() || first == nullptr;) {
      rte_mbuf* const segment = ::rte_pktmbuf_alloc(device_->rx_pool.get());
      const std::size_t here = std::min(segment_bytes, bytes.size() - at);
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), here,
                  rte_pktmbuf_mtod(segment, std::byte*));
      segment->data_len = static_cast<std::uint16_t>(here);
      segment->pkt_len = segment->data_len;
      at += here;
      if (first == nullptr) {
        first = segment;
      } else {
        EXPECT_EQ(::rte_pktmbuf_chain(first, segment), 0);
      }
    }
    return first;
  }
  std::uint64_t dropped(Drop why) const {
    return traffic_.dropped[static_cast<std::size_t>(why)].value();
  }

  std::unique_ptr<RingDevice> ring_;
  std::unique_ptr<DpdkDevice> device_;
  std::unique_ptr<DpdkSource> source_;
  Traffic traffic_;
  Burst burst_;
};

TEST_F(DpdkQueueTest, SendsFramesOfEveryLengthAsTheyAre) {
  DpdkSink sink(*device_, 0);
  for (const std::size_t length : {14U, 60U, 127U, 129U, 1518U, 2048U, 2049U, 9014U, 9022U}) {
    OwnedFrame owned(counting_bytes(length), 700);
    send(sink, owned.frame);
    EXPECT_EQ(ring_->get_bytes(), counting_bytes(length)) << length;
  }
  EXPECT_EQ(traffic_.frames.value(), 9U);
  EXPECT_EQ(traffic_.bytes.value(), 14 + 60 + 127 + 129 + 1518 + 2048 + 2049 + 9014 + 9022U);
}

TEST_F(DpdkQueueTest, DropsWhatIsLongerThanTheMtu) {
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(counting_bytes(9000 + 14 + 8 + 1));
  send(sink, owned.frame);
  EXPECT_EQ(ring_->get(), nullptr);
  EXPECT_EQ(dropped(Drop::too_big), 1U);
  EXPECT_EQ(traffic_.frames.value(), 0U);
}

TEST_F(DpdkQueueTest, KeepsTheOrderAndDropsWhatDoesNotFit) {
  DpdkSink sink(*device_, 0);
  send_many(sink, 70);
  for (unsigned i = 0; i < RingDevice::slots - 1; ++i) {
    EXPECT_EQ(ring_->get_bytes(), counting_bytes(100 + i)) << i;
  }
  EXPECT_EQ(ring_->get(), nullptr);
  EXPECT_EQ(traffic_.frames.value(), RingDevice::slots - 1);
  EXPECT_EQ(dropped(Drop::full), 70 - RingDevice::slots + 1);
}

TEST_F(DpdkQueueTest, KeepsTheOrderForADriverThatIsServedInSmallGroups) {
  device_->lends = true;
  DpdkSink sink(*device_, 0);
  send_many(sink, 30);
  for (unsigned i = 0; i < 30; ++i) EXPECT_EQ(ring_->get_bytes(), counting_bytes(100 + i)) << i;
  EXPECT_EQ(ring_->get(), nullptr);
  EXPECT_EQ(traffic_.frames.value(), 30U);
}

TEST_F(DpdkQueueTest, SumsWhatTheDriverCannot) {
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(tcp4_frame(500));
  owned.frame.offload = {needs_csum, gso::none, 0, 0, 34, 16};
  OwnedFrame same(tcp4_frame(500));
  same.frame.offload = owned.frame.offload;
  complete_checksum(same.frame);
  send(sink, owned.frame);
  const auto sent = ring_->get_bytes();
  EXPECT_NE(sent, tcp4_frame(500));
  EXPECT_EQ(sent, bytes_of(same.frame));
  EXPECT_EQ(traffic_.summed.value(), 1U);
}

TEST_F(DpdkQueueTest, CutsWhatTheDriverCannot) {
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(tcp4_frame(54 + 2500), 400);
  owned.frame.offload = {needs_csum, gso::tcp4, 0, 1000, 34, 16};
  send(sink, owned.frame);
  for (const std::size_t payload : {1000U, 1000U, 500U}) {
    EXPECT_EQ(ring_->get_bytes().size(), 54 + payload);
  }
  EXPECT_EQ(ring_->get(), nullptr);
  EXPECT_EQ(traffic_.segmented.value(), 1U);
  EXPECT_EQ(traffic_.frames.value(), 3U);
}

TEST_F(DpdkQueueTest, LeavesTheChecksumToADriverThatCan) {
  device_->accepts.checksum = true;
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(tcp4_frame(500));
  owned.frame.offload = {needs_csum, gso::none, 0, 0, 34, 16};
  send(sink, owned.frame);
  rte_mbuf* const mbuf = ring_->get();
  ASSERT_NE(mbuf, nullptr);
  EXPECT_EQ(mbuf->ol_flags, RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM);
  EXPECT_EQ(mbuf->l2_len, 14);
  EXPECT_EQ(mbuf->l3_len, 20);
  EXPECT_EQ(bytes_of(*mbuf), tcp4_frame(500));
  EXPECT_EQ(traffic_.summed.value(), 0U);
  ::rte_pktmbuf_free(mbuf);
}

TEST_F(DpdkQueueTest, LeavesALongSegmentationToADriverThatCan) {
  device_->accepts = {.checksum = true, .tso4 = true, .tso6 = true};
  DpdkSink sink(*device_, 0);
  const std::size_t length = 65549;
  OwnedFrame owned(tcp4_frame(length), 4096);
  owned.frame.offload = {needs_csum, gso::tcp4, 0, 1448, 34, 16};
  send(sink, owned.frame);
  rte_mbuf* const mbuf = ring_->get();
  ASSERT_NE(mbuf, nullptr);
  EXPECT_EQ(mbuf->ol_flags, RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_TX_TCP_SEG |
                                RTE_MBUF_F_TX_IP_CKSUM);
  EXPECT_EQ(mbuf->l4_len, 20);
  EXPECT_EQ(mbuf->tso_segsz, 1448);
  EXPECT_EQ(mbuf->pkt_len, length);
  EXPECT_EQ(::rte_mbuf_check(mbuf, 1, nullptr), 0);
  EXPECT_EQ(bytes_of(*mbuf), tcp4_frame(length));
  ::rte_pktmbuf_free(mbuf);
}

TEST_F(DpdkQueueTest, SumsItselfWhatDriversDoNotFind) {
  device_->accepts.checksum = true;
  DpdkSink sink(*device_, 0);
  // A checksum somewhere in the payload, as of a tunnel.
  OwnedFrame owned(tcp4_frame(500));
  owned.frame.offload = {needs_csum, gso::none, 0, 0, 84, 16};
  send(sink, owned.frame);
  rte_mbuf* const mbuf = ring_->get();
  ASSERT_NE(mbuf, nullptr);
  EXPECT_EQ(mbuf->ol_flags, 0U);
  EXPECT_EQ(traffic_.summed.value(), 1U);
  ::rte_pktmbuf_free(mbuf);
}

/// TCP over IPv6, behind `options` extension headers of 8 bytes.
std::vector<std::byte> tcp6_frame(std::size_t length, std::size_t options) {
  auto bytes = counting_bytes(length);
  const auto payload = length - ethernet_bytes - ipv6_bytes;
  bytes[12] = std::byte{0x86};
  bytes[13] = std::byte{0xdd};
  bytes[14] = std::byte{0x60};
  bytes[18] = static_cast<std::byte>(payload >> 8);
  bytes[19] = static_cast<std::byte>(payload & 255);
  bytes[20] = std::byte{options > 0 ? ip::destination_options : ip::tcp};
  std::size_t at = ethernet_bytes + ipv6_bytes;
  for (std::size_t i = 0; i < options; ++i, at += 8) {
    bytes[at] = std::byte{i + 1 < options ? ip::destination_options : ip::tcp};
    bytes[at + 1] = std::byte{0};
  }
  bytes[at + 12] = std::byte{0x50};
  bytes[at + 13] = std::byte{0x10};
  return bytes;
}

TEST_F(DpdkQueueTest, LeavesIpv6ToADriverButNotBehindExtensionHeaders) {
  device_->accepts = {.checksum = true, .tso4 = true, .tso6 = true};
  DpdkSink sink(*device_, 0);
  OwnedFrame plain(tcp6_frame(3000, 0));
  plain.frame.offload = {needs_csum, gso::tcp6, 0, 1000, 54, 16};
  send(sink, plain.frame);
  rte_mbuf* const mbuf = ring_->get();
  ASSERT_NE(mbuf, nullptr);
  EXPECT_EQ(mbuf->ol_flags, RTE_MBUF_F_TX_IPV6 | RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_TX_TCP_SEG);
  EXPECT_EQ(mbuf->l3_len, 40);
  ::rte_pktmbuf_free(mbuf);

  OwnedFrame extended(tcp6_frame(3000, 1));
  extended.frame.offload = {needs_csum, gso::tcp6, 0, 1000, 62, 16};
  send(sink, extended.frame);
  EXPECT_EQ(ring_->get_bytes().size(), 1082U);
  EXPECT_EQ(traffic_.segmented.value(), 1U);
}

TEST_F(DpdkQueueTest, LendsALargeFrameWithoutACopy) {
  device_->lends = true;
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(counting_bytes(Loan::shortest), 2000);
  send(sink, owned.frame);
  rte_mbuf* const mbuf = ring_->get();
  ASSERT_NE(mbuf, nullptr);
  EXPECT_EQ(bytes_of(*mbuf), counting_bytes(Loan::shortest));
  EXPECT_EQ(::rte_mbuf_check(mbuf, 1, nullptr), 0);
  ASSERT_EQ(mbuf->nb_segs, 3);
  EXPECT_FALSE(RTE_MBUF_HAS_EXTBUF(mbuf));
  EXPECT_EQ(mbuf->data_len, Frame::usual_head);
  EXPECT_EQ(mbuf->next->buf_addr, owned.frame.rest[0].iov_base);
  EXPECT_EQ(mbuf->next->next->buf_addr, owned.frame.rest[1].iov_base);
  ::rte_pktmbuf_free(mbuf);
}

TEST_F(DpdkQueueTest, LendsNothingMoreToADriverThatKeepsIt) {
  device_->lends = true;
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(counting_bytes(5000));
  send(sink, owned.frame);  // a ring keeps what it is given
  EXPECT_FALSE(sink.lends());
  send(sink, owned.frame);
  ::rte_pktmbuf_free(ring_->get());
  rte_mbuf* const mbuf = ring_->get();
  ASSERT_NE(mbuf, nullptr);
  EXPECT_FALSE(RTE_MBUF_HAS_EXTBUF(mbuf));
  EXPECT_EQ(bytes_of(*mbuf), counting_bytes(5000));
  ::rte_pktmbuf_free(mbuf);
}

TEST_F(DpdkQueueTest, CopiesWhatIsNotWorthALoan) {
  device_->lends = true;
  DpdkSink sink(*device_, 0);
  OwnedFrame small(counting_bytes(Loan::shortest - 1));
  OwnedFrame scattered(counting_bytes(Frame::usual_head + 33 * 130), 130);
  ASSERT_EQ(scattered.frame.rest.size(), 33U);
  for (Frame* const frame : {&small.frame, &scattered.frame}) {
    send(sink, *frame);
    rte_mbuf* const mbuf = ring_->get();
    ASSERT_NE(mbuf, nullptr);
    EXPECT_EQ(mbuf->nb_segs, 1);
    EXPECT_EQ(bytes_of(*mbuf), bytes_of(*frame));
    ::rte_pktmbuf_free(mbuf);
  }
  EXPECT_TRUE(sink.lends());
}

TEST_F(DpdkQueueTest, CopiesSegmentsMadeHere) {
  device_->lends = true;
  DpdkSink sink(*device_, 0);
  OwnedFrame owned(tcp4_frame(54 + 4000));
  owned.frame.offload = {needs_csum, gso::tcp4, 0, 2000, 34, 16};
  send(sink, owned.frame);
  EXPECT_EQ(ring_->get_bytes().size(), 2054U);
  EXPECT_EQ(ring_->get_bytes().size(), 2054U);
  EXPECT_TRUE(sink.lends());
}

TEST_F(DpdkQueueTest, TakesFramesAsTheyAre) {
  for (const std::size_t length : {14U, 60U, 128U, 129U, 1518U, 9018U}) {
    for (const std::size_t segment : {std::size_t{1500}, SIZE_MAX}) {
      ASSERT_TRUE(ring_->put(received(counting_bytes(length), segment)));
      ASSERT_TRUE(source().take(burst_));
      ASSERT_EQ(burst_.count, 1U) << length;
      EXPECT_EQ(bytes_of(burst_.frames[0]), counting_bytes(length));
      EXPECT_TRUE(burst_.frames[0].plain());
      source().release();
    }
  }
  EXPECT_FALSE(source().take(burst_));
  EXPECT_EQ(source().traffic().frames.value(), 12U);
  EXPECT_EQ(source().port(), PortId{3});
}

TEST_F(DpdkQueueTest, LeavesAHeadWhereItLiesIfATagFitsInFront) {
  for (const std::uint16_t room : {std::uint16_t{3}, std::uint16_t{4}}) {
    rte_mbuf* const mbuf = received(counting_bytes(200));
    mbuf->data_off = room;
    auto* const begin = rte_pktmbuf_mtod(mbuf, std::byte*);
    std::ranges::copy(counting_bytes(200), begin);
    ASSERT_TRUE(ring_->put(mbuf));
    ASSERT_TRUE(source().take(burst_));
    Frame& frame = burst_.frames[0];
    EXPECT_EQ(frame.head().data() == begin, room == 4) << room;
    EXPECT_EQ(frame.rest[0].iov_base, begin + Frame::usual_head);
    frame.push_tag(7);
    frame.pop_tag();
    EXPECT_EQ(bytes_of(frame), counting_bytes(200)) << room;
    source().release();
  }
}

TEST_F(DpdkQueueTest, CopiesAHeadThatOthersCanWrite) {
  device_->foreign_writers = true;
  source_.reset();
  rte_mbuf* const mbuf = received(counting_bytes(100));
  ASSERT_TRUE(ring_->put(mbuf));
  ASSERT_TRUE(source().take(burst_));
  *rte_pktmbuf_mtod(mbuf, std::byte*) = std::byte{0xee};
  EXPECT_EQ(bytes_of(burst_.frames[0]), counting_bytes(100));
  source().release();
}

TEST_F(DpdkQueueTest, DropsWhatIsNoFrame) {
  const auto bytes = counting_bytes(longest_plain_frame + 1);
  ASSERT_TRUE(ring_->put(received(std::span(bytes).first(13))));
  ASSERT_TRUE(ring_->put(received(bytes, 5000)));
  EXPECT_TRUE(source().take(burst_));
  EXPECT_EQ(burst_.count, 0U);
  source().release();
  const auto& dropped = source().traffic().dropped;
  EXPECT_EQ(dropped[static_cast<std::size_t>(Drop::too_short)].value(), 1U);
  EXPECT_EQ(dropped[static_cast<std::size_t>(Drop::too_long)].value(), 1U);
}

TEST_F(DpdkQueueTest, DropsAFrameInMorePiecesThanThereIsRoomFor) {
  const std::size_t most = source().room_needed();
  ASSERT_TRUE(ring_->put(received(counting_bytes(most * 20), 20)));
  ASSERT_TRUE(ring_->put(received(counting_bytes(60))));
  ASSERT_TRUE(source().take(burst_));
  ASSERT_EQ(burst_.count, 1U);  // the first has used all room
  EXPECT_EQ(bytes_of(burst_.frames[0]), counting_bytes(most * 20));
  EXPECT_EQ(source().traffic().dropped[static_cast<std::size_t>(Drop::too_long)].value(), 1U);
  source().release();
}

TEST_F(DpdkQueueTest, PassesOnWhatTheDriverKnowsOfChecksums) {
  const auto take = [&](std::uint64_t flags, std::span<const std::byte> bytes) {
    rte_mbuf* const mbuf = received(bytes);
    mbuf->ol_flags |= flags;
    EXPECT_TRUE(ring_->put(mbuf));
    EXPECT_TRUE(source().take(burst_));
    EXPECT_EQ(burst_.count, 1U);
    const VnetHeader offload = burst_.frames[0].offload;
    source().release();
    return offload;
  };
  const auto tcp = tcp4_frame(200);
  EXPECT_EQ(take(RTE_MBUF_F_RX_L4_CKSUM_GOOD, tcp).flags, data_valid);
  EXPECT_EQ(take(RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN, tcp).flags, 0);
  EXPECT_EQ(take(RTE_MBUF_F_RX_L4_CKSUM_BAD, tcp).flags, 0);
  const VnetHeader undone = take(RTE_MBUF_F_RX_L4_CKSUM_NONE, tcp);
  EXPECT_EQ(undone.flags, needs_csum);
  EXPECT_EQ(undone.csum_start, 34);
  EXPECT_EQ(undone.csum_offset, 16);
  EXPECT_EQ(take(RTE_MBUF_F_RX_L4_CKSUM_NONE, counting_bytes(200)).flags, 0);
}

TEST_F(DpdkQueueTest, KeepsWhatItFindsBeforeSleeping) {
  EXPECT_EQ(source().wake_fd(), -1);
  EXPECT_FALSE(source().arm());
  ASSERT_TRUE(ring_->put(received(counting_bytes(77))));
  EXPECT_TRUE(source().arm());
  EXPECT_TRUE(source().arm());
  source().disarm();
  ASSERT_TRUE(source().take(burst_));
  ASSERT_EQ(burst_.count, 1U);
  EXPECT_EQ(bytes_of(burst_.frames[0]), counting_bytes(77));
  source().release();
  EXPECT_FALSE(source().take(burst_));
}

}  // namespace
}  // namespace net::tests
