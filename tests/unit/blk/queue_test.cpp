#include "backends/blk/queue.hpp"

#include <gmock/gmock.h>

#include "tests/unit/blk/queue_fixture.hpp"

namespace blk {
namespace {

using testing_tools::QueueTest;
using testing_tools::Sent;
using vhost::fakes::Buffer;

TEST_F(QueueTest, GivesNothingBackBeforeTheEngineIsDone) {
  Queue queue = make();
  const Sent sent = guest_.read(0);
  EXPECT_EQ(take(queue), 1u);
  EXPECT_EQ(queue.publish(), nullptr);
  EXPECT_EQ(guest_.driver().take_used(), std::nullopt);
  EXPECT_EQ(guest_.status_byte(sent), guest_.no_status);
  EXPECT_FALSE(queue.quiet());
  EXPECT_FALSE(queue.drained());
}

TEST_F(QueueTest, ShowsWhatIsFinishedOnlyWhenItIsPublished) {
  Queue queue = make();
  (void)guest_.read(0);
  (void)take(queue);
  finish_all(queue);
  EXPECT_EQ(guest_.driver().take_used(), std::nullopt);
  EXPECT_NE(queue.publish(), nullptr);
  EXPECT_TRUE(guest_.driver().take_used());
  EXPECT_TRUE(queue.quiet());
  EXPECT_TRUE(queue.drained());
}

TEST_F(QueueTest, WritesTheStatusThatTheEngineGave) {
  Queue queue = make();
  const Sent good = guest_.read(0);
  const Sent bad = guest_.read(1);
  (void)take(queue);
  finish_one(queue, Status::ok);
  finish_one(queue, Status::io_error);
  EXPECT_TRUE(guest_.has_status(good, Status::ok));
  EXPECT_TRUE(guest_.has_status(bad, Status::io_error));
}

TEST_F(QueueTest, SaysHowMuchOfTheRoomIsWritten) {
  Queue queue = make();
  const Sent read = guest_.read(0, 1024);
  const Sent write = guest_.write(0, std::string(512, 'x'));
  (void)take(queue);
  finish_all(queue);
  (void)queue.publish();
  const auto first = guest_.driver().take_used();
  const auto second = guest_.driver().take_used();
  EXPECT_EQ(first->id, read.id);
  EXPECT_EQ(first->length, 1025u);
  EXPECT_EQ(second->id, write.id);
  EXPECT_EQ(second->length, 1u);
}

TEST_F(QueueTest, GivesAChainWithoutRoomForAnAnswerBackWithLengthZero) {
  Queue queue = make();
  const std::uint16_t id = guest_.driver().add({{vhost::fakes::GuestMemory::far, 16}});
  EXPECT_EQ(take(queue), 1u);
  (void)queue.publish();
  const auto used = guest_.driver().take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, id);
  EXPECT_EQ(used->length, 0u);
  EXPECT_EQ(stats_.unanswerable.value(), 1u);
  EXPECT_EQ(engine_.starts, 0u);
}

TEST_F(QueueTest, AnswersABadRequestWithoutTheEngine) {
  Queue queue = make();
  const Sent beyond = guest_.read(64);
  const Sent unknown = guest_.send_raw(77, 0, {});
  EXPECT_EQ(take(queue), 2u);
  EXPECT_EQ(engine_.starts, 0u);
  EXPECT_TRUE(guest_.has_status(beyond, Status::io_error));
  EXPECT_TRUE(guest_.has_status(unknown, Status::unsupported));
  EXPECT_EQ(stats_.of(Op::read).io_errors.value(), 1u);
  EXPECT_EQ(stats_.invalid.value(), 1u);
  EXPECT_EQ(stats_.of(Op::other).unsupported.value(), 1u);
  EXPECT_EQ(stats_.unanswerable.value(), 0u);
}

TEST_F(QueueTest, AnswersAtOnceWhatTheEngineDoesAtOnce) {
  engine_.at_once = Status::ok;
  Queue queue = make();
  const Sent sent = guest_.read(0);
  EXPECT_EQ(take(queue), 1u);
  EXPECT_TRUE(queue.quiet());
  EXPECT_NE(queue.publish(), nullptr);
  EXPECT_TRUE(guest_.has_status(sent, Status::ok));
}

TEST_F(QueueTest, CallsOnceForAllThatAPublishShows) {
  Queue queue = make();
  for (int i = 0; i < 5; ++i) (void)guest_.read(0);
  (void)take(queue);
  finish_all(queue);
  const auto* call = queue.publish();
  EXPECT_EQ(call, queue.call());
  EXPECT_EQ(queue.publish(), nullptr);
  EXPECT_EQ(guest_.take_all(), 5u);
  EXPECT_EQ(stats_.calls.value(), 1u);
  EXPECT_EQ(stats_.calls_suppressed.value(), 0u);
}

TEST_F(QueueTest, DoesNotCallADriverThatWantsNoCalls) {
  Queue queue = make();
  guest_.driver().want_no_calls();
  (void)guest_.read(0);
  (void)take(queue);
  finish_all(queue);
  EXPECT_EQ(queue.publish(), nullptr);
  EXPECT_EQ(guest_.take_all(), 1u);
  EXPECT_EQ(stats_.calls.value(), 0u);
  EXPECT_EQ(stats_.calls_suppressed.value(), 1u);
}

TEST_F(QueueTest, WithoutACallDescriptorSuppressesEveryCall) {
  Queue queue = make();
  queue.change_call(nullptr);
  (void)guest_.read(0);
  (void)take(queue);
  finish_all(queue);
  EXPECT_EQ(queue.publish(), nullptr);
  EXPECT_EQ(guest_.take_all(), 1u);
  EXPECT_EQ(stats_.calls_suppressed.value(), 1u);
}

TEST_F(QueueTest, CallsOnTheNewDescriptorAfterAChange) {
  Queue queue = make();
  const auto other = std::make_shared<testing_tools::Event>();
  const auto fresh = other->shared();
  queue.change_call(fresh);
  (void)guest_.read(0);
  (void)take(queue);
  finish_all(queue);
  EXPECT_EQ(queue.publish(), fresh.get());
}

TEST_F(QueueTest, TakesNoMoreThanABurstInOneTurn) {
  testing_tools::GuestQueue big(memory_, {.size = 256}, 1);
  auto ring = vhost::SplitRing::create(big.driver().setup(), memory_.map());
  Queue queue(0, {std::move(*ring), nullptr, nullptr, nullptr}, disk_, stats_);
  for (unsigned i = 0; i < Queue::burst + 3; ++i) (void)big.send(Type::flush);
  EXPECT_EQ(take(queue), Queue::burst);
  EXPECT_EQ(take(queue), 3u);
}

TEST_F(QueueTest, CountsBurstsAndThoseOfMoreThanOneRequest) {
  Queue queue = make();
  EXPECT_EQ(take(queue), 0u);
  EXPECT_EQ(stats_.bursts.value(), 0u);
  (void)guest_.read(0);
  (void)take(queue);
  EXPECT_EQ(stats_.bursts.value(), 1u);
  EXPECT_EQ(stats_.merged_bursts.value(), 0u);
  (void)guest_.read(0);
  (void)guest_.read(0);
  (void)take(queue);
  EXPECT_EQ(stats_.bursts.value(), 2u);
  EXPECT_EQ(stats_.merged_bursts.value(), 1u);
}

TEST_F(QueueTest, CountsRequestsAndBytesByOperation) {
  Queue queue = make();
  (void)guest_.read(0, 1024);
  (void)guest_.write(0, std::string(512, 'x'));
  (void)guest_.send(Type::flush);
  (void)take(queue);
  finish_all(queue);
  EXPECT_EQ(stats_.of(Op::read).requests.value(), 1u);
  EXPECT_EQ(stats_.of(Op::read).bytes.value(), 1024u);
  EXPECT_EQ(stats_.of(Op::write).bytes.value(), 512u);
  EXPECT_EQ(stats_.of(Op::flush).requests.value(), 1u);
  EXPECT_EQ(stats_.of(Op::flush).bytes.value(), 0u);
}

TEST_F(QueueTest, CountsTheBytesOfRanges) {
  Queue queue = make();
  const auto at = guest_.data(512);
  memory_.store(at, Segment{0, 3, 0});
  memory_.store(at + 16, Segment{8, 2, 0});
  (void)guest_.send(Type::discard, 0, {Buffer{at, 32}});
  (void)take(queue);
  finish_all(queue);
  EXPECT_EQ(stats_.of(Op::discard).bytes.value(), 5 * sector_bytes);
}

TEST_F(QueueTest, CountsErrorsByKindAndNoBytesForThem) {
  Queue queue = make();
  (void)guest_.read(0);
  (void)guest_.read(0);
  (void)take(queue);
  finish_one(queue, Status::io_error);
  finish_one(queue, Status::unsupported);
  EXPECT_EQ(stats_.of(Op::read).requests.value(), 2u);
  EXPECT_EQ(stats_.of(Op::read).io_errors.value(), 1u);
  EXPECT_EQ(stats_.invalid.value(), 0u) << "the storage failed, not the guest";
  EXPECT_EQ(stats_.of(Op::read).unsupported.value(), 1u);
  EXPECT_EQ(stats_.of(Op::read).bytes.value(), 0u);
}

TEST_F(QueueTest, RecordsTheTimeFromTakenToFinished) {
  Queue queue = make();
  (void)guest_.read(0);
  (void)take(queue);
  now_ns_ += 17;
  finish_all(queue);
  const auto latency = stats_.of(Op::read).latency.snapshot();
  EXPECT_EQ(latency.count(), 1u);
  EXPECT_EQ(latency.max_ns(), 17u);
}

TEST_F(QueueTest, TellsWhatIsInFlight) {
  Queue queue = make();
  (void)guest_.read(0);
  (void)guest_.read(0);
  (void)take(queue);
  EXPECT_EQ(stats_.in_flight.load(), 2u);
  finish_one(queue);
  (void)queue.publish();
  EXPECT_EQ(stats_.in_flight.load(), 1u);
}

TEST_F(QueueTest, AsksForNoKicksUntilItIsToldTo) {
  Queue queue = make();
  (void)guest_.read(0);
  EXPECT_FALSE(guest_.driver().must_kick());
  (void)take(queue);
  EXPECT_FALSE(queue.arm_kick());
  EXPECT_TRUE(guest_.driver().must_kick());
  queue.disarm_kick();
  EXPECT_FALSE(guest_.driver().must_kick());
}

TEST_F(QueueTest, DoesNotLetTheWorkerSleepOverAChain) {
  Queue queue = make();
  (void)guest_.read(0);
  EXPECT_TRUE(queue.arm_kick());
}

TEST_F(QueueTest, ChecksAgainstTheSizeAfterAResize) {
  Queue queue = make();
  const Sent before = guest_.read(64);
  (void)take(queue);
  EXPECT_TRUE(guest_.has_status(before, Status::io_error));
  queue.resize(65 * sector_bytes);
  (void)guest_.read(64);
  (void)take(queue);
  EXPECT_EQ(engine_.starts, 1u);
}

// ---------------------------------------------------------------- requests that are left in flight

class SuspendedQueueTest : public QueueTest {
 protected:
  SuspendedQueueTest() {
    auto made = vhost::make_inflight_region(1, 16);
    auto mapped = vhost::Mapping::map(made->file.get(), 0, made->description.mmap_size_bytes);
    region_ = std::make_shared<const vhost::Mapping>(std::move(*mapped));
  }
  Queue make() { return QueueTest::make({region_, region_->bytes(), 16}); }

