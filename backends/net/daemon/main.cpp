/*
 * vhost-user-net: connects guests with each other and with the host's networks.
 *
 *   read settings - make the network (network.hpp) - listen for each port - tell systemd - loop
 *
 * Whatever is wrong with the settings, an uplink or a socket is said in one sentence before any
 * front-end is served. The loop ends with SIGTERM or SIGINT. At SIGHUP the file of --ports is read
 * again, and its ports become those of the daemon (ports.hpp).
 */
#include <unistd.h>

#include <random>

#include <nlohmann/json.hpp>

#include "backends/net/daemon/network.hpp"
#include "backends/net/daemon/port_list.hpp"
#include "backends/net/daemon/ports.hpp"
#include "backends/net/daemon/settings.hpp"
#include "backends/net/daemon/stats_document.hpp"
#include "common/daemon.hpp"
#include "common/log.hpp"

namespace net {
namespace {

using vhost::Result;

/// The running daemon: everything that lives as long as it serves.
class Daemon {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Daemon>> start(const Settings& settings);

  /// Serves until told to end. Does not return if a worker had to be left behind.
  [[nodiscard]] Result<void> run();

 private:
  explicit Daemon(const Settings& settings) : settings_(settings) {}

  [[nodiscard]] Result<void> take_on_duties();
  [[nodiscard]] Result<void> start_timers();
  [[nodiscard]] Result<void> attend_to_captures();
  void read_ports_again();
  void look_after_network();
  [[nodiscard]] InService in_service() const;

  static constexpr std::chrono::milliseconds shortest_care_period{250};
  static constexpr std::chrono::milliseconds longest_care_period{1000};
  static constexpr std::chrono::milliseconds capture_period{100};

  const Settings& settings_;
  std::unique_ptr<common::ControlLoop> control_;
  std::unique_ptr<Network> network_;
  std::optional<Ports> ports_;
  vhost::UniqueFd care_timer_;
  std::minstd_rand dice_{std::random_device{}()};
  vhost::UniqueFd capture_timer_;
};

Result<std::unique_ptr<Daemon>> Daemon::start(const Settings& settings) {
  std::unique_ptr<Daemon> daemon(new Daemon(settings));
  auto control = common::ControlLoop::create();  // first: the workers inherit the signal mask
  if (!control) return std::unexpected(control.error());
  daemon->control_ = std::move(*control);

  common::Patience patience;
  patience.end_signal = daemon->control_->end_signal();
  const auto specs = list_ports(settings);
  if (!specs) return std::unexpected(specs.error());
  auto network = Network::create(settings, *specs, patience);
  if (!network) return std::unexpected(network.error());
  daemon->network_ = std::move(*network);

  daemon->ports_.emplace(daemon->control_->loop(), *daemon->network_);
  if (auto served = daemon->ports_->serve(*specs); !served) return std::unexpected(served.error());
  if (auto taken = daemon->take_on_duties(); !taken) return std::unexpected(taken.error());
  if (auto started = daemon->start_timers(); !started) return std::unexpected(started.error());
  return daemon;
}

Result<void> Daemon::take_on_duties() {
  common::ControlLoop::Duties duties;
  duties.on_hangup = [this] { read_ports_again(); };
  duties.alive = [this] { return network_->alive(); };
  duties.stats_file = settings_.stats_file;
  duties.stats_interval = settings_.stats_interval;
  duties.stats = [this](std::chrono::steady_clock::duration uptime) {
    return stats_document(in_service(), uptime);
  };
  return control_->take_on(std::move(duties));
}

Result<void> Daemon::start_timers() {
  auto care = control_->loop().every(longest_care_period, [this] { look_after_network(); });
  if (!care) return std::unexpected(care.error());
  care_timer_ = std::move(*care);
  return attend_to_captures();
}

/// Without captures nobody wakes up for them.
Result<void> Daemon::attend_to_captures() {
  if (network_->captures() == bool(capture_timer_)) return {};
  if (capture_timer_) {
    control_->loop().forget(capture_timer_.get());
    capture_timer_ = vhost::UniqueFd();
    return {};
  }
  auto capture = control_->loop().every(capture_period, [this] { network_->write_captures(); });
  if (!capture) return std::unexpected(capture.error());
  capture_timer_ = std::move(*capture);
  return {};
}

void Daemon::read_ports_again() {
  if (settings_.ports_file.empty()) {
    common::log::info("SIGHUP: there is nothing that is read again, for there is no --ports");
    return;
  }
  const auto wanted = list_ports(settings_);
  if (!wanted) {
    common::log::error("SIGHUP: {}; all ports stay as they are", wanted.error().what);
    return;
  }
  ports_->change_to(*wanted);
  if (const auto attended = attend_to_captures(); !attended) {
    common::log::error("{}", attended.error().what);
  }
}

/// A front-end that knew when the next look comes could have a worker hang until shortly before it,
/// time after time.
void Daemon::look_after_network() {
  network_->look_after();
  std::uniform_int_distribution period(shortest_care_period.count(), longest_care_period.count());
  vhost::EventLoop::change(care_timer_, std::chrono::milliseconds(period(dice_)));
}

InService Daemon::in_service() const {
  InService now = network_->in_service();
  now.ports = ports_->in_service();
  return now;
}

Result<void> Daemon::run() {
  common::log::info("serving; ports: {}, uplinks: {}, workers: {}", ports_->count(),
                    settings_.uplinks.size(), settings_.workers);
  auto ended = control_->run();
  ports_.reset();
  if (network_->abandoned()) {
    common::log::warning("a worker did not come round in time and is left behind");
    ::_exit(EXIT_SUCCESS);  // it uses all of this
  }
  return ended;
}

int serve(int argc, const char* const* argv) {
  return common::serve<Daemon>("vhost-user-net", read_settings(argc, argv));
}

}  // namespace
}  // namespace net

int main(int argc, char** argv) {
  return net::serve(argc, argv);
}
