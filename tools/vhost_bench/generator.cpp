#include "tools/vhost_bench/generator.hpp"

#include <poll.h>

#include <algorithm>
#include <chrono>

namespace bench {
namespace {

constexpr Nanoseconds second = 1'000'000'000;
constexpr unsigned turns_between_looks = 256;  // of a polling loop at its clock, when nothing comes

Nanoseconds now_ns() {
  return static_cast<Nanoseconds>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                      std::chrono::steady_clock::now().time_since_epoch())
                                      .count());
}

Nanoseconds to_ns(std::chrono::milliseconds time) {
  return static_cast<Nanoseconds>(time.count()) * 1'000'000;
}

}  // namespace

RunResult Generator::run() {
  common::Histogram warmup, measured;
  record_in(warmup);
  began_ = next_report_ = now_ns();
  interval_ = plan_.rate == 0 ? 0 : std::max<Nanoseconds>(second / plan_.rate, 1);
  due_ = began_;
  if (interval_ == 0) {
    for (Lane& lane : lanes_) {
      while (lane.has_idle()) lane.start_idle(began_);
      lane.kick();
    }
  }
  run_until(began_ + to_ns(plan_.warmup));

  record_in(measured);
  const LaneCounters before = counters();
  const auto queues_before = queue_counters();
  const Nanoseconds start = now_ns();
  if (hooks_.begin) hooks_.begin();
  run_until(start + to_ns(plan_.duration));
  if (hooks_.end) hooks_.end();
  const Nanoseconds end = now_ns();
  const LaneCounters after = counters();
  const auto queues_after = queue_counters();

  RunResult result;
  result.latency = measured.snapshot();
  result.behind = interval_ != 0 && due_ < end ? (end - due_) / interval_ : 0;
  record_in(warmup);
  drain();
  result.seconds = static_cast<double>(end - start) / 1e9;
  result.counters.requests = after.requests - before.requests;
  // Nothing wrong is forgiven because it happened in the warm-up or at the end.
  result.counters.failed = counters().failed;
  result.counters.mismatched = counters().mismatched;
  result.kicks = queues_after.kicks - queues_before.kicks;
  result.calls = queues_after.calls - queues_before.calls;
  for (const Lane& lane : lanes_) {
    result.lost += lane.outstanding();
    result.broken |= lane.broken();
    if (result.first_mismatch.empty()) result.first_mismatch = lane.first_mismatch();
  }
  return result;
}

void Generator::run_until(Nanoseconds end) {
  unsigned idle_turns = 0;
  unsigned busy_turns = 0;
  while (!stopped_) {
    const bool moved = turn();
    if (moved) idle_turns = 0;
    // A loop that is always busy looks at the time as well, only not in every turn.
    if (moved && ++busy_turns % turns_between_looks != 0) continue;
    if (!moved && plan_.mode == Mode::interrupt) {
      sleep(end);
    } else if (!moved && ++idle_turns % turns_between_looks != 0) {
      continue;
    }
    const Nanoseconds now = now_ns();
    if (now >= end || stop_wanted(now)) return;
  }
}

/// One look at every lane. True if anything moved.
bool Generator::turn() {
  bool moved = false;
  for (Lane& lane : lanes_) {
    if (!lane.reap(now_ns, interval_ == 0)) {
      stopped_ |= lane.broken();
      continue;
    }
    if (interval_ == 0) lane.kick();
    moved = true;
  }
  if (interval_ != 0) start_due(now_ns());
  if (hooks_.device) hooks_.device();
  return moved;
}

/// Open loop: makes the starts that are due, on the lanes in turn.
void Generator::start_due(Nanoseconds now) {
  if (due_ > now) return;
  std::size_t full = 0;
  while (due_ <= now && full < lanes_.size()) {
    Lane& lane = lanes_[next_lane_];
    next_lane_ = (next_lane_ + 1) % lanes_.size();
    if (!lane.has_idle()) {
      ++full;
      continue;
    }
    full = 0;
    lane.start_idle(due_);
    due_ += interval_;
  }
  for (Lane& lane : lanes_) lane.kick();
}

bool Generator::arm() {
  bool ready = false;
  for (Lane& lane : lanes_) ready |= lane.queue().ring().arm_calls();
  return ready;
}

void Generator::sleep(Nanoseconds end) {
  if (!arm()) {
    std::vector<pollfd> waits;
    for (Lane& lane : lanes_) waits.push_back({lane.queue().call_fd(), POLLIN, 0});
    const Nanoseconds now = now_ns();
    Nanoseconds wake = std::min(end, now + second / 100);
    if (interval_ != 0) wake = std::min(wake, due_);
    const Nanoseconds left = wake > now ? wake - now : 0;
    const timespec time{static_cast<time_t>(left / second), static_cast<long>(left % second)};
    ::ppoll(waits.data(), waits.size(), &time, nullptr);
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      if (waits[i].revents != 0) lanes_[i].queue().clear_call();
    }
  }
  for (Lane& lane : lanes_) lane.queue().ring().disarm_calls();
}

bool Generator::stop_wanted(Nanoseconds now) {
  if (hooks_.interrupted && hooks_.interrupted()) stopped_ = true;
  if (hooks_.progress && now >= next_report_) {
    hooks_.progress(static_cast<double>(now - began_) / 1e9, counters().requests);
    next_report_ = now + second;
  }
  return stopped_;
}

void Generator::drain() {
  const Nanoseconds deadline = now_ns() + 10 * second;
  const auto out = [this] {
    return std::ranges::any_of(
        lanes_, [](const Lane& lane) { return !lane.broken() && lane.outstanding() > 0; });
  };
  while (out() && now_ns() < deadline) {
    for (Lane& lane : lanes_) std::ignore = lane.reap(now_ns, false);
    if (hooks_.device) hooks_.device();
  }
}

void Generator::record_in(common::Histogram& histogram) {
  for (Lane& lane : lanes_) lane.record_in(histogram);
}

LaneCounters Generator::counters() const {
  LaneCounters sum;
  for (const Lane& lane : lanes_) {
    sum.requests += lane.counters().requests;
    sum.failed += lane.counters().failed;
    sum.mismatched += lane.counters().mismatched;
  }
  return sum;
}

vhost::frontend::QueueCounters Generator::queue_counters() {
  vhost::frontend::QueueCounters sum;
  for (Lane& lane : lanes_) {
    lane.queue().clear_call();  // a polling driver has not looked yet
    sum.kicks += lane.queue().counters().kicks;
    sum.calls += lane.queue().counters().calls;
  }
  return sum;
}

}  // namespace bench
