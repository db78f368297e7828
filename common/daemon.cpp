#include "common/daemon.hpp"

#include <signal.h>
#include <sys/resource.h>

#include <cstdlib>

#include <nlohmann/json.hpp>

#include "common/log.hpp"
#include "common/options.hpp"
#include "common/signals.hpp"

namespace common {

using vhost::Result;

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

vhost::Log library_log(std::string prefix) {
  const auto limiter = std::make_shared<log::Limiter>(std::chrono::seconds(10), 50);
  return [limiter, prefix = std::move(prefix)](vhost::LogLevel level, std::string_view line) {
    if (const auto kept_back = limiter->admit()) {
      if (*kept_back != 0) {
        log::warning("{}{} lines like the next were not written", prefix, *kept_back);
      }
      log::write_library_line(level, prefix + std::string(line));
    }
  };
}

int end_with(std::string_view program, const vhost::Error& error) {
  print_error(program, error);
  return error.fault == vhost::Fault::operator_ ? exit_operator_error : EXIT_FAILURE;
}

Result<std::unique_ptr<ControlLoop>> ControlLoop::create() {
  auto loop = vhost::EventLoop::create();
  if (!loop) return std::unexpected(loop.error());
  std::unique_ptr<ControlLoop> control(new ControlLoop(std::move(*loop)));
  auto ends = catch_end_signals();
  if (!ends) return std::unexpected(ends.error());
  control->end_signals_ = std::move(*ends);
  auto hangups = catch_signals({SIGHUP});
  if (!hangups) return std::unexpected(hangups.error());
  control->hangups_ = std::move(*hangups);
  return control;
}

Result<void> ControlLoop::take_on(Duties duties) {
  duties_ = std::move(duties);
  if (auto watched = watch_signals(); !watched) return watched;
  return start_timers();
}

Result<void> ControlLoop::watch_signals() {
  if (auto watched = loop_.watch(end_signals_.get(), [this] { loop_.stop(); }); !watched) {
    return watched;
  }
  return loop_.watch(hangups_.get(), [this] {
    (void)next_signal(hangups_);
    duties_.on_hangup();
  });
}

Result<void> ControlLoop::start_timers() {
  if (!duties_.stats_file.empty()) {
    stats_file_.emplace(duties_.stats_file);
    auto timer = loop_.every(duties_.stats_interval, [this] { write_stats(); });
    if (!timer) return std::unexpected(timer.error());
    stats_timer_ = std::move(*timer);
    write_stats();
  }
  if (const auto interval = service_.keep_alive_interval()) {
    const auto period = std::chrono::duration_cast<std::chrono::milliseconds>(*interval);
    auto timer = loop_.every(period, [this] {
      if (duties_.alive()) service_.keep_alive();
    });
    if (!timer) return std::unexpected(timer.error());
    keep_alive_timer_ = std::move(*timer);
  }
  return {};
}

void ControlLoop::write_stats() {
  (void)stats_file_->write_json(duties_.stats(std::chrono::steady_clock::now() - began_));
}

Result<void> ControlLoop::run() {
  service_.ready("serving");
  auto ended = loop_.run();
  service_.stopping();
  if (stats_file_) write_stats();
  return ended;
}

}  // namespace common
