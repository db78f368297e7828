#include "backends/net/forwarding/worker.hpp"

#include "tests/unit/net/guest/two_guests.hpp"

namespace net::tests {
namespace {

using NetWorker = TwoGuests;

TEST_F(NetWorker, CarriesFramesBothWays) {
  make();
  start_both();
  send(left_, counting_bytes(1000));
  send(right_, counting_bytes(60));
  ASSERT_EQ(receive(right_)->frame, counting_bytes(1000));
  ASSERT_EQ(receive(left_)->frame, counting_bytes(60));
}

TEST_F(NetWorker, SleepsWhenThereIsNothingAndWakesByAKick) {
  make();
  start_both();
  for (std::size_t i = 1; i <= 5; ++i) {
    ASSERT_TRUE(eventually([&] { return asleep(left_); }));
    std::this_thread::sleep_for(2ms);
    send(left_, counting_bytes(60 * i));
    const auto received = receive(right_);
    ASSERT_TRUE(received);
    EXPECT_EQ(received->frame, counting_bytes(60 * i));
  }
  EXPECT_GE(workers_[0]->stats().wake_ups.value(), 5u);
  EXPECT_GE(left_.device->from_guest_stats()[0]->kicks.value(), 5u);
}

TEST_F(NetWorker, CostsNothingWhileItSleeps) {
  make();
  start_both();
  ASSERT_TRUE(eventually([&] { return asleep(left_); }));
  const std::uint64_t turns = workers_[0]->stats().turns.value();
  std::this_thread::sleep_for(100ms);
  EXPECT_LE(workers_[0]->stats().turns.value(), turns + 2);
}

TEST_F(NetWorker, SleepsAgainAfterEveryTask) {
  make();
  const common::Counter& turns = workers_[0]->stats().turns;
  for (int i = 0; i < 500; ++i) {
    // The second finds the worker awake: it opens the box in the moment in which it is filled.
    for (int task = 0; task < 2; ++task) ASSERT_TRUE(workers_[0]->post([] {}));
    ASSERT_TRUE(eventually([&] {
      const std::uint64_t before = turns.value();
      std::this_thread::sleep_for(500us);
      return turns.value() == before;
    }));
  }
}

TEST_F(NetWorker, LooksNowAndThenForADriverThatNeverKicks) {
  make();
  for (Guest& guest : guests_) guest.receive.offer_many(10, 1600);
  start(right_);
  left_.device->set_features(modern);
  auto ring = left_.transmit.start(map_);
  ring.kick = nullptr;
  left_.device->start_ring(transmit_ring, std::move(ring));
  std::this_thread::sleep_for(50ms);
  (void)left_.transmit.send(counting_bytes(100));
  ASSERT_TRUE(receive(right_));
  // Its looks are few: no more than one in each longest pause, and those that led there.
  std::this_thread::sleep_for(30ms);
  const std::uint64_t pauses = workers_[0]->stats().pauses.value();
  std::this_thread::sleep_for(100ms);
  const std::uint64_t more = workers_[0]->stats().pauses.value() - pauses;
  EXPECT_GE(more, 1u);
  EXPECT_LE(more, 22u);
}

TEST_F(NetWorker, NeverSleepsIfItIsToPollAlways) {
  make(1, Polling::always);
  start_both();
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(asleep(left_));
  EXPECT_EQ(workers_[0]->stats().sleeps.value(), 0u);
  (void)left_.transmit.send(counting_bytes(60));  // and no kick
  ASSERT_TRUE(receive(right_));
}

TEST_F(NetWorker, ShowsThatItIsAlive) {
  make();
  start_both();
  EXPECT_TRUE(workers_[0]->alive());
  ASSERT_TRUE(eventually([&] { return asleep(left_); }));
  std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(workers_[0]->alive());  // asleep is alive, too
}

TEST_F(NetWorker, IsFreedFromACallThatHangs) {
  make();
  for (Guest& guest : guests_) guest.receive.offer_many(10, 1600);
  start(left_);
  auto ring = right_.receive.start(map_);
  right_.device->set_features(modern);
  right_.device->start_ring(receive_ring, std::move(ring));
  right_.receive.call.make_blocking_and_full();
  send(left_, counting_bytes(60));
  std::this_thread::sleep_for(20ms);
  EXPECT_TRUE(workers_[0]->post([] {}));
}

TEST_F(NetWorker, DoesTasksWhileFramesFlow) {
  make(2);
  start_both();
  std::atomic<bool> go_on = true;
  std::jthread tasks([&] {
    while (go_on) {
      for (const auto& worker : workers_) EXPECT_TRUE(worker->post([] {}));
    }
  });
  for (int i = 0; i < 10; ++i) {
    send(left_, counting_bytes(200));
    ASSERT_TRUE(receive(right_));
  }
  go_on = false;
}

}  // namespace
}  // namespace net::tests
