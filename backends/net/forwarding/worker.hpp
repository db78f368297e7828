#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "backends/net/forwarding/desk.hpp"
#include "backends/net/forwarding/source.hpp"
#include "backends/net/forwarding/switch.hpp"
#include "common/spin.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * A worker: one thread that serves some of the sources, and delivers to any sink.
 *
 *   turn    each source in turn: take a burst - forward it - release it; then flush the sinks
 *   idle    look on for a bounded, self-adjusting time, then arm every source, look once more, and
 *           sleep until one of them or the control thread wakes us
 *   mail    the control thread asks for something between two turns and waits for it
 *
 * A source that cannot wake us (a DPDK driver without receive interrupts) shortens the sleep to a
 * pause that grows with the silence, up to a bound: that is what its first frame after a silence
 * may have to wait.
 *
 * A source's frames are on their way from take() to release() within one turn of one thread, so a
 * task never finds one under way.
 */
namespace net {

enum class Polling : std::uint8_t { adaptive, always };

struct WorkerSetup {
  unsigned number = 0;
  std::vector<unsigned> cpus;  ///< to pin it to; empty: wherever
  Polling polling = Polling::adaptive;
  /// The bound of a pause; of no use to sources that wake us.
  std::chrono::nanoseconds longest_pause = std::chrono::milliseconds(5);
  common::Patience patience{};
};

/// Written by the worker, read by the control thread.
struct WorkerStats {
  common::Counter turns;
  common::Counter busy_turns;  ///< that found something
  common::Counter busy_ns;     ///< in those
  common::Counter looking_ns;  ///< in the others
  common::Counter sleeping_ns;
  common::Counter sleeps;
  common::Counter wake_ups;  ///< sleeps that a source or the control thread ended, not a pause
  common::Counter pauses;    ///< sleeps that ended by themselves
};

class Worker {
 public:
  static constexpr std::chrono::nanoseconds shortest_pause = std::chrono::microseconds(20);
  /// A pause adds no more than this part to the silence before it.
  static constexpr int pauses_in_a_silence = 8;

  /// The thread runs when this returns; `desk` and `fabric` must outlive it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<Worker>> start(WorkerSetup setup, Desk& desk,
                                                                    Switch& fabric);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Does `task` on the worker's thread, between two turns, and waits until it is done. False: the
  /// process is to end and the worker did not come round in time.
  [[nodiscard]] bool post(std::function<void()> task);
  [[nodiscard]] Desk& desk() { return desk_; }
  [[nodiscard]] unsigned number() const { return setup_.number; }

  // For tasks only. The source stays its owner's, who removes it before it ends.
  void add(Source& source);
  void remove(Source& source);
  /// Takes one burst from a source that is not among ours, and forwards it.
  void serve_once(Source& source);

  /// False: the thread has neither slept nor turned since the last time this was asked.
  [[nodiscard]] bool alive();
  [[nodiscard]] const WorkerStats& stats() const { return stats_; }

 private:
  struct Watched {
    Source* source;
    int fd;  ///< as the epoll knows it; negative: not at all, as Source::wake_fd() says
  };

  Worker(WorkerSetup setup, Desk& desk, Switch& fabric)
      : setup_(std::move(setup)), desk_(desk), fabric_(fabric) {}
  [[nodiscard]] vhost::Result<void> prepare();
  void loop();
  [[nodiscard]] bool serve(Source& source);
  [[nodiscard]] bool turn();
  void idle();
  [[nodiscard]] bool arm();
  [[nodiscard]] std::chrono::nanoseconds next_pause() const;
  void sleep();
  void watch(Watched& watched);

  // Set once, before the thread runs.
  const WorkerSetup setup_;
  Desk& desk_;
  Switch& fabric_;
  vhost::UniqueFd epoll_;
  std::thread thread_;

  // The worker's thread alone.
  std::vector<Watched> sources_;
  Burst burst_;
  common::SpinBudget spin_;
  std::uint64_t now_ = 0;
  std::uint64_t idle_since_ = 0;
  bool running_ = true;

  // Told by the worker to the control thread.
  WorkerStats stats_;
  std::atomic<bool> asleep_ = false;
  std::uint64_t turns_seen_ = 0;  // the control thread's
};

}  // namespace net
