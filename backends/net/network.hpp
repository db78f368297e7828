#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "backends/net/device.hpp"
#include "backends/net/eal.hpp"
#include "backends/net/settings.hpp"
#include "backends/net/stats_document.hpp"
#include "backends/net/switch.hpp"
#include "backends/net/uplink.hpp"
#include "backends/net/worker.hpp"

/*
 * All of the daemon but its sockets: what the settings say, made and joined.
 *
 *   EAL, if anything needs it - guests' sinks - uplinks - switch - workers - devices
 *
 * Each of these refers to those before it, and they end in the opposite order. One port and one
 * uplink without VLANs are a patch, everything else is a switch. Queue q of the uplink with number
 * u in the switch is served by worker u + q modulo workers, as those of guests are.
 *
 * Thread: the control thread.
 */
namespace net {

class Network {
 public:
  /// Workers run when this returns. `patience` is how the control thread waits for them. Errors
  /// name the option that is to blame.
  [[nodiscard]] static vhost::Result<std::unique_ptr<Network>> create(
      const Settings& settings, const common::Patience& patience);
  /// No ring may run any more.
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  /// One for each port, in their order.
  [[nodiscard]] const std::vector<std::unique_ptr<Device>>& devices() const { return devices_; }

  /// Frees workers that hang in a call, forgets old stations and looks at the uplinks' links. About
  /// once a second, at moments that no front-end can foresee.
  void look_after();
  /// Several times a second, if there is a capture.
  void write_captures();
  [[nodiscard]] bool captures() const { return switch_->captures(); }

  /// False: some worker shows no sign of life.
  [[nodiscard]] bool alive();
  /// A worker did not come round before the process had to end: leave without cleaning up.
  [[nodiscard]] bool abandoned() const;

  /// Without the ports, whose servers are not ours.
  [[nodiscard]] InService in_service() const;

 private:
  Network(const Settings& settings, const common::Patience& patience)
      : settings_(settings), patience_(patience) {}

  [[nodiscard]] bool is_patch() const;
  [[nodiscard]] vhost::Result<void> start_eal();
  [[nodiscard]] vhost::Result<void> open_uplinks();
  [[nodiscard]] vhost::Result<void> make_switch();
  [[nodiscard]] vhost::Result<void> start_workers();
  [[nodiscard]] std::size_t worker_of(std::size_t uplink, std::size_t queue) const;
  [[nodiscard]] std::chrono::nanoseconds longest_pause(std::size_t worker) const;
  void join_uplinks();
  void make_devices();

  const Settings& settings_;
  const common::Patience patience_;
  std::optional<Eal> eal_;
  Desks desks_;
  std::vector<std::unique_ptr<ToGuest>> to_guests_;  ///< by port
  std::vector<std::unique_ptr<Uplink>> uplinks_;
  std::vector<bool> links_up_;  ///< by uplink
  std::unique_ptr<Switch> switch_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace net
