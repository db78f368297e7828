#include "common/mailbox.hpp"

#include <poll.h>

#include <atomic>
#include <thread>

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

TEST(Mailbox, FreesAWorkerThatHangsInACallWhileNobodyWaits) {
  const auto box = std::move(*Mailbox::create());
  const vhost::fakes::Event event;
  const auto call = event.shared();
  event.make_blocking_and_full();
  std::atomic<bool> back = false;
  const std::jthread worker([&] {
    box->call(call.get());
    back = true;
  });
  for (int i = 0; i < 1000 && !back; ++i) {
    box->look_at_call();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_TRUE(back);
  if (!back) call->drain();
  EXPECT_EQ(event.conduct->hung_calls(), 1U);
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
