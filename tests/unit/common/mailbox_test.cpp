#include "common/mailbox.hpp"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "common/spin.hpp"
#include "tests/fakes/event.hpp"

namespace common {
namespace {

bool readable(int fd) {
  pollfd look{fd, POLLIN, 0};
  return ::poll(&look, 1, 0) == 1;
}

/// A worker that is awake: it opens the box in the moment in which it is filled.
class Awake {
 public:
  explicit Awake(Mailbox& box)
      : thread_([&box](const std::stop_token& end) {
          while (!end.stop_requested()) {
            if (box.full()) {
              box.open();
            } else {
              pause_briefly();
            }
          }
        }) {}

 private:
  std::jthread thread_;
};

TEST(Mailbox, DoesATaskBeforePostReturns) {
  const auto box = std::move(*Mailbox::create());
  const Awake worker(*box);
  for (int i = 0; i < 1000; ++i) {
    int done = 0;
    ASSERT_TRUE(box->post([&] { done = i + 1; }, {}));
    ASSERT_EQ(done, i + 1);
  }
}

/// A worker that is in a call.
class Caller {
 public:
  Caller(Mailbox& box, const vhost::EventFd& call)
      : thread_([&] {
          number_ = ::gettid();
          box.call(&call);
          back_ = true;
        }) {}
  [[nodiscard]] bool is_back() const { return back_; }
  /// It waits in the kernel.
  [[nodiscard]] bool hangs() const {
    return vhost::fakes::eventually([&] {
      std::string line;
      std::getline(std::ifstream("/proc/self/task/" + std::to_string(number_) + "/stat"), line);
      return line.contains(") S ");
    });
  }
  [[nodiscard]] bool comes_back() const {
    for (int i = 0; i < 1000 && !back_; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return back_;
  }

 private:
  std::atomic<bool> back_ = false;
  std::atomic<pid_t> number_ = 0;
  std::jthread thread_;
};

TEST(Mailbox, FreesAWorkerThatHangsInACallWhileNobodyWaits) {
  const auto box = std::move(*Mailbox::create());
  const vhost::fakes::Event event;
  const auto call = event.shared();
  event.make_blocking_and_full();
  {
    const Caller worker(*box, *call);
    EXPECT_TRUE(worker.hangs());
    box->look_at_call();
    EXPECT_TRUE(worker.comes_back());
    while (!worker.is_back()) call->drain();
  }
  EXPECT_EQ(event.conduct->hung_calls(), 1U);
  std::atomic<int> calls = 0;
  std::jthread worker([&](const std::stop_token& stop) {
    for (; !stop.stop_requested(); ++calls) box->call(call.get());
  });
  ASSERT_TRUE(vhost::fakes::eventually([&] { return calls > 100; })) << "it hung once more";
  for (int i = 0; i < 1000; ++i) box->look_at_call();
  EXPECT_EQ(event.conduct->hung_calls(), 1U);
}

/// With one in a crowd of writers that all wait for room in the descriptor, and would fill it.
void free_from_a_crowd() {
  const auto box = std::move(*Mailbox::create());
  const vhost::fakes::Event event;
  const auto call = event.shared();
  event.make_blocking_and_full();
  std::atomic<bool> end = false;
  std::atomic<int> left = 20;
  std::vector<std::jthread> crowd;
  for (int i = left; i > 0; --i) {
    crowd.emplace_back([&] {
      const std::uint64_t most = UINT64_MAX - 1;
      while (!end) (void)!::write(event.get(), &most, sizeof most);
      --left;
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const Caller worker(*box, *call);
  EXPECT_TRUE(worker.hangs());
  box->look_at_call();
  EXPECT_TRUE(worker.comes_back());
  end = true;
  while (left > 0 || !worker.is_back()) call->drain();
}

TEST(Mailbox, FreesAWorkerAlthoughOthersFillTheDescriptorAtOnce) {
  for (int i = 0; i < 10 && !testing::Test::HasFailure(); ++i) free_from_a_crowd();
}

TEST(Mailbox, LeavesAnHonestFrontEndsDescriptorAlone) {
  const auto box = std::move(*Mailbox::create());
  const vhost::fakes::Event event;
  const auto call = event.shared();
  std::jthread worker([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) box->call(call.get());
  });
  ASSERT_TRUE(event.wait());
  for (int i = 0; i < 1000; ++i) box->look_at_call();
  EXPECT_EQ(event.conduct->hung_calls(), 0U);
}

TEST(Mailbox, KeepsNothingOfATaskThatIsDone) {
  const auto box = std::move(*Mailbox::create());
  const Awake worker(*box);
  auto held = std::make_shared<int>(1);
  const std::weak_ptr<int> watched = held;
  ASSERT_TRUE(box->post([held = std::move(held)] {}, {}));
  EXPECT_TRUE(watched.expired());
}

TEST(Mailbox, LeavesNoWakeUpBehind) {
  const auto box = std::move(*Mailbox::create());
  const Awake worker(*box);
  for (int i = 0; i < 20'000; ++i) {
    ASSERT_TRUE(box->post([] {}, {}));
    ASSERT_FALSE(readable(box->wake_fd())) << i;  // a worker would never sleep again
  }
}

}  // namespace
}  // namespace common
