#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <vector>

#include "backends/blk/queue_stats.hpp"
#include "backends/blk/slot.hpp"
#include "libvhost/session/device.hpp"

/*
 * One running virtqueue of the disk: chains come out of the ring, become requests in slots, and go
 * back with a status.
 *
 * The queue has no idea of threads, files or sleeping: a worker calls take() and publish() in
 * turn, and an engine says when a request is done. What is pushed in a turn becomes visible to
 * the driver in one publish(), with one call at most.
 *
 * Thread: the worker that owns it.
 */
namespace blk {

class Queue {
 public:
  /// Chains that one turn takes at most, so that what is done becomes visible in time and queues
  /// get their turns.
  static constexpr unsigned burst = 64;
  /// Of these, chains that are popped before the first is started: what pops can share is done
  /// once for so many, and the driver's are still in the cache when they are started.
  static constexpr unsigned popped_at_once = 8;

  Queue(std::uint16_t index, vhost::StartedRing ring, const Disk& disk, QueueStats& stats);

  /// Takes a burst of chains and starts them. Returns how many.
  template <class Engine>
  unsigned take(Engine& engine, std::uint64_t now_ns);

  /// The slot's request is done. The driver sees it after publish().
  void finish(Slot& slot, Status status, std::uint64_t now_ns);

  /// Shows the driver what was finished. Returns what to signal if it wants to be called.
  [[nodiscard]] const vhost::EventFd* publish();

  /// Asks for a kick. True: there is something to take already, do not sleep.
  [[nodiscard]] bool arm_kick();
  void disarm_kick();

  /// Takes no more, but for what a crashed predecessor still owed.
  void close() { open_ = false; }
  /// Takes nothing any more, and hands out the requests that are in flight: what of them is not
  /// finished then, leave() leaves.
  [[nodiscard]] std::vector<Slot*> suspend();
  /// Leaves what is in flight to whoever starts the ring next. Nobody may know of it any more.
  void leave();
  [[nodiscard]] bool drained() const;
  /// No request is with the storage.
  [[nodiscard]] bool quiet() const { return in_flight_ == 0; }
  /// Needs the queue to be quiet if regions of the old map go away.
  void move_to(const std::shared_ptr<const vhost::MemoryMap>& memory);
  void resize(std::uint64_t size_bytes) { disk_.size_bytes = size_bytes; }
  /// Returns the descriptor that was called until now.
  std::shared_ptr<const vhost::EventFd> change_call(std::shared_ptr<const vhost::EventFd> call) {
    return std::exchange(call_, std::move(call));
  }
  [[nodiscard]] const vhost::EventFd* call() const { return call_.get(); }
  [[nodiscard]] vhost::AnyRing give_up_ring() { return std::move(ring_); }

  [[nodiscard]] std::uint16_t index() const { return index_; }
  [[nodiscard]] QueueStats& stats() { return stats_; }
  /// Null: the driver never kicks and has to be polled.
  [[nodiscard]] const vhost::EventFd* kick() const { return kick_.get(); }
  /// There may be more to take, and nothing will say so.
  [[nodiscard]] bool needs_polling() const { return open_ && kick_ == nullptr; }
  /// The driver broke the rules and this was not asked before.
  [[nodiscard]] bool take_news_of_breaking() { return std::exchange(just_broke_, false); }

  bool kick_watched = false;  ///< the worker's note: a poll on kick() is under way

 private:
  struct Finished {
    std::uint16_t head;
    std::uint32_t written_bytes;
  };

  template <vhost::Ring R, class Engine>
  unsigned take_from(R& ring, Engine& engine, std::uint64_t now_ns);
  template <vhost::Ring R>
  [[nodiscard]] std::size_t pop(R& ring, std::span<Slot*> slots);
  template <vhost::Ring R>
  [[nodiscard]] vhost::Pop pop(R& ring, Slot& slot, typename R::Reading& reading);
  template <class Engine>
  void start(Engine& engine, Slot& slot, std::uint64_t now_ns);
  void release(Slot& slot);
  void broke();

