/*
 * What a queue has no room for, and how it ends: back-pressure, long chains, broken rings, closing.
 */
#include <sys/mman.h>

#include "backends/blk/queue.hpp"
#include "libvhost/memory/inflight.hpp"
#include "tests/unit/blk/queue_fixture.hpp"

namespace blk {
namespace {

using testing_tools::QueueTest;
using testing_tools::Sent;
using vhost::fakes::Buffer;
using vhost::fakes::GuestMemory;

TEST(BlkSlots, AreNoMoreThanWereAskedFor) {
  Slots slots(2);
  Slot* const first = slots.acquire();
  Slot* const second = slots.acquire();
  EXPECT_NE(first, second);
  EXPECT_EQ(slots.acquire(), nullptr);
  slots.release(*second);
  EXPECT_EQ(slots.acquire(), second);
}

TEST(BlkSlots, HaveRoomForAnOrdinaryChain) {
  Slots slots(1);
  EXPECT_EQ(slots.acquire()->chain.room(), Slot::inline_pieces);
}

class LongChains : public QueueTest {
 protected:
  // An indirect table takes one descriptor of the ring; all the tests' tables are alike.
  LongChains() : QueueTest({.size = 16}) { disk_.size_bytes = 4096 * sector_bytes; }
};

TEST_F(LongChains, AreServedWithEveryPieceOfThem) {
  Queue queue = make();
  for (const std::uint32_t pieces : {29u, 30u, 31u, 32u, 33u, 515u, 1022u}) {
    const Sent sent = guest_.read_scattered(pieces);
    ASSERT_EQ(take(queue), 1u) << pieces;
    EXPECT_EQ(engine_.started.front()->request.data.size(), pieces);
    EXPECT_EQ(engine_.started.front()->request.length_bytes, pieces * sector_bytes);
    finish_all(queue);
    (void)queue.publish();
    EXPECT_EQ(guest_.take_all(), 1u);
    EXPECT_TRUE(guest_.has_status(sent, Status::ok));
  }
}

TEST_F(LongChains, OfMoreDescriptorsThanAnyDriverSendsBreakTheRing) {
  Queue queue = make();
  (void)guest_.read_scattered(1023);
  EXPECT_EQ(take(queue), 0u);
  EXPECT_EQ(stats_.broken.value(), 1u);
}

TEST_F(LongChains, BeyondTheEighthWaitInTheRingUntilOneEnds) {
  Queue queue = make();
  for (int i = 0; i < 10; ++i) (void)guest_.read_scattered(40);
  EXPECT_EQ(take(queue), 8u);
  EXPECT_EQ(take(queue), 0u);
  EXPECT_EQ(stats_.broken.value(), 0u);
  finish_one(queue);
  EXPECT_EQ(take(queue), 1u);
  finish_all(queue);
  EXPECT_EQ(take(queue), 1u);
  finish_all(queue);
  (void)queue.publish();
  EXPECT_EQ(guest_.take_all(), 10u);
}

TEST_F(LongChains, ThatWaitDoNotKeepTheWorkerAwake) {
  Queue queue = make();
  for (int i = 0; i < 9; ++i) (void)guest_.read_scattered(40);
  (void)take(queue);
  EXPECT_FALSE(queue.arm_kick());
  EXPECT_FALSE(guest_.driver().must_kick());
  finish_one(queue);
  EXPECT_EQ(take(queue), 1u);
  EXPECT_FALSE(queue.arm_kick());
  EXPECT_TRUE(guest_.driver().must_kick());
}

TEST_F(LongChains, ThatEndAtOnceMakeRoomInTheSameTurn) {
  Queue queue = make();
  for (int i = 0; i < 4; ++i) (void)guest_.read_scattered(40);
  EXPECT_EQ(take(queue), 4u);
  queue.resize(sector_bytes);
  for (int i = 0; i < 10; ++i) (void)guest_.read_scattered(40);
  EXPECT_EQ(take(queue), 10u) << "of which four have room at a time";
  EXPECT_EQ(stats_.invalid.value(), 10u);
}

TEST_F(LongChains, LeaveTheirSlotAsItWas) {
  Queue queue = make();
  for (int i = 0; i < 100; ++i) {
    (void)guest_.read_scattered(i % 2 == 0 ? 40 : 2);
    ASSERT_EQ(take(queue), 1u);
    EXPECT_EQ(engine_.started.front()->long_pieces != nullptr, i % 2 == 0);
    finish_all(queue);
    (void)queue.publish();
    ASSERT_EQ(guest_.take_all(), 1u);
  }
}

class SmallQueue : public QueueTest {
 protected:
  SmallQueue() : QueueTest({.size = 4}) {}

