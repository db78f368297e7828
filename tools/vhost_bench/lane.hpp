#pragma once
#include <cstdint>
#include <vector>

#include "common/histogram.hpp"
#include "libvhost/frontend/blk_queue.hpp"
#include "tools/vhost_bench/pattern.hpp"
#include "tools/vhost_bench/plan.hpp"

/*
 * The load on one queue: `depth` slots, each with a buffer and its prepared chains.
 *
 * Everything that a request needs is written before the run. What is left per request is: choose a
 * block, write its sector into the header, offer the chain, and at the other end read the used
 * entry and the status, and count the latency. One look at the clock serves all that came back
 * together, as their end and as the start of what follows.
 *
 * A slot uses blocks of its own (block number modulo slots), so that with --verify no two requests
 * for one block are in flight.
 *
 * Thread: the generator's.
 */
namespace bench {

/// Nanoseconds of the steady clock.
using Nanoseconds = std::uint64_t;

struct LaneCounters {
  std::uint64_t requests = 0;
  std::uint64_t failed = 0;
  std::uint64_t mismatched = 0;
};

class Lane {
 public:
  /// `first_slot` of `all_slots`: which blocks are this lane's. `book` is null without --verify.
  [[nodiscard]] static vhost::Result<Lane> create(const Plan& plan,
                                                  vhost::frontend::BlkQueue& queue,
                                                  vhost::frontend::SharedMemory& memory,
                                                  std::uint64_t blocks, std::uint64_t first_slot,
                                                  Book* book);

  /// Takes back what is done. False: nothing, or the queue broke. With `again`, each slot is
  /// started once more, at once. `clock` is asked at most once.
  template <class Clock>
  bool reap(const Clock& clock, bool again) {
    vhost::frontend::BlkCompletion completion;
    vhost::frontend::Poll answer = queue_->poll(completion);
    if (answer != vhost::frontend::Poll::done) {
      broken_ = answer == vhost::frontend::Poll::broken;
      return false;
    }
    const Nanoseconds now = clock();
    do {
      finish(completion, now);
      const auto slot = static_cast<std::uint16_t>(completion.cookie);
      if (again) {
        start(slot, now);
        if (exposes_) queue_->expose();
      } else {
        idle_.push_back(slot);
      }
      answer = queue_->poll(completion);
    } while (answer == vhost::frontend::Poll::done);
    return true;
  }

  [[nodiscard]] bool has_idle() const { return !idle_.empty(); }
  /// Starts an idle slot. Its latency counts from `intended`.
  void start_idle(Nanoseconds intended) {
    const std::uint16_t slot = idle_.back();
    idle_.pop_back();
    start(slot, intended);
  }
  /// Shows the device what was started.
  void kick() { queue_->kick(); }

  [[nodiscard]] bool broken() const { return broken_; }
  [[nodiscard]] std::uint32_t outstanding() const { return queue_->outstanding(); }
  [[nodiscard]] vhost::frontend::Queue& queue() { return queue_->queue(); }
  [[nodiscard]] const LaneCounters& counters() const { return counters_; }
  /// The first mismatch, as a sentence; empty without one.
  [[nodiscard]] const std::string& first_mismatch() const { return first_mismatch_; }
  /// Latencies go here from now on.
  void record_in(common::Histogram& histogram) { histogram_ = &histogram; }

 private:
  struct Slot {
    std::uint16_t read = 0;  // prepared requests
    std::uint16_t write = 0;
    bool writing = false;
    Nanoseconds started = 0;
    std::uint64_t block = 0;
    std::byte* data = nullptr;
  };

  Lane(const Plan& plan, vhost::frontend::BlkQueue& queue, std::uint64_t blocks,
       std::uint64_t first_slot, Book* book);
  [[nodiscard]] vhost::Result<void> prepare(const Plan& plan,
                                            vhost::frontend::SharedMemory& memory);

  void start(std::uint16_t index, Nanoseconds started) {
    Slot& slot = slots_[index];
    slot.started = started;
    // Bits of one number: the upper ones choose the block, the lower ones the direction.
    const std::uint64_t random = next_random();
    slot.writing = random % 128 * 100 >= std::uint64_t{read_percent_} * 128;
    slot.block = choose(index, random);
    if (slot.writing && book_ != nullptr) {
      fill_block({slot.data, block_bytes_}, book_->begin_write(slot.block));
    }
    queue_->start(slot.writing ? slot.write : slot.read, slot.block * sectors_per_block_);
  }
  [[nodiscard]] std::uint64_t choose(std::uint16_t index, std::uint64_t random) {
    if (sequential_) {
      const std::uint64_t round = turn_[index];
      turn_[index] = round + 1 == rounds_ ? 0 : round + 1;
      return round * all_slots_ + first_slot_ + index;
    }
    // The high half of a product: an even choice without a division. rounds_ is at most 2^32.
    const std::uint64_t round = ((random >> 32) * rounds_) >> 32;
    return round * all_slots_ + first_slot_ + index;
  }
  void finish(const vhost::frontend::BlkCompletion& completion, Nanoseconds now) {
    const Slot& slot = slots_[completion.cookie];
    histogram_->record(now > slot.started ? now - slot.started : 0);
    ++counters_.requests;
    if (completion.status != vhost::frontend::BlkStatus::ok) {
      ++counters_.failed;
    } else if (book_ != nullptr) {
      check(slot);
    }
  }
  void check(const Slot& slot);
  [[nodiscard]] std::uint64_t next_random() {  // xorshift64*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return random_ * 0x2545f4914f6cdd1d;
  }

  vhost::frontend::BlkQueue* queue_;
  common::Histogram* histogram_ = nullptr;
  Book* book_;
  std::vector<Slot> slots_;
  std::vector<std::uint64_t> turn_;  // sequential: the next round of each slot
  std::vector<std::uint16_t> idle_;
  std::uint64_t block_bytes_;
  std::uint64_t sectors_per_block_;
  std::uint64_t all_slots_;
  std::uint64_t first_slot_;
  std::uint64_t rounds_;  // how many blocks each slot has
  std::uint64_t random_;
  std::uint8_t read_percent_;
  bool sequential_;
  bool exposes_;
  bool broken_ = false;
  LaneCounters counters_;
  std::string first_mismatch_;
};

}  // namespace bench
