#include "backends/net/uplink/dpdk_port.hpp"

#include <poll.h>
#include <rte_malloc.h>
#include <sched.h>
#include <unistd.h>

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/temp_folder.hpp"
#include "tests/unit/net/uplink/dpdk_fixture.hpp"

namespace net::tests {
namespace {

using testing::HasSubstr;

class DpdkPortTest : public testing::Test {
 protected:
  void SetUp() override { need_eal(); }

  static std::unique_ptr<DpdkPort> opened(const std::string& text, const UplinkSetup& setup = {}) {
    auto port = DpdkPort::open(parse_uplink(text).value(), setup);
    if (!port) {
      ADD_FAILURE() << port.error().what;
      return nullptr;
    }
    return std::move(*port);
  }
  static std::string refusal(const std::string& text, const UplinkSetup& setup = {}) {
    const auto port = open_uplink(parse_uplink(text).value(), setup);
    if (port) return "opened";
    EXPECT_EQ(port.error().fault, vhost::Fault::operator_);
    return port.error().what;
  }
  static void deliver(DpdkPort& port, Frame& frame, unsigned worker = 0) {
    Frame* const one = &frame;
    port.deliver({&one, 1}, worker);
    port.flush(worker);
  }

  common::test::TempFolder folder_;
};

TEST_F(DpdkPortTest, IsMadeAndGoesAway) {
  for (int i = 0; i < 3; ++i) {
    const auto port = opened("null", {.port = PortId{5}});
    ASSERT_TRUE(port);
    EXPECT_EQ(port->driver(), "net_null");
    EXPECT_EQ(port->name(), "null");
    EXPECT_EQ(::rte_eth_dev_count_avail(), 1);
    const auto other = opened("null", {.port = PortId{6}});
    EXPECT_EQ(::rte_eth_dev_count_avail(), 2);
  }
  EXPECT_EQ(::rte_eth_dev_count_avail(), 0);
}

TEST_F(DpdkPortTest, HasAQueueForEachWorkerOrAsManyAsTheDeviceHas) {
  EXPECT_EQ(opened("null", {.workers = 2})->queues(), 2U);
  RingDevice ring("port");
  const auto one = DpdkPort::adopt(ring.port(), {.text = "ring"}, {.workers = 3});
  ASSERT_TRUE(one) << one.error().what;
  EXPECT_EQ((*one)->queues(), 1U);
  OwnedFrame owned(counting_bytes(100));
  deliver(**one, owned.frame, 2);
  EXPECT_EQ(ring.get_bytes(), counting_bytes(100));
  EXPECT_EQ((*one)->to_uplink(2).frames.value(), 1U);
  EXPECT_EQ((*one)->to_uplink(0).frames.value(), 0U);
}

/// What null is given, before it frees it.
struct Seen {
  std::vector<const void*> buffers;
  std::size_t frames = 0;
};
std::uint16_t note(std::uint16_t, std::uint16_t, rte_mbuf** mbufs, std::uint16_t count, void* to) {
  auto& seen = *static_cast<Seen*>(to);
  for (std::uint16_t i = 0; i < count; ++i) {
    ++seen.frames;
    for (const rte_mbuf* mbuf = mbufs[i]; mbuf != nullptr; mbuf = mbuf->next) {
      if (RTE_MBUF_HAS_EXTBUF(mbuf)) seen.buffers.push_back(mbuf->buf_addr);
    }
  }
  return count;
}

TEST_F(DpdkPortTest, LendsLargeFramesToADriverThatFreesThemAtOnce) {
  const auto port = opened("null", {.mtu = 9000});
  ASSERT_TRUE(port);
  std::uint16_t number = RTE_MAX_ETHPORTS;
  ASSERT_EQ(::rte_eth_dev_get_port_by_name("net_null0", &number), 0);
  Seen seen;
  const auto* const callback = ::rte_eth_add_tx_callback(number, 0, note, &seen);
  ASSERT_NE(callback, nullptr);
  OwnedFrame large(counting_bytes(Loan::shortest));
  OwnedFrame small(counting_bytes(500));
  for (int i = 0; i < 10'000; ++i) {
    deliver(*port, large.frame);
    deliver(*port, small.frame);
  }
  EXPECT_TRUE(port->lends());
  ASSERT_EQ(::rte_eth_remove_tx_callback(number, 0, callback), 0);
  EXPECT_EQ(seen.frames, 20'000U);
  EXPECT_THAT(seen.buffers, testing::SizeIs(10'000));
  EXPECT_THAT(seen.buffers, testing::Each(large.frame.rest[0].iov_base));
  EXPECT_EQ(port->to_uplink(0).frames.value(), 20'000U);
}

/// Waits up to a second for one frame of this length; the kernel sends its own at times.
std::vector<std::byte> next_of(Source& source, std::size_t length) {
  Burst burst;
  burst.room.resize(source.room_needed());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (std::chrono::steady_clock::now() < deadline) {
    if (!source.arm()) {
      pollfd wait{source.wake_fd(), POLLIN, 0};
      if (::poll(&wait, 1, 1) == 1) source.woken();
    }
    source.disarm();
    if (!source.take(burst)) continue;
    std::vector<std::byte> found;
    for (const Frame& frame : burst.taken()) {
      if (frame.length() == length) found = bytes_of(frame);
    }
    source.release();
    if (!found.empty()) return found;
  }
  return {};
}

/// One interface seen from both its ends.
TEST_F(DpdkPortTest, LendsToTapAndAfPacketToo) {
  bool allowed = false;
  std::thread elsewhere([&] {
    allowed = ::unshare(CLONE_NEWNET) == 0 && ::access("/dev/net/tun", R_OK | W_OK) == 0;
    if (!allowed) return;
    const auto tap = opened("net_tap3,iface=uplink-d0");
    const auto packet = opened("af_packet:uplink-d0");
    ASSERT_TRUE(tap && packet);
    EXPECT_GE(tap->sources()[0]->wake_fd(), 0);
    for (const std::size_t length : {1400U, 1100U, 1500U}) {
      OwnedFrame owned(counting_bytes(length), 300);
      deliver(*tap, owned.frame);
      EXPECT_EQ(next_of(*packet->sources()[0], length), counting_bytes(length));
      deliver(*packet, owned.frame);
      EXPECT_EQ(next_of(*tap->sources()[0], length), counting_bytes(length));
    }
    EXPECT_TRUE(tap->lends());
    EXPECT_TRUE(packet->lends());
    EXPECT_EQ(packet->mtu(), 1500);
  });
  elsewhere.join();
  if (!allowed) GTEST_SKIP() << "no network namespace may be made here";
}

TEST_F(DpdkPortTest, TakesWhatTheDeviceHas) {
  const auto port = opened("null:size=200");
  ASSERT_TRUE(port);
  Source& source = *port->sources()[0];
  Burst burst;
  burst.room.resize(source.room_needed());
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(source.take(burst));
    ASSERT_EQ(burst.count, Burst::most);
    ASSERT_EQ(burst.frames[31].length(), 200U);
    source.release();
  }
  EXPECT_EQ(source.traffic().frames.value(), 32'000U);
}

TEST_F(DpdkPortTest, WritesAndReadsAGoldenFile) {
  const std::string file = folder_ / "golden.pcap";
  const std::vector<std::size_t> lengths{60, 1514, 2000, 9014};
  {
    const auto port = opened("pcap:tx_pcap=" + file, {.mtu = 9000});
    ASSERT_TRUE(port);
    for (const std::size_t length : lengths) {
      OwnedFrame owned(counting_bytes(length), 700);
      deliver(*port, owned.frame);
    }
    EXPECT_TRUE(port->lends());
  }
  // Packets behind the file's header of 24 bytes, each behind one of 16.
  const std::string written = common::test::read_text(file);
  std::size_t at = 24;
  for (const std::size_t length : lengths) {
    const auto expected = counting_bytes(length);
    ASSERT_GE(written.size(), at + 16 + length);
    EXPECT_EQ(std::memcmp(written.data() + at + 16, expected.data(), length), 0) << length;
    at += 16 + length;
  }
  EXPECT_EQ(written.size(), at);

  const auto port = opened("pcap:rx_pcap=" + file, {.mtu = 9000});
  ASSERT_TRUE(port);
  Source& source = *port->sources()[0];
  Burst burst;
  burst.room.resize(source.room_needed());
  ASSERT_TRUE(source.take(burst));
  ASSERT_EQ(burst.count, lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    EXPECT_EQ(bytes_of(burst.frames[i]), counting_bytes(lengths[i]));
  }
  source.release();
}

TEST_F(DpdkPortTest, HasTheMtuThatTheDriverTakes) {
  EXPECT_EQ(opened("null")->mtu(), 1500);
  EXPECT_EQ(opened("null", {.mtu = 9000})->mtu(), 9000);
  EXPECT_EQ(opened("null", {.mtu = 65000})->mtu(), 9202);
  EXPECT_THAT(refusal("null", {.mtu = 67}), HasSubstr("an MTU below 68"));
}

TEST_F(DpdkPortTest, TellsWhatTheDriverCounts) {
  const auto port = opened("null");
  ASSERT_TRUE(port);
  OwnedFrame owned(counting_bytes(300));
  deliver(*port, owned.frame);
  const auto counters = port->driver_counters();
  const auto sent = std::ranges::find(counters, "tx_good_packets", &DriverCounter::name);
  ASSERT_NE(sent, counters.end());
  EXPECT_EQ(sent->value, 1U);
}

TEST_F(DpdkPortTest, FollowsTheLink) {
  RingDevice ring("link");
  const auto port = DpdkPort::adopt(ring.port(), {.text = "ring"}, {});
  ASSERT_TRUE(port);
  EXPECT_TRUE((*port)->link_up());
  ASSERT_EQ(::rte_eth_dev_set_link_down(ring.port()), 0);
  EXPECT_FALSE((*port)->link_up());
  ASSERT_EQ(::rte_eth_dev_set_link_up(ring.port()), 0);
  EXPECT_TRUE((*port)->link_up());
}

TEST_F(DpdkPortTest, IsLookedAtOftenEnoughWithoutInterrupts) {
  const auto port = opened("null");
  ASSERT_TRUE(port);
  EXPECT_EQ(port->sources()[0]->wake_fd(), -1);
  EXPECT_GT(port->longest_pause().count(), 0);
  EXPECT_LE(port->longest_pause(), std::chrono::milliseconds(5));
}

TEST_F(DpdkPortTest, SaysWhichDeviceCannotBeMade) {
  EXPECT_THAT(refusal("net_nonsense0"),
              testing::StartsWith("--uplink net_nonsense0: DPDK cannot make this device"));
  EXPECT_THAT(refusal("af_packet:no-such-if"), HasSubstr("DPDK cannot make this device"));
  EXPECT_THAT(refusal("pcap:rx_pcap=/no/such/file"), HasSubstr("DPDK cannot make this device"));
  EXPECT_THAT(refusal("pci:ffff:ff:1f.7"), HasSubstr("there is no PCI device ffff:ff:1f.7"));
  const auto one = opened("net_null7");
  EXPECT_THAT(refusal("net_null7"), HasSubstr("there is a device net_null7 already"));
}

TEST_F(DpdkPortTest, NeedsWhatWasToldToEal) {
  const UplinkSpec null = parse_uplink("null").value();
  const auto free_bytes = [] {
    rte_malloc_socket_stats stats{};
    ::rte_malloc_get_socket_stats(0, &stats);
    return stats.heap_freesz_bytes;
  };
  for (const unsigned workers : {1U, 2U}) {
    const UplinkSetup setup{.workers = workers, .mtu = 2100};
    const std::size_t before = free_bytes();
    const auto port = opened("null", setup);
    ASSERT_TRUE(port);
    const std::size_t used = before - free_bytes();
    EXPECT_LE(used, uplink_memory(null, setup));
    EXPECT_GE(used * 2, uplink_memory(null, setup));
  }
  EXPECT_EQ(uplink_memory(parse_uplink("tap:t").value(), {}), 0U);
}

}  // namespace
}  // namespace net::tests
