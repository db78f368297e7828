/*
 * A worker whose storage or guest makes it wait, and what the control thread does about it.
 */
#include "backends/blk/worker.hpp"
#include "tests/unit/blk/worker_fixture.hpp"

namespace blk {
namespace {

using namespace std::chrono_literals;
using testing_tools::Event;
using testing_tools::eventually;
using testing_tools::GuestsEnd;

using Clock = std::chrono::steady_clock;

class SlowWorker : public testing_tools::WorkerTest {
 protected:
  /// Offers reads and waits until they are with the storage.
  void get_in_flight(GuestsEnd& end, unsigned count) {
    for (unsigned i = 0; i < count; ++i) (void)end.guest.read(0);
    end.kick_if_wanted();
    EXPECT_TRUE(eventually([&] { return end.stats.in_flight.load() == count; }));
  }

  testing_tools::SlowStorage storage_;
};

TEST_F(SlowWorker, RemovesAQueueAfterAllItsRequestsHaveEnded) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  get_in_flight(end, 3);
  std::atomic<bool> answered = false;
  std::thread storage([&] {
    for (int i = 0; i < 3; ++i) {
      std::this_thread::sleep_for(5ms);
      answered = i == 2;
      storage_.answer();
    }
  });
  EXPECT_EQ(remove(*worker, end), 3u);
  EXPECT_TRUE(answered);
  storage.join();
  EXPECT_EQ(end.guest.take_all(), 3u);
}

TEST_F(SlowWorker, TakesNothingMoreFromAQueueThatItRemoves) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  get_in_flight(end, 1);
  std::thread storage([&] {
    std::this_thread::sleep_for(10ms);
    (void)end.guest.read(0);
    end.kick.add();
    std::this_thread::sleep_for(10ms);
    storage_.answer();
  });
  EXPECT_EQ(remove(*worker, end), 1u);
  storage.join();
  EXPECT_EQ(end.guest.take_all(), 1u);
}

TEST_F(SlowWorker, ServesItsOtherQueuesWhileItRemovesOne) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd leaving(memory_, 0);
  GuestsEnd staying(memory_, 1);
  add(*worker, leaving);
  add(*worker, staying);
  get_in_flight(leaving, 1);
  std::thread others([&] {
    std::this_thread::sleep_for(10ms);
    (void)staying.guest.send(Type::get_id);
    staying.kick_if_wanted();
    EXPECT_TRUE(staying.wait_for(1));
    storage_.answer();
  });
  EXPECT_EQ(remove(*worker, leaving), 1u);
  others.join();
}

TEST_F(SlowWorker, QuiescesOnlyWhenNothingIsInFlightAnyMore) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  get_in_flight(end, 2);
  std::thread storage([&] {
    std::this_thread::sleep_for(10ms);
    (void)end.guest.read(0);  // is not taken before the next turn
    storage_.answer();
    storage_.answer();
  });
  std::uint16_t shown = 0;
  EXPECT_TRUE(worker->post([&] {
    worker->quiesce();
    shown = end.guest.driver().used_idx();
    for (const auto& queue : worker->queues()) EXPECT_TRUE(queue->quiet());
  }));
  storage.join();
  EXPECT_EQ(shown, 2u);
  storage_.answer();
  EXPECT_TRUE(end.wait_for(3));
}

TEST_F(SlowWorker, IsAliveWhileItWaitsForTheStorage) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  get_in_flight(end, 1);
  EXPECT_TRUE(eventually([&] { return worker->alive() && worker->alive(); }));
  storage_.answer();
}

/// A task that waits until it may end.
class Stuck {
 public:
  std::function<void()> task() {
    return [may_end = may_end_] {
      while (!*may_end) std::this_thread::sleep_for(1ms);
    };
  }
  void release() { *may_end_ = true; }

 private:
  std::shared_ptr<std::atomic<bool>> may_end_ = std::make_shared<std::atomic<bool>>(false);
};

TEST_F(SlowWorker, IsWaitedForAsLongAsTheProcessIsNotToEnd) {
  const Event end_signal;
  auto worker = null_worker({end_signal.get(), 1ms});
  Stuck stuck;
  std::thread later([&] {
    std::this_thread::sleep_for(200ms);
    stuck.release();
  });
  EXPECT_TRUE(worker->post(stuck.task()));
  later.join();
}

TEST_F(SlowWorker, HasALittleTimeWhenTheProcessIsToEnd) {
  const Event end_signal;
  auto worker = null_worker({end_signal.get(), 10s});
  end_signal.add();
  EXPECT_TRUE(worker->post([] { std::this_thread::sleep_for(120ms); }));
  EXPECT_TRUE(worker->post([] {}));
}

TEST_F(SlowWorker, IsGivenUpWhenTheProcessIsToEnd) {
  const Event end_signal;
  auto worker = null_worker({end_signal.get(), 60ms});
  Stuck stuck;
  std::thread later([&] {
    std::this_thread::sleep_for(20ms);
    end_signal.add();
  });
  const auto began = Clock::now();
  EXPECT_FALSE(worker->post(stuck.task()));
  const auto took = Clock::now() - began;
  EXPECT_GE(took, 60ms);
  EXPECT_LT(took, 5s);
  EXPECT_FALSE(worker->post([] { ADD_FAILURE() << "nobody waits for this"; }));
  later.join();

  (void)worker->alive();
  EXPECT_FALSE(worker->alive());
  stuck.release();
  EXPECT_TRUE(eventually([&] { return worker->alive(); }));
  testing_tools::leave_behind(std::move(worker));
}

TEST_F(SlowWorker, ThatHangsInACallOfAHostileGuestIsFreed) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  ASSERT_TRUE(end.wait_until_asleep());
  end.call.make_blocking_and_full();
  (void)end.guest.read(0);
  end.kick.add();
  ASSERT_TRUE(eventually([&] { return end.guest.driver().used_idx() == 1; }));
  EXPECT_TRUE(worker->post([] {}));
  ::fcntl(end.call.get(), F_SETFL, O_NONBLOCK);
}

TEST_F(SlowWorker, LosesNoCallWhenItIsFreed) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  end.call.make_blocking_and_full();
  (void)end.guest.read(0);
  end.kick.add();
  ASSERT_TRUE(eventually([&] { return end.guest.driver().used_idx() == 1; }));
  EXPECT_TRUE(worker->post([] {}));
  EXPECT_EQ(end.call.count(), UINT64_MAX - 1);  // full is as good as called
}

TEST_F(SlowWorker, IsFreedWhileItGivesUpAQueueOfAHostileGuest) {
  auto worker = worker_on(*storage_.image());
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  get_in_flight(end, 1);
  end.call.make_blocking_and_full();
  storage_.answer();
  EXPECT_EQ(remove(*worker, end), 1u);
  ::fcntl(end.call.get(), F_SETFL, O_NONBLOCK);
}

TEST_F(SlowWorker, IsFreedWhileItChangesTheDescriptorOfAHostileGuest) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  end.call.make_blocking_and_full();
  (void)end.guest.read(0);
  end.kick.add();
  const Event other;
  auto shared = other.shared();
  EXPECT_TRUE(worker->post([&] { worker->set_call(0, shared); }));
  EXPECT_GE(other.count(), 1u);
  ::fcntl(end.call.get(), F_SETFL, O_NONBLOCK);
}

}  // namespace
}  // namespace blk
