#include "backends/blk/worker.hpp"

#include "tests/unit/blk/worker_fixture.hpp"

namespace blk {
namespace {

using namespace std::chrono_literals;
using testing_tools::eventually;
using testing_tools::GuestsEnd;
using testing_tools::WorkerTest;

TEST_F(WorkerTest, CallsTheDriverOnceWhenItTakesAQueue) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  EXPECT_EQ(end.call.count(), 1u);
}

TEST_F(WorkerTest, ServesWhatWasOfferedBeforeItTookTheQueue) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  const auto sent = end.guest.send(Type::flush);
  add(*worker, end);
  EXPECT_TRUE(end.wait_for(1));
  EXPECT_TRUE(end.guest.has_status(sent, Status::ok));
}

TEST_F(WorkerTest, ServesManyRequestsOneAfterAnother) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(end.read_one()) << i;
  (void)remove(*worker, end);
  EXPECT_EQ(end.stats.of(Op::read).requests.value(), 2000u);
}

TEST_F(WorkerTest, IsWokenByAKick) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(end.wait_until_asleep());
    std::this_thread::sleep_for(1ms);
    ASSERT_TRUE(end.read_one());
  }
  EXPECT_EQ(remove(*worker, end), 20u);
  EXPECT_GE(end.stats.kicks.value(), 20u);
  EXPECT_EQ(end.kick.count(), 0u);
}

TEST_F(WorkerTest, NeverFallsAsleepOverARequest) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  for (unsigned i = 0; i < 3000; ++i) {
    // About as long as the worker looks on: the request comes while it goes to sleep.
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(i * 37 % 80);
    while (std::chrono::steady_clock::now() < until) {
    }
    ASSERT_TRUE(end.read_one()) << i;
  }
}

TEST_F(WorkerTest, PollsAQueueThatNeverKicks) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  end.polled = true;
  add(*worker, end);
  std::this_thread::sleep_for(5ms);
  (void)end.guest.read(0);
  EXPECT_TRUE(end.wait_for(1));
}

TEST_F(WorkerTest, DoesATaskWhileAsleepAndWhileBusy) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  int done = 0;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(end.wait_until_asleep());
    ASSERT_TRUE(worker->post([&done] { ++done; }));
  }
  for (int i = 0; i < 200; ++i) {
    (void)end.guest.read(0);
    end.kick_if_wanted();
    ASSERT_TRUE(worker->post([&done] { ++done; }));
    ASSERT_TRUE(end.wait_for(1));
  }
  EXPECT_EQ(done, 250);
}

TEST_F(WorkerTest, DoesTasksOnItsOwnThread) {
  auto worker = null_worker();
  std::thread::id there;
  EXPECT_TRUE(worker->post([&there] { there = std::this_thread::get_id(); }));
  EXPECT_NE(there, std::this_thread::get_id());
}

TEST_F(WorkerTest, CallsOnAnotherDescriptorFromNowOnAndOnceRightAway) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  (void)end.call.count();
  const testing_tools::Event other;
  auto shared = other.shared();
  EXPECT_TRUE(worker->post([&] { worker->set_call(0, shared); }));
  EXPECT_EQ(other.count(), 1u);
  (void)end.guest.read(0);
  end.kick_if_wanted();
  EXPECT_TRUE(other.wait());
  EXPECT_EQ(end.call.count(), 0u);
}

TEST_F(WorkerTest, KeepsItsQueuesApart) {
  auto worker = null_worker();
  GuestsEnd first(memory_, 0);
  GuestsEnd second(memory_, 5);
  add(*worker, first);
  add(*worker, second);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(first.read_one());
    ASSERT_TRUE(second.read_one());
  }
  EXPECT_EQ(remove(*worker, first), 100u);
  ASSERT_TRUE(second.read_one());
  EXPECT_EQ(remove(*worker, second), 101u);
}

TEST_F(WorkerTest, GoesOnWithItsOtherQueuesWhenOneBreaks) {
  auto worker = null_worker();
  GuestsEnd good(memory_, 0);
  GuestsEnd bad(memory_, 1);
  add(*worker, good);
  add(*worker, bad);
  bad.guest.driver().offer(999);
  bad.kick.add();
  EXPECT_TRUE(bad.error.wait());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(good.read_one());
  (void)remove(*worker, bad);
  EXPECT_EQ(bad.stats.broken.value(), 1u);
  ASSERT_TRUE(good.read_one());
}

