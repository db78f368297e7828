#pragma once
#include <functional>

#include "tools/vhost_bench/lane.hpp"

/*
 * One thread that keeps all lanes busy.
 *
 * Closed loop: each slot starts again when it comes back. Open loop (--rate): starts are due at
 * fixed times, whether the disk keeps up or not; a start that finds no idle slot waits, and its
 * latency counts from when it was due, so a disk that stalls cannot hide it.
 *
 * Polling looks at the used rings all the time. Interrupt mode arms the calls when nothing came,
 * looks once more, and sleeps in poll() on all call eventfds.
 *
 * The run has a warm-up, whose requests are not counted, and a measured part; then it waits for
 * what is still out, for at most 10 seconds.
 */
namespace bench {

struct RunResult {
  double seconds = 0;  ///< the measured part
  LaneCounters counters;
  std::uint64_t kicks = 0;
  std::uint64_t calls = 0;
  std::uint64_t behind = 0;  ///< open loop: starts that were due and not yet made at the end
  std::uint64_t lost = 0;    ///< did not come back at all
  bool broken = false;       ///< a ring broke, or the back-end went away
  std::string first_mismatch;
  common::LatencySnapshot latency;
};

struct RunHooks {
  /// Called at the start and at the end of the measured part.
  std::function<void()> begin, end;
  /// Called about each second with what was done so far, all in all.
  std::function<void(double seconds, std::uint64_t requests)> progress;
  /// True: end now. Asked some hundred times a second at least.
  std::function<bool()> interrupted;
  /// Called each turn: the device, where it is part of the program (--calibrate).
  std::function<void()> device;
};

class Generator {
 public:
  Generator(const Plan& plan, std::vector<Lane> lanes, RunHooks hooks)
      : plan_(plan), lanes_(std::move(lanes)), hooks_(std::move(hooks)) {}

  [[nodiscard]] RunResult run();

 private:
  void run_until(Nanoseconds end);
  [[nodiscard]] bool turn();
  void start_due(Nanoseconds now);
  void sleep(Nanoseconds end);
  [[nodiscard]] bool arm();
  [[nodiscard]] bool stop_wanted(Nanoseconds now);
  void drain();
  void record_in(common::Histogram& histogram);
  [[nodiscard]] LaneCounters counters() const;
  [[nodiscard]] vhost::frontend::QueueCounters queue_counters();

  const Plan& plan_;
  std::vector<Lane> lanes_;
  RunHooks hooks_;
  Nanoseconds began_ = 0;
  Nanoseconds next_report_ = 0;
  Nanoseconds due_ = 0;       // open loop: the next start
  Nanoseconds interval_ = 0;  // 0: closed loop
  std::size_t next_lane_ = 0;
  bool stopped_ = false;
};

}  // namespace bench
