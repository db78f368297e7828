#pragma once
#include <optional>
#include <vector>

#include "backends/blk/queue.hpp"
#include "tests/unit/blk/guest_queue.hpp"

namespace blk::testing_tools {

/// Remembers what was started; the test says when it is done.
struct FakeEngine {
  std::optional<Status> start(Slot& slot) {
    ++starts;
    if (at_once) return at_once;
    started.push_back(&slot);
    return std::nullopt;
  }

  std::optional<Status> at_once;  ///< the answer to every start, if there is one
  std::vector<Slot*> started;     ///< and not done yet
  unsigned starts = 0;
};

/// A queue of a disk of 64 sectors, its guest, and an engine that waits for the test.
class QueueTest : public testing::Test {
 protected:
  explicit QueueTest(DriverOptions options = {.size = 16}) : guest_(memory_, options) {
    disk_.size_bytes = 64 * sector_bytes;
    disk_.can_discard = true;
    disk_.max_discard_sectors = 64;
  }

  Queue make(vhost::InflightSection inflight = {}) {
    auto ring =
        vhost::SplitRing::create(guest_.driver().setup(), memory_.map(), std::move(inflight));
    if (!ring) ADD_FAILURE() << ring.error().what;
    return {3, {std::move(*ring), kick_.shared(), call_.shared(), error_.shared()}, disk_, stats_};
  }
  unsigned take(Queue& queue) { return queue.take(engine_, now_ns_); }
  /// Ends the request that was started first.
  void finish_one(Queue& queue, Status status = Status::ok) {
    Slot& slot = *engine_.started.front();
    engine_.started.erase(engine_.started.begin());
    queue.finish(slot, status, now_ns_);
  }
  void finish_all(Queue& queue) {
    while (!engine_.started.empty()) finish_one(queue);
  }
  /// A chain that no driver may offer.
  void offer_rubbish() { guest_.driver().offer(999); }

  GuestMemory memory_;
  GuestQueue guest_;
  Disk disk_;
  QueueStats stats_;
  FakeEngine engine_;
  Event kick_, call_, error_;
  std::uint64_t now_ns_ = 1000;
};

}  // namespace blk::testing_tools
