#pragma once
#include <cstdint>
#include <optional>

namespace bench {

/// CPU time that a process has used, all its living threads together, in nanoseconds; nothing if
/// there is no such process.
[[nodiscard]] std::optional<std::uint64_t> cpu_time_ns(std::uint64_t pid);

/// CPU time of the calling thread.
[[nodiscard]] std::uint64_t own_cpu_time_ns();

/// CPU seconds within the measured part of a run.
struct CpuUse {
  double generator_seconds = 0;
  std::optional<double> target_seconds;  ///< of --target-pid
};

/// Measures them, from begin() to end(), for the calling thread and for process `target_pid`, if
/// that is not 0.
class CpuMeter {
 public:
  explicit CpuMeter(std::uint64_t target_pid) : target_pid_(target_pid) {}
  void begin();
  void end();
  [[nodiscard]] const CpuUse& use() const { return use_; }

 private:
  std::uint64_t target_pid_;
  CpuUse use_;
};

/// How long a cache line takes from one CPU to another and back, nanoseconds: the least that a
/// request at depth 1 can cost. On a virtual machine it changes from one minute to the next.
[[nodiscard]] double round_trip_ns(unsigned one_cpu, unsigned other_cpu);

}  // namespace bench
