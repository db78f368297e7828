#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "libvhost/session/event_fd.hpp"
#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * The door between the control thread and a worker: one task at a time, done between two of the
 * worker's turns, and waited for.
 *
 * The wait has two ends beside the good one. If the process is to end, only a moment more is
 * waited: a worker that waits for storage must not hold it up. And a worker that hangs in a call to
 * a hostile guest, whose eventfd blocks and is full, is freed by a signal (SIGURG, which means
 * nothing else here); where workers serve several guests, also while nobody waits. That happens
 * once: afterwards this guest is called in a way that cannot hang (event_fd.hpp).
 */
namespace common {

/// How the control thread waits for a worker.
struct Patience {
  /// Readable when the process is to end: then no more than `after_end` is waited.
  int end_signal = -1;
  std::chrono::milliseconds after_end{1000};
};

class Mailbox {
 public:
  [[nodiscard]] static vhost::Result<std::shared_ptr<Mailbox>> create();

  /// Control thread. False: the process is to end and the worker did not come round in time; it
  /// still may do the task, and gets no other.
  [[nodiscard]] bool post(std::function<void()> task, const Patience& patience);
  /// Control thread, now and then: frees a worker that hangs in a call. (post() does that while it
  /// waits.)
  void look_at_call();

  // The worker's thread.
  /// Readable when there is a task.
  [[nodiscard]] int wake_fd() const { return wake_.get(); }
  [[nodiscard]] bool full() const { return full_.load(std::memory_order_acquire); }
  /// Does the task.
  void open();
  /// Signals a call descriptor, so that the control thread knows where we are if we hang in it.
  void call(const vhost::EventFd* descriptor);
  /// In a task: a descriptor that is not called any more. The control thread may be freeing us from
  /// a call on it right now, so it ends only when that thread has its answer.
  void let_go(std::shared_ptr<const vhost::EventFd> descriptor);

 private:
  [[nodiscard]] bool wait_until_done(const Patience& patience);

  std::function<void()> task_;
  std::atomic<bool> full_ = false;
  std::atomic<const vhost::EventFd*> calling_ = nullptr;
  std::atomic<pthread_t> worker_{};                            // in calling_
  std::vector<std::shared_ptr<const vhost::EventFd>> let_go_;  // the worker's until done_
  bool abandoned_ = false;
  vhost::UniqueFd wake_;
  vhost::UniqueFd done_;
};

}  // namespace common
