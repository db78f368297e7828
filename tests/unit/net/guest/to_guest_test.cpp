#include "backends/net/guest/to_guest.hpp"

#include "tests/unit/net/guest/net_guest.hpp"

namespace net::tests {
namespace {

using vhost::bit;

constexpr std::uint64_t modern = bit(vhost::feature::version_1);
constexpr std::uint64_t mergeable = modern | feature::mergeable_buffers;

class ToGuestTest : public testing::Test {
 protected:
  void start(std::uint64_t features, std::uint16_t mtu = 9000, std::uint16_t queue = 0) {
    to_guest_.make_room(queue);
    to_guest_.start(queue, guests_[queue].start(map_), GuestForm::of(features, mtu));
  }
  void deliver(Frame& frame) {
    Frame* const one = &frame;
    to_guest_.deliver(std::span(&one, 1), 0);
  }
  void deliver(const Bytes& bytes) {
    OwnedFrame owned(bytes);
    deliver(owned.frame);
  }
  [[nodiscard]] const Traffic& traffic() const { return to_guest_.stats(0)->traffic; }
  [[nodiscard]] std::uint64_t dropped(Drop why) const {
    return traffic().dropped[static_cast<std::size_t>(why)].value();
  }

  GuestMemory memory_;
  std::shared_ptr<const vhost::MemoryMap> map_ = memory_.map();
  std::array<GuestReceive, 2> guests_{GuestReceive{memory_, 0}, GuestReceive{memory_, 1}};
  GuestReceive& guest_ = guests_[0];
  Desks desks_ = std::move(*make_desks(1));
  ToGuest to_guest_{"guest", 4, desks_};
};

TEST_F(ToGuestTest, CopiesAFrameBehindItsHeader) {
  start(mergeable);
  (void)guest_.offer({1600});
  deliver(counting_bytes(1514));
  const auto received = guest_.receive();
  ASSERT_TRUE(received);
  EXPECT_EQ(received->frame, counting_bytes(1514));
  EXPECT_EQ(received->buffers, 1);
  EXPECT_EQ(received->header.flags, 0);
  EXPECT_EQ(traffic().frames.value(), 1u);
  EXPECT_EQ(traffic().bytes.value(), 1514u);
}

TEST_F(ToGuestTest, UsesBuffersInTheirOrderWhateverBecomesOfThem) {
  // As VIRTIO_F_IN_ORDER wants it (VIRTIO 2.7.9).
  start(mergeable);
  std::vector<std::uint16_t> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(guest_.offer({1600}));
    ids.push_back(guest_.offer({5}));  // of no use
    ids.push_back(guest_.offer({12, 100}));
    ids.push_back(guest_.offer({100}));
  }
  for (int i = 0; i < 30; ++i) deliver(counting_bytes(i % 2 == 0 ? 60 : 150));
  EXPECT_EQ(guest_.take_ids(), ids);
}

TEST_F(ToGuestTest, DoesNotCareWherePiecesEnd) {
  start(mergeable);
  (void)guest_.offer({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 200});
  (void)guest_.offer({5, 3, 4, 7, 300});
  (void)guest_.offer({12, 188});
  (void)guest_.offer({13, 300});
  for (int i = 0; i < 4; ++i) deliver(counting_bytes(188));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(guest_.receive()->frame, counting_bytes(188));
}

TEST_F(ToGuestTest, FillsMergeableBuffersButTheLast) {
  start(mergeable);
  guest_.offer_many(4, 100);
  deliver(counting_bytes(300));  // 312 with its header
  const auto received = guest_.receive();
  ASSERT_TRUE(received);
  EXPECT_EQ(received->buffers, 4);
  EXPECT_EQ(received->frame, counting_bytes(300));
}

TEST_F(ToGuestTest, UsesNoBufferMoreThanTheFrameNeeds) {
  start(mergeable);
  guest_.offer_many(5, 100);
  deliver(counting_bytes(288));  // exactly three
  EXPECT_EQ(guest_.receive()->buffers, 3);
  deliver(counting_bytes(188));  // exactly two
  EXPECT_EQ(guest_.receive()->buffers, 2);
}

TEST_F(ToGuestTest, UsesUpNothingForAFrameThatDoesNotFit) {
  start(mergeable);
  guest_.offer_many(3, 100);
  deliver(counting_bytes(289));
  EXPECT_EQ(dropped(Drop::no_buffers), 1u);
  EXPECT_EQ(to_guest_.stats(0)->calls_suppressed.value(), 0u);
  EXPECT_FALSE(guest_.driver().take_used());
  deliver(counting_bytes(288));
  EXPECT_EQ(guest_.receive()->buffers, 3);
  deliver(counting_bytes(60));
  EXPECT_EQ(dropped(Drop::no_buffers), 2u);
}

TEST_F(ToGuestTest, NeverSplitsAFrameWithoutMergeableBuffers) {
  start(modern);
  guest_.offer_many(2, 100);
  deliver(counting_bytes(89));
  EXPECT_EQ(dropped(Drop::too_big), 1u);
  deliver(counting_bytes(88));
  const auto received = guest_.receive();
  EXPECT_EQ(received->frame, counting_bytes(88));
  EXPECT_EQ(received->buffers, 1);
}

TEST_F(ToGuestTest, WritesTheHeaderOfOldWithoutACount) {
  start(0);
  guest_.offer_many(1, 98);
  deliver(counting_bytes(88));
  EXPECT_EQ(guest_.receive(legacy_header_bytes)->frame, counting_bytes(88));
}

TEST_F(ToGuestTest, GivesBackABufferThatHoldsNoHeader) {
  start(mergeable);
  (void)guest_.offer({11});
  (void)guest_.offer({12});
  (void)guest_.offer({60});
  deliver(counting_bytes(60));
  EXPECT_EQ(dropped(Drop::bad_buffers), 1u);
  const auto used = guest_.driver().take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 0u);
  deliver(counting_bytes(60));
  EXPECT_EQ(guest_.receive()->frame, counting_bytes(60));
}

