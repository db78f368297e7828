#pragma once
/*
 * What every daemon does around its devices, on its control thread:
 *
 *   catch signals - (the daemon sets itself up and listens) - tell systemd - loop - tell systemd
 *
 * SIGTERM and SIGINT end the loop. While it runs, the stats file is written at its interval, and
 * the manager's watchdog is fed as long as the daemon says that its workers are alive.
 */
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "common/log.hpp"
#include "common/service.hpp"
#include "common/stats_file.hpp"
#include "libvhost/session/event_loop.hpp"
#include "libvhost/session/log.hpp"

namespace common {

/// Three descriptors a queue may be more than the usual soft limit: raises it to the hard one.
void raise_descriptor_limit();

/// The library's lines, of which a front-end that comes and goes could cause any number: at most 50
/// in 10 s. Each begins with `prefix`.
[[nodiscard]] vhost::Log library_log(std::string prefix = {});

/// Prints the error and says which status the process ends with.
[[nodiscard]] int end_with(std::string_view program, const vhost::Error& error);

/// What every daemon's main() does with its settings: starts it and serves until it is told to end.
/// No settings: there is nothing to do. Returns the status that the process ends with.
template <class Daemon, class Settings>
[[nodiscard]] int serve(std::string_view program,
                        const vhost::Result<std::optional<Settings>>& settings) {
  if (!settings) return end_with(program, settings.error());
  if (!*settings) return EXIT_SUCCESS;
  log::set_up((*settings)->log_level);
  raise_descriptor_limit();

  auto daemon = Daemon::start(**settings);
  if (!daemon) return end_with(program, daemon.error());
  const auto ended = (*daemon)->run();
  return ended ? EXIT_SUCCESS : end_with(program, ended.error());
}

/// The control thread's loop and what every daemon has on it.
class ControlLoop {
 public:
  /// Catches the signals: before there are other threads, which inherit the mask.
  [[nodiscard]] static vhost::Result<std::unique_ptr<ControlLoop>> create();

  /// What else the daemon is to do while it serves.
  struct Duties {
    std::function<void()> on_hangup;  ///< SIGHUP came
    std::function<bool()> alive;      ///< whether every worker shows a sign of life
    std::string stats_file;           ///< empty: none
    std::chrono::milliseconds stats_interval{1000};
    std::function<nlohmann::json(std::chrono::steady_clock::duration uptime)> stats;
  };
  /// Begins with them; writes the first stats. Once.
  [[nodiscard]] vhost::Result<void> take_on(Duties duties);

  /// Tells the manager that the daemon serves, loops until a signal ends it, and writes the last
  /// stats.
  [[nodiscard]] vhost::Result<void> run();

  [[nodiscard]] vhost::EventLoop& loop() { return loop_; }
  /// Readable when the process is to end.
  [[nodiscard]] int end_signal() const { return end_signals_.get(); }

 private:
  explicit ControlLoop(vhost::EventLoop loop)
      : loop_(std::move(loop)), service_(Service::from_environment()) {}
  [[nodiscard]] vhost::Result<void> watch_signals();
  [[nodiscard]] vhost::Result<void> start_timers();
  void write_stats();

  vhost::EventLoop loop_;
  vhost::UniqueFd end_signals_;
  vhost::UniqueFd hangups_;
  Service service_;
  Duties duties_;
  std::optional<StatsFile> stats_file_;
  vhost::UniqueFd stats_timer_;
  vhost::UniqueFd keep_alive_timer_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

}  // namespace common