TEST_F(WorkerTest, LeavesAQueueThatItGaveBack) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  ASSERT_TRUE(end.wait_until_asleep());
  (void)remove(*worker, end);
  (void)end.guest.read(0);
  end.kick.add();
  EXPECT_TRUE(worker->post([] {}));
  EXPECT_EQ(end.guest.take_all(), 0u);
  EXPECT_EQ(end.kick.count(), 1u);
}

TEST_F(WorkerTest, TakesAndGivesBackAQueueManyTimesUnderLoad) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  std::uint32_t base = 0;
  for (int i = 0; i < 300; ++i) {
    add(*worker, end, base);
    for (int k = 0; k < i % 4; ++k) (void)end.guest.read(0);
    end.kick_if_wanted();
    base = remove(*worker, end);
    EXPECT_EQ(base, end.guest.driver().used_idx());
    end.guest.take_all();
  }
}

TEST_F(WorkerTest, StartsAndEndsManyTimes) {
  for (int i = 0; i < 100; ++i) {
    auto worker = null_worker();
    GuestsEnd end(memory_, 0);
    add(*worker, end);
    if (i % 2 == 0) std::this_thread::sleep_for(200us);
    memory_.store(end.guest.driver().used_at() + 2, std::uint16_t{0});
    (void)remove(*worker, end);
  }
}

TEST_F(WorkerTest, SharesNothingWithOthers) {
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::unique_ptr<GuestsEnd>> ends;
  for (std::uint16_t i = 0; i < 3; ++i) {
    workers.push_back(null_worker());
    ends.push_back(std::make_unique<GuestsEnd>(memory_, i));
    add(*workers[i], *ends[i]);
  }
  for (int i = 0; i < 200; ++i) {
    for (auto& end : ends) {
      (void)end->guest.read(0);
      end->kick_if_wanted();
    }
    for (auto& end : ends) ASSERT_TRUE(end->wait_for(1));
  }
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(remove(*workers[i], *ends[i]), 200u);
}

TEST_F(WorkerTest, IsAliveWhileItSleepsAndWhileItPolls) {
  auto worker = null_worker();
  GuestsEnd end(memory_, 0);
  EXPECT_TRUE(eventually([&] { return worker->alive() && worker->alive() && worker->alive(); }));
  end.polled = true;
  add(*worker, end);
  (void)worker->alive();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(eventually([&] { return worker->alive(); }));
  }
}

TEST_F(WorkerTest, CannotStartOnACpuThatIsNotThere) {
  EXPECT_FALSE(make_null_worker({"test-worker", {1023}, {}}));
}

TEST_F(WorkerTest, CannotStartOnAnImageThatIsNotOpen) {
  Image image;
  image.file = vhost::UniqueFd(1'000'000);
  EXPECT_FALSE(make_file_worker({"test-worker", {}, {}}, image, durable_));
}

TEST_F(WorkerTest, WritesAndReadsAFile) {
  const testing_tools::ScratchFolder folder;
  const auto image = testing_tools::open_to_write(folder.file("image", 1 << 20));
  auto worker = worker_on(*image);
  GuestsEnd end(memory_, 0);
  add(*worker, end);
  for (std::uint64_t i = 0; i < 64; ++i) {
    (void)end.guest.write(i, std::string(512, static_cast<char>('A' + i)));
    end.kick_if_wanted();
    ASSERT_TRUE(end.wait_for(1));
  }
  for (std::uint64_t i = 0; i < 64; ++i) {
    const auto sent = end.guest.read(i);
    end.kick_if_wanted();
    ASSERT_TRUE(end.wait_for(1));
    EXPECT_TRUE(end.guest.has_status(sent, Status::ok));
    EXPECT_EQ(end.guest.text_at(sent.data_at, 512), std::string(512, static_cast<char>('A' + i)));
  }
  (void)remove(*worker, end);
}

}  // namespace
}  // namespace blk