TEST_F(ToGuestTest, NeverWritesWhatIsTheDrivers) {
  start(mergeable);
  const std::uint64_t at = guest_.allocate(300);
  guest_.put(at, counting_bytes(300));
  (void)guest_.driver().add({{at, 100}});  // nothing to write at all
  (void)guest_.driver().add({{at, 100}, {at + 100, 200, true}});
  deliver(counting_bytes(60));
  EXPECT_EQ(dropped(Drop::bad_buffers), 1u);
  deliver(counting_bytes(60));
  EXPECT_EQ(traffic().frames.value(), 1u);
  const Bytes before = counting_bytes(300);
  EXPECT_EQ(guest_.get(at, 100), Bytes(before.begin(), before.begin() + 100));
}

TEST_F(ToGuestTest, DropsFramesBeyondTheMtu) {
  start(mergeable, 1500);
  guest_.offer_many(4, 1600);
  deliver(counting_bytes(1518));  // with a tag
  deliver(counting_bytes(1519));
  EXPECT_EQ(traffic().frames.value(), 1u);
  EXPECT_EQ(dropped(Drop::too_big), 1u);
  to_guest_.set_longest_plain(1519);
  deliver(counting_bytes(1519));
  EXPECT_EQ(traffic().frames.value(), 2u);
}

TEST_F(ToGuestTest, CountsFramesForADriverThatIsNotThere) {
  deliver(counting_bytes(60));
  EXPECT_EQ(to_guest_.dropped_link_down(), 1u);
  EXPECT_FALSE(to_guest_.link_up());
  start(mergeable);
  EXPECT_TRUE(to_guest_.link_up());
  (void)to_guest_.stop(0);
  EXPECT_FALSE(to_guest_.link_up());
  deliver(counting_bytes(60));
  EXPECT_EQ(to_guest_.dropped_link_down(), 2u);
}