  std::uint16_t index_;
  vhost::AnyRing ring_;
  std::shared_ptr<const vhost::EventFd> kick_;
  std::shared_ptr<const vhost::EventFd> call_;
  std::shared_ptr<const vhost::EventFd> error_;
  Disk disk_;  // our own, so that a resize needs no lock
  QueueStats& stats_;

  Slots slots_;
  std::vector<Finished> finished_;  // since the last publish()
  std::vector<std::unique_ptr<std::vector<iovec>>> long_pieces_;
  std::vector<std::vector<iovec>*> free_long_pieces_;
  std::uint32_t in_flight_ = 0;
  bool open_ = true;
  bool suspended_ = false;      // and closed: what a predecessor owed stays owed
  bool short_of_room_ = false;  // chains wait in the ring until one in flight ends
  bool just_broke_ = false;
};

template <class Engine>
unsigned Queue::take(Engine& engine, std::uint64_t now_ns) {
  return std::visit([&](auto& ring) { return take_from(ring, engine, now_ns); }, ring_);
}

template <vhost::Ring R, class Engine>
unsigned Queue::take_from(R& ring, Engine& engine, std::uint64_t now_ns) {
  std::array<Slot*, popped_at_once> slots;
  unsigned taken = 0;
  // Until there is none: where room ran short, what was just started may have ended and made some.
  while (taken < burst) {
    short_of_room_ = false;
    const auto room = std::span(slots).first(std::min(popped_at_once, burst - taken));
    const auto popped = room.first(pop(ring, room));
    if (popped.empty()) break;
    for (Slot* const slot : popped) start(engine, *slot, now_ns);
    taken += static_cast<unsigned>(popped.size());
  }
  if (taken != 0) {
    stats_.in_flight.store(in_flight_, std::memory_order_relaxed);
    stats_.bursts.add();
    if (taken > 1) stats_.merged_bursts.add();
  }
  return taken;
}

/// The next chains, each in a slot of its own; says how many.
template <vhost::Ring R>
std::size_t Queue::pop(R& ring, std::span<Slot*> slots) {
  auto reading = ring.reading();
  std::size_t count = 0;
  while (count < slots.size() && (open_ || (!suspended_ && ring.owes()))) {
    Slot* const slot = slots_.acquire();
    if (slot == nullptr) {
      short_of_room_ = true;
      break;
    }
    const vhost::Pop popped = pop(ring, *slot, reading);
    if (popped != vhost::Pop::ready) {
      release(*slot);
      if (popped == vhost::Pop::no_room) short_of_room_ = true;
      if (popped == vhost::Pop::broken) broke();
      break;
    }
    slots[count++] = slot;
  }
  return count;
}

/// The next chain; one that is too long for the slot gets one of the queue's few long rooms.
template <vhost::Ring R>
vhost::Pop Queue::pop(R& ring, Slot& slot, typename R::Reading& reading) {
  const vhost::Pop popped = ring.pop(slot.chain, reading);
  if (popped != vhost::Pop::no_room || free_long_pieces_.empty()) return popped;
  slot.long_pieces = free_long_pieces_.back();
  free_long_pieces_.pop_back();
  if (slot.long_pieces->empty()) slot.long_pieces->resize(ring.longest_chain());
  slot.chain = vhost::Chain(*slot.long_pieces);
  return ring.pop(slot.chain, reading);
}

template <class Engine>
void Queue::start(Engine& engine, Slot& slot, std::uint64_t now_ns) {
  ++in_flight_;
  slot.queue = this;
  slot.started_ns = now_ns;
  auto status = parse(GuestBytes(slot.chain.readable()), GuestBytes(slot.chain.writable()), disk_,
                      slot.request);
  const bool refused = status == Status::io_error && slot.request.status != nullptr;
  if (!status) status = engine.start(slot);
  if (status) finish(slot, *status, now_ns);
  if (refused) stats_.invalid.add();
}

}  // namespace blk
