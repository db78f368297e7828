#include "backends/net/guest/from_guest.hpp"

#include "tests/unit/net/frame/tcp_frame.hpp"
#include "tests/unit/net/guest/net_guest.hpp"

namespace net::tests {
namespace {

constexpr Accepts everything{true, true, true, true, true};

class FromGuestTest : public testing::Test {
 protected:
  FromGuestTest() { make(header_bytes); }

  void make(std::size_t header_size, bool discard = false) {
    vhost::StartedRing ring = guest_.start(map_);
    ring.discard = discard;
    queue_.emplace(FromGuest::Setup{PortId{3}, 0, "guest", header_size, everything},
                   std::move(ring), *desks_[0], stats_);
    burst_.room.resize(queue_->room_needed());
  }
  /// One turn: the frames that came.
  std::vector<Bytes> turn() {
    burst_.count = 0;
    std::vector<Bytes> frames;
    if (!queue_->take(burst_)) return frames;
    for (const Frame& frame : burst_.taken()) frames.push_back(bytes_of(frame));
    queue_->release();
    return frames;
  }
  [[nodiscard]] std::uint64_t dropped(Drop why) const {
    return stats_.traffic.dropped[static_cast<std::size_t>(why)].value();
  }

  GuestMemory memory_;
  std::shared_ptr<const vhost::MemoryMap> map_ = memory_.map();
  GuestTransmit guest_{memory_, 0, {.size = 256}};
  Desks desks_ = std::move(*make_desks(1));
  QueueStats stats_;
  std::optional<FromGuest> queue_;
  Burst burst_;
};

TEST_F(FromGuestTest, TakesFramesInOrderAndGivesTheirChainsBack) {
  const auto first = counting_bytes(60);
  const auto second = counting_bytes(1514);
  (void)guest_.send(first);
  (void)guest_.send(second);
  EXPECT_EQ(turn(), (std::vector<Bytes>{first, second}));
  EXPECT_EQ(guest_.take_all(), 2u);
  EXPECT_EQ(stats_.traffic.frames.value(), 2u);
  EXPECT_EQ(stats_.traffic.bytes.value(), 1574u);
  EXPECT_TRUE(turn().empty());
}

TEST_F(FromGuestTest, UsesBuffersInTheirOrderWhateverBecomesOfThem) {
  // As VIRTIO_F_IN_ORDER wants it (VIRTIO 2.7.9).
  std::vector<std::uint16_t> ids;
  for (int i = 0; i < 40; ++i) {
    ids.push_back(guest_.send(counting_bytes(60)));
    ids.push_back(guest_.send_raw(Bytes(5)));  // dropped
    ids.push_back(guest_.send(counting_bytes(600), {}, header_bytes, {20, 30}));
  }
  while (queue_->arm()) (void)turn();
  EXPECT_EQ(guest_.take_ids(), ids);
}

TEST_F(FromGuestTest, DoesNotCareWherePiecesEnd) {
  const auto frame = counting_bytes(300);
  (void)guest_.send(frame, {}, header_bytes, std::vector<std::uint32_t>(12, 1));  // the header
  (void)guest_.send(frame, {}, header_bytes, {5, 3, 4});
  (void)guest_.send(frame, {}, header_bytes, {12});
  (void)guest_.send(frame, {}, header_bytes, {13});
  (void)guest_.send(frame, {}, header_bytes, {12 + 128, 1, 1});
  EXPECT_EQ(turn(), std::vector<Bytes>(5, frame));
}

TEST_F(FromGuestTest, ServesTheHeaderOfOldWithoutACount) {
  make(legacy_header_bytes);
  const auto frame = counting_bytes(100);
  (void)guest_.send(frame, {}, legacy_header_bytes);
  EXPECT_EQ(turn(), (std::vector<Bytes>{frame}));
}

TEST_F(FromGuestTest, DropsWhatIsShorterThanAFrame) {
  for (const std::size_t bytes : {1UL, 11UL, 12UL, 13UL, 12UL + 13}) {
    (void)guest_.send_raw(counting_bytes(bytes));
  }
  EXPECT_TRUE(turn().empty());
  EXPECT_EQ(dropped(Drop::too_short), 5u);
  EXPECT_EQ(guest_.take_all(), 5u);

  (void)guest_.send(counting_bytes(14));
  EXPECT_EQ(turn().size(), 1u);
}

TEST_F(FromGuestTest, DropsAPlainFrameThatIsTooLong) {
  (void)guest_.send(counting_bytes(longest_plain_frame));
  EXPECT_EQ(turn().size(), 1u);
  (void)guest_.send(counting_bytes(longest_plain_frame + 1));
  EXPECT_TRUE(turn().empty());
  EXPECT_EQ(dropped(Drop::too_long), 1u);
}

TEST_F(FromGuestTest, ServesAChainOfHundredsOfPieces) {
  const auto frame = counting_bytes(1000);
  (void)guest_.send(frame, {}, header_bytes, std::vector<std::uint32_t>(250, 4));
  EXPECT_EQ(turn(), (std::vector<Bytes>{frame}));
}

TEST_F(FromGuestTest, IgnoresBuffersThatItMayWrite) {
  const auto frame = counting_bytes(80);
  const std::uint64_t at = guest_.allocate(200);
  guest_.put(at + header_bytes, frame);
  (void)guest_.driver().add({{at, 92}, {at + 100, 50, true}});
  EXPECT_EQ(turn(), (std::vector<Bytes>{frame}));
}

TEST_F(FromGuestTest, TakesNoMoreThanABurstAtOnce) {
  for (std::size_t i = 0; i < Burst::most + 3; ++i) (void)guest_.send(counting_bytes(60));
  EXPECT_EQ(turn().size(), Burst::most);
  EXPECT_EQ(turn().size(), 3u);
}

/// Asks to become `segments` of one byte.
Bytes to_be_cut(std::size_t segments, unsigned mark) {
  Bytes bytes = tcp4_frame(54 + segments);
  bytes[0] = static_cast<std::byte>(mark);
  return bytes;
}
constexpr VnetHeader into_bytes{needs_csum, gso::tcp4, 0, 1, 34, 16};

TEST_F(FromGuestTest, EndsABurstInFrontOfTooManySegments) {
  // In one piece, in several, and in turns.
  for (const std::array several : {std::array{false, false}, {true, true}, {true, false}}) {
    std::vector<Bytes> sent;
    for (unsigned i = 0; i < 5; ++i) {
      sent.push_back(to_be_cut(most_segments, i));
      const std::vector<std::uint32_t> cuts(several[i % 2] ? 3 : 0, 20);
      (void)guest_.send(sent.back(), into_bytes, header_bytes, cuts);
    }
    EXPECT_EQ(turn(), std::vector<Bytes>(sent.begin(), sent.begin() + 2));
    EXPECT_EQ(guest_.take_all(), 2u);
    EXPECT_EQ(turn(), std::vector<Bytes>(sent.begin() + 2, sent.begin() + 4));
    EXPECT_EQ(turn(), std::vector<Bytes>(sent.begin() + 4, sent.end()));
    EXPECT_TRUE(turn().empty());
    EXPECT_EQ(guest_.take_all(), 3u);
  }
  EXPECT_EQ(stats_.traffic.frames.value(), 15u);
}

TEST_F(FromGuestTest, ABurstMayHaveAsManySegmentsAsItsBoundAndAnyPlainFrames) {
  const std::vector sent{to_be_cut(most_segments, 1), to_be_cut(most_segments - 1, 2),
                         counting_bytes(60), tcp4_frame(1000), counting_bytes(60)};
  (void)guest_.send(sent[0], into_bytes);
  (void)guest_.send(sent[1], into_bytes);
  (void)guest_.send(sent[2]);
  (void)guest_.send(sent[3], {needs_csum, gso::none, 0, 0, 34, 16});  // the last one of 2048
  (void)guest_.send(sent[4]);
  EXPECT_EQ(turn(), sent);
  for (std::size_t i = 0; i < 2; ++i) (void)guest_.send(to_be_cut(most_segments, 3), into_bytes);
  (void)guest_.send(sent[3], {needs_csum, gso::none, 0, 0, 34, 16});
  EXPECT_EQ(turn().size(), 2u);
  EXPECT_EQ(turn().size(), 1u);
}

TEST_F(FromGuestTest, KeepsTheOrderOfFramesInOnePieceAndInSeveral) {
  std::vector<Bytes> sent;
  for (std::size_t i = 0; i < 12; ++i) {
    sent.push_back(counting_bytes(60 + i));
    const bool split = i % 3 == 1 || i > 9;
    (void)guest_.send(sent.back(), {}, header_bytes,
                      split ? std::vector<std::uint32_t>{20} : std::vector<std::uint32_t>{});
  }
  EXPECT_EQ(turn(), sent);
  EXPECT_EQ(guest_.take_all(), sent.size());
}

TEST_F(FromGuestTest, TakesPlainFramesUpToTheirLongest) {
  const auto longest = counting_bytes(longest_plain_frame);
  (void)guest_.send(longest);
  (void)guest_.send(counting_bytes(longest_plain_frame + 1));
  (void)guest_.send(counting_bytes(ethernet_bytes));
  (void)guest_.send(counting_bytes(ethernet_bytes - 1));
  EXPECT_EQ(turn(), (std::vector<Bytes>{longest, counting_bytes(ethernet_bytes)}));
  EXPECT_EQ(dropped(Drop::too_long), 1u);
  EXPECT_EQ(dropped(Drop::too_short), 1u);
}

TEST_F(FromGuestTest, DropsABufferThatItMayNotRead) {
  (void)guest_.driver().add({{guest_.allocate(100), 100, true}});
  EXPECT_TRUE(turn().empty());
  EXPECT_EQ(dropped(Drop::too_short), 1u);
  EXPECT_EQ(guest_.take_all(), 1u);
}

TEST_F(FromGuestTest, GivesBackUnreadWhatComesOnADisabledQueue) {
  make(header_bytes, true);
  (void)guest_.send(counting_bytes(60));
  (void)guest_.send(counting_bytes(60), {}, header_bytes, {20});
  EXPECT_TRUE(turn().empty());
  EXPECT_EQ(dropped(Drop::disabled), 2u);
  EXPECT_EQ(stats_.traffic.frames.value(), 0u);
  EXPECT_EQ(guest_.take_all(), 2u);
}

TEST_F(FromGuestTest, DropsARequestThatPointsOutsideTheFrame) {
  (void)guest_.send(counting_bytes(100), {needs_csum, gso::none, 0, 0, 90, 9});
  EXPECT_TRUE(turn().empty());
  EXPECT_EQ(dropped(Drop::bad_checksum), 1u);
  EXPECT_EQ(guest_.take_all(), 1u);
}

TEST_F(FromGuestTest, StopsWithARingThatBreaksTheRules) {
  guest_.driver().avail_idx(1000);
  EXPECT_TRUE(turn().empty());
  EXPECT_TRUE(turn().empty());
  EXPECT_EQ(stats_.broken.value(), 1u);
  EXPECT_EQ(guest_.error.count(), 1u);
  EXPECT_FALSE(queue_->arm());
}

TEST_F(FromGuestTest, CallsTheDriverOnceABurst) {
  (void)guest_.send(counting_bytes(60));
  (void)guest_.send(counting_bytes(60));
  (void)turn();
  EXPECT_EQ(guest_.call.count(), 1u);
  guest_.driver().want_no_calls();
  (void)guest_.send(counting_bytes(60));
  (void)turn();
  EXPECT_EQ(guest_.call.count(), 0u);
  EXPECT_EQ(stats_.calls.value(), 1u);
  EXPECT_EQ(stats_.calls_suppressed.value(), 1u);
}

TEST_F(FromGuestTest, AsksForKicksOnlyWhileItSleeps) {
  EXPECT_FALSE(guest_.driver().must_kick());
  EXPECT_FALSE(queue_->arm());
  EXPECT_TRUE(guest_.driver().must_kick());
  (void)guest_.send(counting_bytes(60));
  EXPECT_TRUE(queue_->arm());
  queue_->disarm();
  EXPECT_FALSE(guest_.driver().must_kick());
}

TEST_F(FromGuestTest, GoesOnInAnotherMemoryMap) {
  (void)guest_.send(counting_bytes(60));
  queue_->move_to(memory_.map({0, 1}, *map_));
  EXPECT_EQ(turn().size(), 1u);
  queue_->move_to(memory_.map({1, 2}, *map_));
  EXPECT_EQ(stats_.broken.value(), 1u);
}

}  // namespace
}  // namespace net::tests
