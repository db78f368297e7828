#pragma once
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace common {

/// Since some moment in the past. Any thread; a few dozen nanoseconds.
[[nodiscard]] inline std::uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

/// Tells the CPU that it is in a loop that waits for another.
inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#elif defined(__riscv)
  asm volatile(".insn i 0x0f, 0, x0, x0, 0x010");  // pause; a fence of nothing on CPUs without it
#endif
}

/// How long a worker that has nothing to do looks on before it sleeps.
///
/// Looking costs CPU time, sleeping costs the guest a kick and us a wake-up. After each sleep the
/// budget learns from how long it was: work that came within the longest spin would have been
/// found by looking, so look longer; work that came much later would not, so look shorter. A queue
/// that is idle is thus left after a few microseconds, one under load is never left.
class SpinBudget {
 public:
  static constexpr std::uint64_t longest_ns = 64'000;
  static constexpr std::uint64_t shortest_ns = 8'000;

  [[nodiscard]] std::uint64_t ns() const { return ns_; }

  /// A sleep that ended with work took this long.
  void slept(std::uint64_t slept_ns) {
    if (slept_ns <= longest_ns) {
      ns_ = std::min(longest_ns, ns_ * 2);
    } else {
      ns_ = std::max(shortest_ns, ns_ / 2);
    }
  }

 private:
  std::uint64_t ns_ = longest_ns / 2;
};

}  // namespace common
