#include "common/mailbox.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

#include "common/log.hpp"

namespace common {
namespace {

using Clock = std::chrono::steady_clock;

void add_one(const vhost::UniqueFd& fd) {
  const std::uint64_t one = 1;
  (void)!::write(fd.get(), &one, sizeof one);
}

/// Ends a system call that waits, and does nothing else. Nobody else uses it; by default it is
/// ignored.
constexpr int interruption = SIGURG;

bool prepare_interruption() {
  struct sigaction action{};
  action.sa_handler = [](int) {};  // and no SA_RESTART
  return ::sigaction(interruption, &action, nullptr) == 0;
}

void take_all(const vhost::UniqueFd& fd) {
  std::uint64_t count = 0;
  (void)!::read(fd.get(), &count, sizeof count);
}

}  // namespace

vhost::Result<std::shared_ptr<Mailbox>> Mailbox::create() {
  auto box = std::make_shared<Mailbox>();
  box->wake_ = vhost::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  box->done_ = vhost::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!box->wake_ || !box->done_) {
    return vhost::fail_errno(vhost::Fault::host, "cannot create an eventfd");
  }
  if (!prepare_interruption()) {
    return vhost::fail_errno(vhost::Fault::host, "cannot set a signal's handler");
  }
  return box;
}

bool Mailbox::post(std::function<void()> task, const Patience& patience) {
  if (abandoned_) return false;
  task_ = std::move(task);
  // In this order: a worker that is awake may open the box at once, and must find the wake-up of
  // this task there, or it would be left behind and never let the worker sleep again.
  add_one(wake_);
  full_.store(true, std::memory_order_release);
  abandoned_ = !wait_until_done(patience);
  if (abandoned_) return false;
  let_go_.clear();
  task_ = nullptr;  // what it held (descriptors, a memory map) goes now, not with the next task
  return true;
}

void Mailbox::open() {
  take_all(wake_);
  task_();
  full_.store(false, std::memory_order_release);
  add_one(done_);
}

void Mailbox::call(const vhost::EventFd* descriptor) {
  if (descriptor == nullptr) return;
  if (!descriptor->may_hang()) return descriptor->signal_with_care();
  worker_.store(::pthread_self(), std::memory_order_relaxed);
  calling_.store(descriptor, std::memory_order_release);
  descriptor->signal();
  calling_.store(nullptr, std::memory_order_relaxed);
}

void Mailbox::let_go(std::shared_ptr<const vhost::EventFd> descriptor) {
  let_go_.push_back(std::move(descriptor));
}

/// A signal ends the wait, and not the call being read by us: who has filled the counter may have
/// more writers waiting than we can outrun. A counter that is full is as good as signalled. The
/// descriptor lives, and so does the worker: only the control thread ends them.
void Mailbox::look_at_call() {
  const auto* const calling = calling_.load(std::memory_order_acquire);
  if (calling == nullptr || !calling->full()) return;
  calling->distrust();  // first: the one that is freed shall not hang again
  (void)::pthread_kill(worker_.load(std::memory_order_relaxed), interruption);
}

bool Mailbox::wait_until_done(const Patience& patience) {
  const auto began = Clock::now();
  auto complain_at = began + std::chrono::seconds(5);
  Clock::time_point give_up_at = Clock::time_point::max();
  while (true) {
    std::array<pollfd, 2> watched{pollfd{done_.get(), POLLIN, 0},
                                  pollfd{patience.end_signal, POLLIN, 0}};
    const bool ending = give_up_at != Clock::time_point::max();
    (void)::poll(watched.data(), ending ? 1 : 2, 50);
    if ((watched[0].revents & POLLIN) != 0) {
      take_all(done_);
      return true;
    }
    if (!ending && (watched[1].revents & POLLIN) != 0) {
      give_up_at = Clock::now() + patience.after_end;
    }
    look_at_call();
    const auto now = Clock::now();
    if (now >= give_up_at) return false;
    if (now >= complain_at) {
      log::warning("a worker has not come round for {} s; what it waits for has not answered",
                   std::chrono::duration_cast<std::chrono::seconds>(now - began).count());
      complain_at = now + std::chrono::seconds(30);
    }
  }
}

}  // namespace common
