#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "backends/net/forwarding/desk.hpp"
#include "backends/net/forwarding/sink.hpp"
#include "backends/net/guest/to_guest_queue.hpp"

/*
 * The receive queues of one guest: where frames from anywhere are copied, once, into the buffers
 * that its driver offers.
 *
 * Any worker may have a frame for any guest, so a receive queue is the one kind of ring that does
 * not belong to a worker: it is reached under its own lock, which is taken once a burst and held
 * for the copies. To start or stop one is a task for a worker, too.
 *
 * Which queue: the flow's hash over those that run, so that flows stay in order.
 *
 * Drivers are called in flush(), by the worker that delivered, outside of the lock. The control
 * thread keeps a descriptor open until every worker has come round once after its end.
 */
namespace net {

class ToGuest final : public Sink {
 public:
  /// For at most `queues` receive queues of the port `name`.
  ToGuest(std::string name, std::uint16_t queues, const Desks& desks);
  ~ToGuest() override;

  void deliver(std::span<Frame* const> frames, unsigned worker) override;
  void flush(unsigned worker) override;

  /// Makes a queue, if it is not there yet. The control thread.
  void make_room(std::uint16_t queue);
  /// Null if it was never made.
  [[nodiscard]] const QueueStats* stats(std::uint16_t queue) const;
  [[nodiscard]] bool link_up() const { return running_.load(std::memory_order_relaxed) != 0; }
  /// Frames that were lost because no queue ran.
  [[nodiscard]] std::uint64_t dropped_link_down() const {
    return link_down_.load(std::memory_order_relaxed);
  }

  // In a task on any worker, one at a time: who holds a spin lock must be on a CPU of its own.
  void start(std::uint16_t queue, vhost::StartedRing ring, const GuestForm& form);
  /// Returns what start() was given. Workers may be using its descriptors until each has come
  /// round.
  [[nodiscard]] vhost::StartedRing stop(std::uint16_t queue);
  /// Returns the old descriptor, which workers may be using until each has come round.
  [[nodiscard]] std::shared_ptr<const vhost::EventFd> set_call(
      std::uint16_t queue, std::shared_ptr<const vhost::EventFd> call);
  void move_to(const std::shared_ptr<const vhost::MemoryMap>& memory);
  /// Another MTU, for queues that run.
  void set_longest_plain(std::uint32_t bytes);

 private:
  void list_running();

  const std::string name_;
  const Desks& desks_;
  std::vector<std::unique_ptr<ToGuestQueue>> queues_;
  std::vector<bool> is_running_;  // for list_running() alone
  // Which queues run: the first `running_` entries are their numbers. A worker that reads old
  // entries finds the queue stopped, and drops.
  std::vector<std::atomic<std::uint16_t>> order_;
  std::atomic<std::uint16_t> running_ = 0;
  std::atomic<std::uint64_t> link_down_ = 0;
};

}  // namespace net
