/*
 * vhost-user-net: connects guests with each other and with the host's networks.
 *
 *   read settings - make the network (network.hpp) - listen for each port - tell systemd - loop
 *
 * Whatever is wrong with the settings, an uplink or a socket is said in one sentence before any
 * front-end is served. The loop ends with SIGTERM or SIGINT. SIGHUP changes nothing.
 */
#include <unistd.h>

#include <random>

#include <nlohmann/json.hpp>

#include "backends/net/network.hpp"
#include "backends/net/settings.hpp"
#include "backends/net/stats_document.hpp"
#include "common/daemon.hpp"
#include "common/log.hpp"
#include "libvhost/session/server.hpp"

namespace net {
namespace {

using vhost::Result;

Result<vhost::Endpoint> open_endpoint(const PortSpec& port) {
  using vhost::Endpoint;
  const auto blame = [&](const std::string& option, const vhost::Error& error) {
    return vhost::fail(vhost::Fault::operator_, option + ": " + error.what);
  };
  if (port.fd) {
    auto endpoint = Endpoint::adopt(vhost::UniqueFd(*port.fd));
    if (!endpoint) return blame("--fd", endpoint.error());
    return endpoint;
  }
  auto endpoint =
      port.client ? Endpoint::connect(port.socket) : Endpoint::listen(port.socket, port.access);
  if (!endpoint) return blame("--port: " + port.name, endpoint.error());
  return endpoint;
}

/// The running daemon: everything that lives as long as it serves.
class Daemon {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Daemon>> start(const Settings& settings);

  /// Serves until told to end. Does not return if a worker had to be left behind.
  [[nodiscard]] Result<void> run();

 private:
  explicit Daemon(const Settings& settings) : settings_(settings) {}

  [[nodiscard]] Result<void> serve_ports();
  [[nodiscard]] Result<void> take_on_duties();
  [[nodiscard]] Result<void> start_timers();
  void look_after_network();
  [[nodiscard]] InService in_service() const;

  static constexpr std::chrono::milliseconds shortest_care_period{250};
  static constexpr std::chrono::milliseconds longest_care_period{1000};
  static constexpr std::chrono::milliseconds capture_period{100};

  const Settings& settings_;
  std::unique_ptr<common::ControlLoop> control_;
  std::unique_ptr<Network> network_;
  std::vector<std::unique_ptr<vhost::Server>> servers_;  // by port
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
  auto network = Network::create(settings, patience);
  if (!network) return std::unexpected(network.error());
  daemon->network_ = std::move(*network);

  if (auto served = daemon->serve_ports(); !served) return std::unexpected(served.error());
  if (auto taken = daemon->take_on_duties(); !taken) return std::unexpected(taken.error());
  if (auto started = daemon->start_timers(); !started) return std::unexpected(started.error());
  return daemon;
}

/// All sockets are there before the first front-end is served.
Result<void> Daemon::serve_ports() {
  std::vector<vhost::Endpoint> endpoints;
  for (const PortSpec& port : settings_.ports) {
    auto endpoint = open_endpoint(port);
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoints.push_back(std::move(*endpoint));
  }
  for (std::size_t i = 0; i < endpoints.size(); ++i) {
    auto server =
        vhost::Server::start(control_->loop(), *network_->devices()[i], std::move(endpoints[i]),
                             common::library_log(settings_.ports[i].name + ": "));
    if (!server) return std::unexpected(server.error());
    servers_.push_back(std::move(*server));
  }
  return {};
}

Result<void> Daemon::take_on_duties() {
  common::ControlLoop::Duties duties;
  duties.on_hangup = [] { common::log::info("SIGHUP: there is nothing that is read again"); };
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
  if (!network_->captures()) return {};
  auto capture = control_->loop().every(capture_period, [this] { network_->write_captures(); });
  if (!capture) return std::unexpected(capture.error());
  capture_timer_ = std::move(*capture);
  return {};
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
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    now.ports.push_back({settings_.ports[i], *network_->devices()[i], *servers_[i]});
  }
  return now;
}

Result<void> Daemon::run() {
  common::log::info("serving; ports: {}, uplinks: {}, workers: {}", settings_.ports.size(),
                    settings_.uplinks.size(), settings_.workers);
  auto ended = control_->run();
  servers_.clear();
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
