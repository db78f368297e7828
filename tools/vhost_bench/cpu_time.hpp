#pragma once
#include <cstdint>
#include <optional>

namespace bench {

/// CPU time that a process has used, all its living threads together, in nanoseconds; nothing if
/// there is no such process.
[[nodiscard]] std::optional<std::uint64_t> cpu_time_ns(std::uint64_t pid);

/// CPU time of the calling thread.
[[nodiscard]] std::uint64_t own_cpu_time_ns();

/// How long a cache line takes from one CPU to another and back, nanoseconds: the least that a
/// request at depth 1 can cost. On a virtual machine it changes from one minute to the next.
[[nodiscard]] double round_trip_ns(unsigned one_cpu, unsigned other_cpu);

}  // namespace bench
