/*
 * A worker that gives a queue away with requests in flight.
 */
#include "backends/blk/worker.hpp"
#include "tests/unit/blk/worker_fixture.hpp"

namespace blk {
namespace {

using testing_tools::eventually;
using testing_tools::GuestsEnd;

/// On storage that answers nothing by itself.
class SuspendTest : public testing_tools::WorkerTest {
 protected:
  std::vector<testing_tools::Sent> get_in_flight(GuestsEnd& end, unsigned count) {
    std::vector<testing_tools::Sent> sent;
    for (unsigned i = 0; i < count; ++i) sent.push_back(end.guest.read(0));
    end.kick_if_wanted();
    EXPECT_TRUE(eventually([&] { return end.stats.in_flight.load() == count; }));
    return sent;
  }
  testing_tools::SlowStorage storage_;
};

TEST_F(SuspendTest, GivesAQueueAwayWhoseStorageDoesNotAnswer) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  end.keep_inflight();
  add(*worker, end);
  const auto sent = get_in_flight(end, 3);
  EXPECT_EQ(suspend(*worker, end), 3u) << "behind everything that was taken";
  EXPECT_EQ(end.guest.take_all(), 0u);
  for (const auto& one : sent) {
    EXPECT_EQ(end.guest.status_byte(one), testing_tools::GuestQueue::no_status);
  }
  EXPECT_EQ(end.stats.in_flight.load(), 0u);
  EXPECT_EQ(end.stats.left.value(), 3u);
  EXPECT_EQ(end.stats.of(Op::read).requests.value(), 0u);
}

TEST_F(SuspendTest, NothingOfItIsCarriedOutAnyMore) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  end.keep_inflight();
  add(*worker, end);
  get_in_flight(end, 2);
  (void)suspend(*worker, end);
  storage_.answer();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(storage_.unread(), 512) << "a read of those that were left took it";
}

TEST_F(SuspendTest, TheNextWorkerCarriesOutWhatWasLeftAndThenTheRest) {
  auto worker = worker_on(*storage_.image());
  auto next = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  end.keep_inflight();
  add(*worker, end);
  get_in_flight(end, 3);
  const std::uint32_t base = suspend(*worker, end);
  (void)end.guest.read(0);
  add(*next, end, base);
  EXPECT_TRUE(eventually([&] { return end.stats.in_flight.load() == 4; }));
  for (int i = 0; i < 4; ++i) storage_.answer();
  EXPECT_TRUE(end.wait_for(4));
  EXPECT_EQ(remove(*next, end), 4u);
  EXPECT_EQ(end.guest.take_all(), 0u) << "each once";
}

TEST_F(SuspendTest, LeavesAgainWhatItWasYetToCarryOut) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  end.keep_inflight();
  add(*worker, end);
  get_in_flight(end, 2);
  std::uint32_t base = suspend(*worker, end);
  for (int again = 0; again < 10; ++again) {
    add(*worker, end, base);
    base = suspend(*worker, end);
    ASSERT_EQ(base, 2u);
  }
  add(*worker, end, base);
  storage_.answer();
  storage_.answer();
  EXPECT_TRUE(end.wait_for(2));
}

TEST_F(SuspendTest, OtherQueuesKeepTheirRequests) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd leaving(memory_, 0);
  GuestsEnd staying(memory_, 1);
  leaving.keep_inflight();
  add(*worker, leaving);
  add(*worker, staying);
  get_in_flight(leaving, 2);
  get_in_flight(staying, 2);
  EXPECT_EQ(suspend(*worker, leaving), 2u);
  EXPECT_EQ(staying.stats.in_flight.load(), 2u);
  storage_.answer();
  storage_.answer();
  EXPECT_TRUE(staying.wait_for(2));
}

TEST_F(SuspendTest, LeavesNothingOfADiskThatKeepsNothing) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  end.keep_inflight();
  add(*worker, end);
  ASSERT_TRUE(end.read_one());
  EXPECT_EQ(suspend(*worker, end), 1u);
}

}  // namespace
}  // namespace blk
