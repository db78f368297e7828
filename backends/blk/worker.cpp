#include "backends/blk/worker.hpp"

#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <future>
#include <optional>
#include <thread>

#include "backends/blk/file_engine.hpp"
#include "backends/blk/null_engine.hpp"
#include "backends/blk/uring.hpp"
#include "common/cpu.hpp"
#include "common/log.hpp"
#include "common/spin.hpp"

namespace blk {
namespace {

using common::now_ns;
using common::pause_briefly;

// A completion's tag says what it belongs to: a slot's address as it is, a queue's with bit 0
// set, cancel_tag, or this one.
constexpr Tag mail_tag = 2;
constexpr Tag queue_bit = 1;

template <class Engine>
class Loop final : public Worker {
 public:
  using MakeEngine = std::function<Engine(Uring&)>;

  Loop(WorkerSetup setup, std::shared_ptr<common::Mailbox> mailbox, MakeEngine make_engine)
      : setup_(std::move(setup)),
        mailbox_(std::move(mailbox)),
        make_engine_(std::move(make_engine)) {}

  ~Loop() override {
    if (!thread_.joinable()) return;
    // Whoever destroys workers has seen to it that all of them come round (Worker::post).
    if (!post([this] { running_ = false; })) std::terminate();
    thread_.join();
  }

  /// Starts the thread; returns when it serves, or why it cannot.
  [[nodiscard]] vhost::Result<void> start() {
    std::promise<vhost::Result<void>> begun;
    auto outcome = begun.get_future();
    thread_ = std::thread([this, &begun] { main(begun); });
    auto result = outcome.get();
    if (!result) thread_.join();
    return result;
  }

  bool post(std::function<void()> task) override {
    return mailbox_->post(std::move(task), setup_.patience);
  }

  void add(std::unique_ptr<Queue> queue) override {
    mailbox_->call(queue->call());
    queues_.push_back(std::move(queue));
  }

  void set_call(std::uint16_t index, std::shared_ptr<const vhost::EventFd> call) override {
    Queue& queue = find(index);
    mailbox_->let_go(queue.change_call(std::move(call)));
    mailbox_->call(queue.call());
  }

  vhost::AnyRing remove(std::uint16_t index) override {
    Queue& queue = find(index);
    queue.close();
    while (!queue.drained()) {
      if (!turn()) sleep();
    }
    return part_with(queue);
  }

  vhost::AnyRing suspend(std::uint16_t index) override {
    Queue& queue = find(index);
    engine_->leave(queue.suspend());
    while (engine_->is_leaving()) {
      if (!turn()) sleep();
    }
    queue.leave();
    return part_with(queue);
  }

  void quiesce() override {
    const auto quiet = [this] {
      return std::ranges::all_of(queues_, [](const auto& queue) { return queue->quiet(); });
    };
    while (!quiet()) {
      uring_->wait();
      (void)let_in();
      publish();
    }
  }

  const std::vector<std::unique_ptr<Queue>>& queues() const override { return queues_; }

  bool alive() override {
    const std::uint64_t turns = turns_.load(std::memory_order_relaxed);
    const bool moved = turns != std::exchange(turns_seen_, turns);
    return moved || asleep_.load(std::memory_order_relaxed);
  }

