#include "tools/vhost_bench/net_report.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace bench {
namespace {

double ratio(double of, double by) {
  return by > 0 ? of / by : 0;
}

/// The rounds' frames per second, slowest first. Never empty.
std::vector<double> rates(const NetResult& result) {
  std::vector<double> sorted;
  for (const NetRound& round : result.rounds) {
    sorted.push_back(ratio(static_cast<double>(round.frames), round.seconds));
  }
  if (sorted.empty()) sorted.push_back(0);
  std::ranges::sort(sorted);
  return sorted;
}
double median(const std::vector<double>& sorted) {
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
NetRound all_rounds(const NetResult& result) {
  NetRound sum;
  for (const NetRound& round : result.rounds) {
    sum = {sum.seconds + round.seconds, sum.frames + round.frames, sum.bytes + round.bytes};
  }
  return sum;
}
double gbits(const NetResult& result) {
  const NetRound sum = all_rounds(result);
  return ratio(static_cast<double>(sum.bytes) * 8 / 1e9, sum.seconds);
}
double cpu_ns_each(const NetResult& result, double seconds) {
  return ratio(seconds * 1e9, static_cast<double>(all_rounds(result).frames));
}
double loss(const NetResult& result) {
  return ratio(static_cast<double>(result.lost), static_cast<double>(result.sent));
}
const char* name(NetMode mode) {
  switch (mode) {
    case NetMode::transmit: return "transmit";
    case NetMode::receive: return "receive";
    case NetMode::loop: return "loop";
    case NetMode::forward: return "forward";
  }
  return "";
}
std::string per_text(std::uint64_t frames, std::uint64_t events) {
  if (events == 0) return "none";
  return fmt::format("{:.0f}", static_cast<double>(frames) / static_cast<double>(events));
}

}  // namespace

std::string as_text(const NetPlan& plan, const NetResult& result, const CpuUse& cpu) {
  const auto sorted = rates(result);
  const NetRound sum = all_rounds(result);
  std::string text = fmt::format(
      "{}, {} bytes, {} pair{}, {} mergeable buffers, {} round{} of {:.1f} s\n", name(plan.mode),
      plan.frame_bytes, plan.pairs, plan.pairs == 1 ? "" : "s", plan.no_mergeable ? "no" : "with",
      result.rounds.size(), result.rounds.size() == 1 ? "" : "s",
      ratio(sum.seconds, static_cast<double>(result.rounds.size())));
  text +=
      fmt::format("  throughput  {:.3f} M frames/s [{:.3f}-{:.3f}], {:.2f} Gbit/s\n",
                  median(sorted) / 1e6, sorted.front() / 1e6, sorted.back() / 1e6, gbits(result));
  if (plan.sends()) {
    text += fmt::format("  lost        {} of {} ({:.3f} %)\n", result.lost, result.sent,
                        loss(result) * 100);
  }
  text += fmt::format("  frames      {} per kick, {} per call\n",
                      per_text(sum.frames, result.kicks), per_text(sum.frames, result.calls));
  text += fmt::format("  generator   {:.2f} s CPU, {:.1f} ns each, {:.0f} % of turns idle\n",
                      cpu.generator_seconds, cpu_ns_each(result, cpu.generator_seconds),
                      result.idle * 100);
  if (cpu.target_seconds) {
    text += fmt::format("  target      {:.2f} s CPU, {:.1f} ns each\n", *cpu.target_seconds,
                        cpu_ns_each(result, *cpu.target_seconds));
  }
  if (result.foreign > 0) {
    text += fmt::format("  foreign     {} frames of another length came\n", result.foreign);
  }
  return text;
}

std::string as_json(const NetPlan& plan, const NetResult& result, const CpuUse& cpu) {
  const auto sorted = rates(result);
  const NetRound sum = all_rounds(result);
  nlohmann::ordered_json json;
  json["mode"] = name(plan.mode);
  json["frame_bytes"] = plan.frame_bytes;
  json["pairs"] = plan.pairs;
  json["mergeable"] = !plan.no_mergeable;
  json["offloads"] = !plan.no_offloads;
  json["window"] = plan.window;
  json["flows"] = plan.flows;
  json["rounds"] = result.rounds.size();
  json["seconds"] = sum.seconds;
  json["frames"] = sum.frames;
  json["frames_per_second"] = median(sorted);
  json["frames_per_second_low"] = sorted.front();
  json["frames_per_second_high"] = sorted.back();
  json["gbit_per_second"] = gbits(result);
  json["sent"] = result.sent;
  json["received"] = result.received;
  json["lost"] = result.lost;
  json["loss"] = loss(result);
  json["foreign"] = result.foreign;
  json["kicks"] = result.kicks;
  json["calls"] = result.calls;
  json["generator_cpu_seconds"] = cpu.generator_seconds;
  json["generator_cpu_ns_per_frame"] = cpu_ns_each(result, cpu.generator_seconds);
  json["generator_idle"] = result.idle;
  if (cpu.target_seconds) {
    json["target_cpu_seconds"] = *cpu.target_seconds;
    json["target_cpu_ns_per_frame"] = cpu_ns_each(result, *cpu.target_seconds);
  }
  json["broken"] = result.broken != nullptr;
  return json.dump(2) + "\n";
}

}  // namespace bench
