// Drivers that offer frames and buffers that are none.
#include <cstring>

#include "tests/integration/net_hostile.hpp"
#include "tests/integration/tcp.hpp"

namespace integration {
namespace {

using vhost::frontend::NetHeader;
using vhost::frontend::NetQueue;
using vhost::frontend::NetSent;
using vhost::frontend::Poll;

constexpr std::size_t to_guest = 0;

// --- receive buffers ----------------------------------------------------------------------------

class NetHostileBuffers : public AnyNetHostile {
 protected:
  /// Changes every receive buffer of the victim's, which the daemon has not looked at yet.
  template <class Change>
  static void change_buffers(Station& a, Change change) {
    change_descriptors(a->device().queue(to_guest).ring(), change);
  }
  void send_to(const Station& a, int frames = 4) const {
    for (int i = 0; i < frames; ++i) d->send(a.mac);
  }
};

INSTANTIATE_TEST_SUITE_P(Rings, NetHostileBuffers, ::testing::Bool(), layout_name);

TEST_P(NetHostileBuffers, OnesShorterThanAHeaderAreReturnedAndCounted) {
  for (const std::uint32_t bytes : {0U, 1U, 11U}) {
    Station a = victim(small());
    const std::uint64_t before = dropped("to_guest", "bad_buffers");
    change_buffers(a, [&](Piece& buffer) { buffer.length = bytes; });
    send_to(a);
    EXPECT_TRUE(drops_more("to_guest", "bad_buffers", before)) << bytes;
    change_buffers(a, [](Piece& buffer) { buffer.length = 2048; });
    expect_revival(a);
  }
}

TEST_P(NetHostileBuffers, OnesThatHoldLittleMoreThanAHeaderTakeAFrameTogether) {
  for (const std::uint32_t bytes : {12U, 13U}) {
    Station a = victim(small());
    const std::uint64_t before = counted("to_guest", "frames");
    change_buffers(a, [&](Piece& buffer) { buffer.length = bytes; });
    send_to(a, 1);
    EXPECT_TRUE(eventually([&] { return counted("to_guest", "frames") == before + 1; })) << bytes;
    change_buffers(a, [](Piece& buffer) { buffer.length = 2048; });
    expect_revival(a);
  }
}

TEST_P(NetHostileBuffers, OnesThatAreTooShortAloneAreNotFilled) {
  NetOptions options = small();
  options.wishes.features = vhost::frontend::Wishes{}.features;  // not mergeable
  for (const std::uint32_t bytes : {12U, 13U}) {
    Station a = victim(options);
    const std::uint64_t before = dropped("to_guest", "too_big");
    change_buffers(a, [&](Piece& buffer) { buffer.length = bytes; });
    send_to(a);
    EXPECT_TRUE(drops_more("to_guest", "too_big", before)) << bytes;
    change_buffers(a, [](Piece& buffer) { buffer.length = 2048; });
    expect_revival(a);
  }
}

TEST_P(NetHostileBuffers, OnesThatMayOnlyBeReadAreReturnedUntouched) {
  Station a = victim(small());
  const std::uint64_t before = dropped("to_guest", "bad_buffers");
  change_buffers(a, [](Piece& buffer) { buffer.flags = 0; });
  send_to(a);
  EXPECT_TRUE(drops_more("to_guest", "bad_buffers", before));
  change_buffers(a, [](Piece& buffer) { buffer.flags = vhost::desc_write; });
  expect_revival(a);
}

TEST_P(NetHostileBuffers, AGuestThatOffersNoneLosesItsFramesAndNobodyElsesRate) {
  const auto rate = [&] {
    const std::uint64_t before = chat->delivered();
    ::usleep(500'000);
    return chat->delivered() - before;
  };
  std::vector<std::uint64_t> quiet{rate(), rate()};
  Station a = victim(small(1));
  std::jthread sender([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      d->send(a.mac);
      ::usleep(1000);
    }
  });
  const std::size_t resident = daemon->resident_bytes();
  const std::vector<std::uint64_t> starved{rate(), rate()};
  EXPECT_GT(std::ranges::max(starved), std::ranges::min(quiet) / 4);  // a busy machine varies
  // A sanitizer's own books grow with what the daemon gives back to it.
  if (!sanitized) {
    EXPECT_LT(daemon->resident_bytes(), resident + (1 << 20));
  }
  sender = {};
  EXPECT_TRUE(drops_more("to_guest", "no_buffers", 100));
  EXPECT_EQ(counted("to_guest", "frames"), 1U + 1U) << "one of SetUp(), one for the one buffer";
}

// --- frames -------------------------------------------------------------------------------------

class NetHostileFrames : public NetHostile {
 protected:
  void SetUp() override {
    NetHostile::SetUp();
    NetOptions options;
    options.queue.ring = {.size = 256, .indirect = 128};
    a = std::make_unique<Station>(connect(socket("a")), 1, options);
  }
  void TearDown() override {
    expect_talk(*a);
    a.reset();
    NetHostile::TearDown();
  }

