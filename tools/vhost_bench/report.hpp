#pragma once
#include <string>

#include "tools/vhost_bench/cpu_time.hpp"
#include "tools/vhost_bench/generator.hpp"
#include "tools/vhost_bench/plan.hpp"

namespace bench {

/// For people: a few lines.
[[nodiscard]] std::string as_text(const Plan& plan, const RunResult& result, const CpuUse& cpu);
/// For programs: one JSON object. Times in nanoseconds or as the name says.
[[nodiscard]] std::string as_json(const Plan& plan, const RunResult& result, const CpuUse& cpu);

}  // namespace bench
