#pragma once
#include <string>

#include "tools/vhost_bench/cpu_time.hpp"
#include "tools/vhost_bench/net_generator.hpp"

namespace bench {

/// For people: a few lines.
[[nodiscard]] std::string as_text(const NetPlan& plan, const NetResult& result, const CpuUse& cpu);
/// For programs: one JSON object. "frames_per_second" is the median of the rounds.
[[nodiscard]] std::string as_json(const NetPlan& plan, const NetResult& result, const CpuUse& cpu);

}  // namespace bench