TEST_F(ToGuestTest, CallsTheDriverWhenItIsFlushed) {
  start(mergeable);
  to_guest_.flush(0);
  EXPECT_EQ(guest_.call.count(), 1u);  // once for a predecessor's last frame
  guest_.offer_many(3, 100);
  deliver(counting_bytes(60));
  deliver(counting_bytes(60));
  EXPECT_EQ(guest_.call.count(), 0u);
  to_guest_.flush(0);
  to_guest_.flush(0);
  EXPECT_EQ(guest_.call.count(), 1u);
  guest_.driver().want_no_calls();
  deliver(counting_bytes(60));
  to_guest_.flush(0);
  EXPECT_EQ(guest_.call.count(), 0u);
}

TEST_F(ToGuestTest, CallsOnTheDescriptorThatIsValidNow) {
  start(mergeable);
  to_guest_.flush(0);
  const Event other;
  const auto old = to_guest_.set_call(0, other.shared());
  EXPECT_TRUE(old);
  to_guest_.flush(0);
  EXPECT_EQ(other.count(), 1u);
}

TEST_F(ToGuestTest, NeverAsksForKicks) {
  start(mergeable);
  (void)guest_.offer({100});
  EXPECT_FALSE(guest_.driver().must_kick());
}

TEST_F(ToGuestTest, StopsWithARingThatBreaksTheRules) {
  start(mergeable);
  guest_.driver().avail_idx(1000);
  deliver(counting_bytes(60));
  deliver(counting_bytes(60));
  EXPECT_EQ(guest_.error.count(), 0u) << "a write that may hang is not for those who hold a lock";
  to_guest_.flush(0);
  EXPECT_EQ(to_guest_.stats(0)->broken.value(), 1u);
  EXPECT_EQ(guest_.error.count(), 1u);
  EXPECT_EQ(dropped(Drop::no_buffers), 2u);
}

TEST_F(ToGuestTest, SpreadsFlowsOverItsQueuesAndKeepsEachInOne) {
  start(mergeable, 9000, 0);
  start(mergeable, 9000, 1);
  for (GuestReceive& guest : guests_) guest.offer_many(60, 100);
  for (int round = 0; round < 2; ++round) {
    for (std::uint8_t flow = 0; flow < 16; ++flow) {
      auto bytes = counting_bytes(60);
      bytes[5] = std::byte{flow};  // a station of its own
      deliver(bytes);
    }
  }
  std::array<std::vector<Bytes>, 2> received;
  for (std::size_t i = 0; i < 2; ++i) {
    while (const auto one = guests_[i].receive()) received[i].push_back(one->frame);
    EXPECT_GT(received[i].size(), 2u);
    const auto half = static_cast<std::ptrdiff_t>(received[i].size() / 2);
    EXPECT_TRUE(std::equal(received[i].begin(), received[i].begin() + half,
                           received[i].begin() + half, received[i].end()));
  }
  EXPECT_EQ(received[0].size() + received[1].size(), 32u);
}

TEST(GuestForm, AcceptsNothingWithoutGuestChecksums) {
  const auto form = GuestForm::of(mergeable | feature::guest_tso4 | feature::guest_ufo, 1500);
  EXPECT_FALSE(form.accepts.checksum || form.accepts.tso4 || form.accepts.ufo);
  const auto with = GuestForm::of(feature::guest_csum | feature::guest_tso6, 1500);
  EXPECT_TRUE(with.accepts.checksum && with.accepts.tso6);
  EXPECT_FALSE(with.accepts.tso4 || with.accepts.ecn || with.accepts.ufo || with.mergeable);
}

TEST(GuestForm, HasAHeaderWithACountIfEitherFeatureWantsIt) {
  EXPECT_EQ(GuestForm::header_bytes_of(0), 10u);
  EXPECT_EQ(GuestForm::header_bytes_of(modern), 12u);
  EXPECT_EQ(GuestForm::header_bytes_of(feature::mergeable_buffers), 12u);
}

}  // namespace
}  // namespace net::tests