  /// Offers chains that share descriptor buffers: only their number counts.
  void offer_flushes(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      const std::vector<Buffer> buffers{{GuestMemory::far, 16}, {GuestMemory::far + 16, 1, true}};
      memory_.store(GuestMemory::far, RequestHeader{4, 0, 0});
      (void)guest_.driver().add_indirect(buffers, GuestMemory::high);
    }
  }
};

TEST_F(SmallQueue, HasAsManyRequestsInFlightAsTheRingHasDescriptors) {
  Queue queue = make();
  offer_flushes(4);
  EXPECT_EQ(take(queue), 4u);
  EXPECT_EQ(take(queue), 0u);
  EXPECT_FALSE(queue.arm_kick());  // a completion wakes the worker
  finish_one(queue);
  (void)queue.publish();
  EXPECT_EQ(guest_.take_all(), 1u);
  offer_flushes(1);
  EXPECT_EQ(take(queue), 1u);
}

class BrokenRing : public QueueTest {};

TEST_F(BrokenRing, IsCountedSignalledAndToldOnce) {
  Queue queue = make();
  offer_rubbish();
  EXPECT_EQ(take(queue), 0u);
  EXPECT_EQ(take(queue), 0u);
  EXPECT_EQ(stats_.broken.value(), 1u);
  EXPECT_EQ(error_.count(), 1u);
  EXPECT_TRUE(queue.take_news_of_breaking());
  EXPECT_FALSE(queue.take_news_of_breaking());
}

TEST_F(BrokenRing, StillAnswersWhatWasInFlight) {
  Queue queue = make();
  const Sent sent = guest_.read(0);
  (void)take(queue);
  offer_rubbish();
  (void)take(queue);
  EXPECT_FALSE(queue.drained());
  finish_all(queue);
  EXPECT_NE(queue.publish(), nullptr);
  EXPECT_TRUE(guest_.has_status(sent, Status::ok));
  EXPECT_TRUE(queue.drained());
}

TEST_F(BrokenRing, NeitherTakesNorKeepsTheWorkerAwake) {
  Queue queue = make();
  offer_rubbish();
  (void)take(queue);
  (void)guest_.read(0);
  EXPECT_EQ(take(queue), 0u);
  EXPECT_FALSE(queue.arm_kick());
}

TEST_F(BrokenRing, WithoutAnErrorDescriptorIsCountedAllTheSame) {
  auto ring = vhost::SplitRing::create(guest_.driver().setup(), memory_.map());
  Queue queue(0, {std::move(*ring), nullptr, nullptr, nullptr}, disk_, stats_);
  offer_rubbish();
  (void)take(queue);
  EXPECT_EQ(stats_.broken.value(), 1u);
}

TEST_F(BrokenRing, IsWhatAMapWithoutItsAreasMakesOfAQueue) {
  Queue queue = make();
  (void)guest_.read(0);
  (void)take(queue);
  finish_all(queue);
  queue.move_to(memory_.map({1, 2}));
  EXPECT_EQ(stats_.broken.value(), 1u);
  EXPECT_EQ(error_.count(), 1u);
  queue.move_to(memory_.map({1, 2}));
  EXPECT_EQ(stats_.broken.value(), 1u);
  (void)queue.publish();
  EXPECT_EQ(take(queue), 0u);
  EXPECT_TRUE(queue.drained());
}

TEST_F(QueueTest, GoesOnAfterAMoveToAMapThatHasItsAreas) {
  Queue queue = make();
  queue.move_to(memory_.map());
  (void)guest_.read(0);
  EXPECT_EQ(take(queue), 1u);
  EXPECT_EQ(stats_.broken.value(), 0u);
}

TEST_F(QueueTest, ThatIsClosedTakesNoMore) {
  Queue queue = make();
  (void)guest_.read(0);
  queue.close();
  EXPECT_EQ(take(queue), 0u);
  EXPECT_FALSE(queue.arm_kick());
  EXPECT_TRUE(queue.drained());
  EXPECT_EQ(stats_.broken.value(), 0u);
}

/// A ring whose predecessor died with chains in flight.
class OwingQueue : public LongChains {
 protected:
  static constexpr std::uint16_t size = 16;

  OwingQueue() {
    auto made = vhost::make_inflight_region(1, size);
    auto mapped = vhost::Mapping::map(made->file.get(), 0, made->description.mmap_size_bytes);
    region_ = std::make_shared<const vhost::Mapping>(std::move(*mapped));
  }
  vhost::InflightSection section() {
    return {region_, region_->bytes().first(vhost::inflight_section_bytes(size)), size};
  }
  /// Takes what is offered, and dies.
  void predecessor() {
    auto ring = vhost::SplitRing::create(guest_.driver().setup(), memory_.map(), section());
    std::vector<iovec> room(ring->longest_chain());
    vhost::Chain chain(room);
    while (ring->pop(chain) == vhost::Pop::ready) {
    }
  }

  std::shared_ptr<const vhost::Mapping> region_;
};

TEST_F(OwingQueue, ServesWhatAPredecessorOwedEvenIfItIsClosed) {
  const Sent owed = guest_.read(0);
  predecessor();
  Queue queue = make(section());
  (void)guest_.read(0);
  queue.close();
  EXPECT_FALSE(queue.drained());
  EXPECT_TRUE(queue.arm_kick());
  EXPECT_EQ(take(queue), 1u);
  EXPECT_FALSE(queue.drained());
  finish_all(queue);
  (void)queue.publish();
  EXPECT_TRUE(queue.drained());
  EXPECT_TRUE(guest_.has_status(owed, Status::ok));
  EXPECT_EQ(guest_.take_all(), 1u);
}

TEST_F(OwingQueue, ThatIsClosedAndShortOfRoomLetsTheWorkerSleep) {
  for (int i = 0; i < 9; ++i) (void)guest_.read_scattered(40);
  predecessor();
  Queue queue = make(section());
  queue.close();
  EXPECT_EQ(take(queue), 8u);
  EXPECT_FALSE(queue.arm_kick());
  finish_all(queue);
  EXPECT_EQ(take(queue), 1u);
}

}  // namespace
}  // namespace blk