 private:
  void main(std::promise<vhost::Result<void>>& begun) {
    if (auto ready = prepare(); !ready) {
      begun.set_value(std::move(ready));
      return;
    }
    begun.set_value({});
    std::uint64_t idle_since = 0;
    while (running_) {
      bool moved = turn();
      if (mailbox_->full()) {
        mailbox_->open();
        moved = true;
      }
      turns_.store(turns_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      if (moved) {
        idle_since = 0;
        continue;
      }
      if (idle_since == 0) idle_since = now_;
      if (now_ - idle_since < spin_.ns() || must_poll()) {
        pause_briefly();
        continue;
      }
      if (sleep()) spin_.slept(now_ns() - now_);
      idle_since = 0;
    }
  }

  [[nodiscard]] vhost::Result<void> prepare() {
    common::name_this_thread(setup_.name);
    if (!setup_.cpus.empty()) {
      if (auto pinned = common::pin_thread(::pthread_self(), setup_.cpus); !pinned) return pinned;
    }
    auto uring = Uring::create();
    if (!uring) return std::unexpected(uring.error());
    uring_.emplace(std::move(*uring));
    engine_.emplace(make_engine_(*uring_));
    return engine_->prepare();
  }

  /// One turn, without waiting. True if anything moved.
  bool turn() {
    now_ = now_ns();
    bool moved = false;
    for (const auto& queue : queues_) {
      moved |= queue->take(*engine_, now_) != 0;
    }
    if (const auto done = engine_->end_burst()) {
      done->slot->queue->finish(*done->slot, done->status, now_ns());
    }
    uring_->look();
    moved |= let_in();
    publish();
    return moved;
  }

  /// Handles all completions that are there. True if there was one.
  bool let_in() {
    std::uint64_t done_ns = 0;  // read once, and only if something is done
    return uring_->reap([&](Tag tag, int result) {
      if (tag == cancel_tag) return;
      if (tag == mail_tag) {
        mail_watched_ = false;
        return;
      }
      if ((tag & queue_bit) != 0) {
        auto& queue = *reinterpret_cast<Queue*>(tag & ~queue_bit);
        queue.kick_watched = false;
        if (result > 0) {
          queue.kick()->drain();
          queue.stats().kicks.add();
        }
        return;
      }
      auto& slot = *reinterpret_cast<Slot*>(tag);
      if (const auto status = engine_->complete(slot, result)) {
        if (done_ns == 0) done_ns = now_ns();
        slot.queue->finish(slot, *status, done_ns);
      }
    });
  }

  void publish() {
    for (const auto& queue : queues_) {
      mailbox_->call(queue->publish());
      if (queue->take_news_of_breaking()) {
        common::log::limited(broken_lines_, common::log::Level::warning,
                             "queue {}: the driver broke the rules of the ring; it is stopped "
                             "until the driver resets the device",
                             queue->index());
      }
    }
  }

  /// Asks for kicks, looks once more, and waits for whatever comes first. False: something was
  /// there already and nothing was waited for.
  bool sleep() {
    bool work = false;
    for (const auto& queue : queues_) {
      work |= queue->arm_kick();
      watch(*queue);
    }
    if (!mail_watched_) {
      io_uring_sqe* const entry = uring_->next();
      io_uring_prep_poll_add(entry, mailbox_->wake_fd(), POLLIN);
      io_uring_sqe_set_data64(entry, mail_tag);
      mail_watched_ = true;
    }
    if (!work) {
      asleep_.store(true, std::memory_order_relaxed);
      uring_->wait();
      asleep_.store(false, std::memory_order_relaxed);
    }
    for (const auto& queue : queues_) queue->disarm_kick();
    return !work;
  }

  void watch(Queue& queue) {
    if (queue.kick_watched || queue.kick() == nullptr) return;
    io_uring_sqe* const entry = uring_->next();
    io_uring_prep_poll_add(entry, queue.kick()->get(), POLLIN);
    io_uring_sqe_set_data64(entry, reinterpret_cast<Tag>(&queue) | queue_bit);
    queue.kick_watched = true;
  }

  /// Takes the poll on a queue's kick back, and waits until the kernel has let go of it.
  void unwatch(Queue& queue) {
    if (!queue.kick_watched) return;
    uring_->cancel(reinterpret_cast<Tag>(&queue) | queue_bit);
    while (queue.kick_watched) {
      uring_->wait();
      (void)let_in();
    }
    publish();
  }

  /// Nothing is in flight on it.
  [[nodiscard]] vhost::AnyRing part_with(Queue& queue) {
    unwatch(queue);
    mailbox_->let_go(queue.change_call(nullptr));
    auto ring = queue.give_up_ring();
    std::erase_if(queues_, [&](const auto& candidate) { return candidate.get() == &queue; });
    return ring;
  }

  /// The queue of that index, which the session has started here.
  [[nodiscard]] Queue& find(std::uint16_t index) {
    return **std::ranges::find_if(queues_, [&](const auto& q) { return q->index() == index; });
  }

  /// A driver that never kicks cannot wake us.
  [[nodiscard]] bool must_poll() const {
    return std::ranges::any_of(queues_, [](const auto& q) { return q->needs_polling(); });
  }

  // Set once, before the thread runs.
  const WorkerSetup setup_;
  const std::shared_ptr<common::Mailbox> mailbox_;
  const MakeEngine make_engine_;
  std::thread thread_;

  // The worker's thread alone.
  std::optional<Uring> uring_;
  std::optional<Engine> engine_;
  std::vector<std::unique_ptr<Queue>> queues_;
  common::SpinBudget spin_;
  std::uint64_t now_ = 0;
  bool mail_watched_ = false;
  bool running_ = true;
  common::log::Limiter broken_lines_{std::chrono::seconds(10), 5};

  // Told by the worker to the control thread.
  std::atomic<std::uint64_t> turns_ = 0;
  std::atomic<bool> asleep_ = false;
  std::uint64_t turns_seen_ = 0;  // the control thread's
};

template <class Engine>
vhost::Result<std::unique_ptr<Worker>> make(const WorkerSetup& setup,
                                            typename Loop<Engine>::MakeEngine make_engine) {
  auto mailbox = common::Mailbox::create();
  if (!mailbox) return std::unexpected(mailbox.error());
  auto loop = std::make_unique<Loop<Engine>>(setup, std::move(*mailbox), std::move(make_engine));
  if (auto started = loop->start(); !started) return std::unexpected(started.error());
  return loop;
}

}  // namespace

vhost::Result<std::unique_ptr<Worker>> make_file_worker(const WorkerSetup& setup,
                                                        const Image& image,
                                                        const std::atomic<bool>& durable_writes) {
  return make<FileEngine>(setup,
                          [&](Uring& uring) { return FileEngine(image, durable_writes, uring); });
}

vhost::Result<std::unique_ptr<Worker>> make_null_worker(const WorkerSetup& setup) {
  return make<NullEngine>(setup, [](Uring&) { return NullEngine(); });
}

}  // namespace blk