  [[nodiscard]] static Bytes with_header(const NetHeader& header, const Bytes& frame) {
    Bytes all(sizeof header + frame.size());
    std::memcpy(all.data(), &header, sizeof header);
    std::ranges::copy(frame, all.begin() + sizeof header);
    return all;
  }
  /// Sends a chain of these bytes, of descriptors of these lengths and one of the rest.
  void send_chain(const Bytes& all, const std::vector<std::uint32_t>& cuts = {}) {
    const Buffer room = must(a->memory().allocate(all.size() + 1));
    std::ranges::copy(all, room.data);
    std::vector<Segment> pieces;
    std::uint32_t used = 0;
    for (const std::uint32_t cut : cuts) {
      pieces.push_back(room.segment(used, cut));
      used += cut;
    }
    pieces.push_back(room.segment(used, static_cast<std::uint32_t>(all.size()) - used));
    NetQueue& queue = (*a)->queue(0);
    const auto slot = queue.prepare(pieces);
    ASSERT_TRUE(slot);
    queue.start(*slot);
    queue.kick();
    NetSent sent;
    EXPECT_TRUE(eventually([&] { return queue.poll_sent(sent) == Poll::done; })) << all.size();
    EXPECT_TRUE(queue.drop(*slot));
    a->memory().release(room);
  }
  void drops(const char* why, const Bytes& all) {
    const std::uint64_t before = dropped("from_guest", why);
    send_chain(all);
    EXPECT_TRUE(drops_more("from_guest", why, before)) << why << ' ' << all.size();
  }
  void drops_request(const char* why, const NetHeader& header, std::uint16_t payload = 3000) {
    drops(why, with_header(header, tcp_frame(a->mac, d->mac, payload)));
  }

  std::unique_ptr<Station> a;
};

TEST_F(NetHostileFrames, OnesInPiecesOfOneByteArrive) {
  const Bytes whole = frame(a->mac, d->mac, 90, 4);
  send_chain(with_header({}, whole), std::vector<std::uint32_t>(12, 1));
  EXPECT_TRUE(hears(*d, whole));
  send_chain(with_header({}, whole), std::vector<std::uint32_t>(100, 1));
  EXPECT_TRUE(hears(*d, whole));
}

TEST_F(NetHostileFrames, OnesInPiecesOfNothingArrive) {
  const Bytes whole = frame(a->mac, d->mac, 90, 5);
  send_chain(with_header({}, whole), {0, 6, 0, 0, 6, 0, 14, 0});
  EXPECT_TRUE(hears(*d, whole));
}

TEST_F(NetHostileFrames, OnesThatAreTooShortAreCounted) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{11}, std::size_t{12},
                                  std::size_t{13}, std::size_t{25}}) {
    drops("too_short", Bytes(bytes));
  }
  const Bytes shortest = frame(a->mac, d->mac, 14);
  send_chain(with_header({}, shortest));
  EXPECT_TRUE(hears(*d, shortest));
}

TEST_F(NetHostileFrames, OnesThatAreTooLongAreCounted) {
  const Bytes longest = frame(a->mac, d->mac, 9216, 6);
  send_chain(with_header({}, longest));
  EXPECT_TRUE(hears(*d, longest));
  drops("too_long", with_header({}, frame(a->mac, d->mac, 9300)));
  drops("too_long", with_header({}, frame(a->mac, d->mac, 70'000)));
  drops("too_long", with_header(tcp_request(1000), frame(a->mac, d->mac, 1'000'000)));
}

TEST_F(NetHostileFrames, AChecksumOutsideOfTheFrameIsCounted) {
  for (const std::uint16_t start :
       {std::uint16_t{3055}, std::uint16_t{0xfffe}, std::uint16_t{0xffff}}) {
    NetHeader header{.flags = vhost::frontend::net_needs_csum, .csum_start = start};
    drops_request("bad_checksum", header);
    header.csum_offset = 0xffff;
    drops_request("bad_checksum", header);
  }
  drops_request("bad_checksum",
                {.flags = vhost::frontend::net_needs_csum, .csum_start = 34, .csum_offset = 3020});
}

TEST_F(NetHostileFrames, ASegmentationThatMakesNoSenseIsCounted) {
  NetHeader header = tcp_request(0);
  drops_request("bad_segmentation", header);
  header = tcp_request(1);  // 3000 segments
  drops_request("bad_segmentation", header);
  header = tcp_request(1000);
  for (const int kind : {2, 3, 4, 5, 0x7f, 0xff}) {  // none, UDP, TCP over IPv6, ...
    header.gso_type = static_cast<std::uint8_t>(kind);
    drops_request("bad_segmentation", header);
  }
  header = tcp_request(1000);
  drops("bad_segmentation", with_header(header, frame(a->mac, d->mac, 3000)));  // no TCP
}

}  // namespace
}  // namespace integration
