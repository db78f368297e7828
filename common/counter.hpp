#pragma once
#include <atomic>
#include <cstdint>

namespace common {

/// A number that one thread counts up and any thread may read at any time.
///
/// add() is a plain load, add and store: no locked instruction, but two threads that add would lose
/// counts. A reader sees some value that was true; two counters read after each other need not fit
/// together.
class Counter {
 public:
  /// Owner's thread only.
  void add(std::uint64_t by = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }
  /// Any thread.
  [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_ = 0;
};

}  // namespace common
