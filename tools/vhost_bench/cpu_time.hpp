#pragma once
#include <cstdint>
#include <optional>

namespace bench {

/// CPU time that a process has used, all its living threads together, in nanoseconds; nothing if
/// there is no such process.
[[nodiscard]] std::optional<std::uint64_t> cpu_time_ns(std::uint64_t pid);

/// CPU time of the calling thread.
[[nodiscard]] std::uint64_t own_cpu_time_ns();

}  // namespace bench
