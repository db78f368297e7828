#include "tools/vhost_bench/report.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace bench {
namespace {

double ratio(double of, double by) {
  return by > 0 ? of / by : 0;
}

double iops(const RunResult& result) {
  return ratio(static_cast<double>(result.counters.requests), result.seconds);
}
double megabytes(const Plan& plan, const RunResult& result) {
  return iops(result) * static_cast<double>(plan.block_bytes) / 1e6;
}
double per(const RunResult& result, std::uint64_t events) {
  return ratio(static_cast<double>(result.counters.requests), static_cast<double>(events));
}
double cpu_ns_each(const RunResult& result, double seconds) {
  return ratio(seconds * 1e9, static_cast<double>(result.counters.requests));
}
const char* name(Pattern pattern) {
  return pattern == Pattern::random ? "random" : "sequential";
}
const char* name(Mode mode) {
  return mode == Mode::polling ? "polling" : "interrupts";
}

/// "12.3", or "none" where nothing was counted.
std::string per_text(const RunResult& result, std::uint64_t events) {
  return events == 0 ? "none" : fmt::format("{:.1f}", per(result, events));
}

}  // namespace

std::string as_text(const Plan& plan, const RunResult& result, const CpuUse& cpu) {
  const auto us = [&](double percent) {
    return static_cast<double>(result.latency.percentile_ns(percent)) / 1e3;
  };
  std::string text =
      fmt::format("{} bytes, {}, {} % reads, {} queue{}, depth {}, {}{}, {:.1f} s\n",
                  plan.block_bytes, name(plan.pattern), plan.read_percent, plan.queues,
                  plan.queues == 1 ? "" : "s", plan.depth, name(plan.mode),
                  plan.rate == 0 ? "" : fmt::format(", {} IOPS wanted", plan.rate), result.seconds);
  text += fmt::format("  throughput  {:.0f} IOPS, {:.1f} MB/s\n", iops(result),
                      megabytes(plan, result));
  text += fmt::format(
      "  latency us  p50 {:.1f}, p90 {:.1f}, p99 {:.1f}, p99.9 {:.1f}, p99.99 {:.1f}, max {:.1f}\n",
      us(50), us(90), us(99), us(99.9), us(99.99),
      static_cast<double>(result.latency.max_ns()) / 1e3);
  text += fmt::format("  requests    {} per kick, {} per call\n", per_text(result, result.kicks),
                      per_text(result, result.calls));
  text += fmt::format("  generator   {:.2f} s CPU, {:.0f} ns each\n", cpu.generator_seconds,
                      cpu_ns_each(result, cpu.generator_seconds));
  if (cpu.target_seconds) {
    text += fmt::format("  target      {:.2f} s CPU, {:.0f} ns each\n", *cpu.target_seconds,
                        cpu_ns_each(result, *cpu.target_seconds));
  }
  if (result.behind > 0) {
    text += fmt::format("  behind      {} requests were due and not started\n", result.behind);
  }
  text += fmt::format("  errors      {} failed, {} lost", result.counters.failed, result.lost);
  if (plan.verify) text += fmt::format(", {} mismatched", result.counters.mismatched);
  if (!result.first_mismatch.empty()) text += " (" + result.first_mismatch + ")";
  return text + "\n";
}

std::string as_json(const Plan& plan, const RunResult& result, const CpuUse& cpu) {
  nlohmann::ordered_json json;
  json["block_bytes"] = plan.block_bytes;
  json["pattern"] = name(plan.pattern);
  json["read_percent"] = plan.read_percent;
  json["queues"] = plan.queues;
  json["depth"] = plan.depth;
  json["mode"] = name(plan.mode);
  json["rate_wanted"] = plan.rate;
  json["seconds"] = result.seconds;
  json["requests"] = result.counters.requests;
  json["iops"] = iops(result);
  json["mb_per_second"] = megabytes(plan, result);
  auto& latency = json["latency_ns"];
  latency["mean"] = ratio(static_cast<double>(result.latency.sum_ns()),
                          static_cast<double>(result.latency.count()));
  for (const auto& [key, percent] :
       {std::pair{"p50", 50.0}, {"p90", 90.0}, {"p99", 99.0}, {"p99.9", 99.9}, {"p99.99", 99.99}}) {
    latency[key] = result.latency.percentile_ns(percent);
  }
  latency["max"] = result.latency.max_ns();
  json["kicks"] = result.kicks;
  json["calls"] = result.calls;
  json["requests_per_kick"] = per(result, result.kicks);
  json["requests_per_call"] = per(result, result.calls);
  json["generator_cpu_seconds"] = cpu.generator_seconds;
  if (cpu.target_seconds) {
    json["target_cpu_seconds"] = *cpu.target_seconds;
    json["target_cpu_ns_per_request"] = cpu_ns_each(result, *cpu.target_seconds);
  }
  json["behind"] = result.behind;
  json["failed"] = result.counters.failed;
  json["mismatched"] = result.counters.mismatched;
  json["lost"] = result.lost;
  json["broken"] = result.broken;
  return json.dump(2) + "\n";
}

}  // namespace bench
