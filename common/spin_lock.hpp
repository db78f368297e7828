#pragma once
#include <atomic>

#include "common/spin.hpp"

namespace common {

/// A lock for work of a few microseconds that two worker threads rarely want at once. It never
/// sleeps, and is no lock for the control thread: a worker that spins there has lost its CPU to it.
///
/// Use it with std::lock_guard. It is not recursive and not fair.
class SpinLock {
 public:
  void lock() {
    while (taken_.test_and_set(std::memory_order_acquire)) {
      // Looks only, until it may be free: the line stays shared among those who wait.
      while (taken_.test(std::memory_order_relaxed)) pause_briefly();
    }
  }
  [[nodiscard]] bool try_lock() { return !taken_.test_and_set(std::memory_order_acquire); }
  void unlock() { taken_.clear(std::memory_order_release); }

 private:
  std::atomic_flag taken_;
};

}  // namespace common