  std::shared_ptr<const vhost::Mapping> region_;
};

TEST_F(SuspendedQueueTest, HandsOutWhatIsInFlightAndTakesNothingMore) {
  Queue queue = make();
  for (int i = 0; i < 3; ++i) (void)guest_.read(0);
  ASSERT_EQ(take(queue), 3u);
  Slot* const done = engine_.started[1];
  queue.finish(*done, Status::ok, now_ns_);
  EXPECT_THAT(queue.suspend(),
              testing::UnorderedElementsAre(engine_.started[0], engine_.started[2]));
  (void)guest_.read(0);
  EXPECT_EQ(take(queue), 0u);
  EXPECT_FALSE(queue.arm_kick());
  (void)queue.publish();
  queue.leave();
  EXPECT_TRUE(queue.quiet());
  EXPECT_EQ(stats_.in_flight.load(), 0u);
  EXPECT_EQ(guest_.take_all(), 1u);
}

TEST_F(SuspendedQueueTest, DoesNotTakeWhatAPredecessorOwed) {
  Queue first = make();
  (void)guest_.read(0);
  ASSERT_EQ(take(first), 1u);
  (void)first.suspend();
  first.leave();
  Queue second = make();
  EXPECT_TRUE(second.suspend().empty());
  EXPECT_EQ(take(second), 0u);
  EXPECT_FALSE(second.arm_kick()) << "there is nothing to stay awake for";
  second.leave();
  Queue third = make();
  EXPECT_EQ(take(third), 1u);
}

TEST_F(SuspendedQueueTest, ThatIsMadeToEndTakesOnlyWhatWasLeft) {
  Queue first = make();
  (void)guest_.read(0);
  ASSERT_EQ(take(first), 1u);
  (void)first.suspend();
  first.leave();
  engine_.started.clear();
  (void)guest_.read(0);
  auto ring = vhost::SplitRing::create(guest_.driver().setup(), memory_.map(),
                                       {region_, region_->bytes(), 16});
  Queue second(3, {std::move(*ring), kick_.shared(), call_.shared(), error_.shared(), false, true},
               disk_, stats_);
  EXPECT_FALSE(second.drained());
  EXPECT_EQ(take(second), 1u);
  finish_all(second);
  (void)second.publish();
  EXPECT_TRUE(second.drained());
  EXPECT_EQ(take(second), 0u);
}

}  // namespace
}  // namespace blk
