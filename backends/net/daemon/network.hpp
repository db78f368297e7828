#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backends/net/daemon/settings.hpp"
#include "backends/net/daemon/stats_document.hpp"
#include "backends/net/eal/eal.hpp"
#include "backends/net/forwarding/switch.hpp"
#include "backends/net/forwarding/worker.hpp"
#include "backends/net/guest/device.hpp"
#include "backends/net/uplink/uplink.hpp"

/*
 * All of the daemon but its sockets: what the settings say, made and joined.
 *
 *   EAL, if anything needs it - guests' sinks - uplinks - switch - workers - devices
 *
 * Each of these refers to those before it, and they end in the opposite order. One port and one
 * uplink without VLANs are a patch, if no file of ports can change that; everything else is a
 * switch. Queue q of the uplink with number u in the switch is served by worker u + q modulo
 * workers, as those of guests are.
 *
 * In the switch, first come the ports of the start, then the uplinks, then places that are free for
 * ports to come. What a port has is freed when each worker has come round without it.
 *
 * Thread: the control thread.
 */
namespace net {

class Network {
 public:
  /// With these ports to begin with. Workers run when this returns. `patience` is how the control
  /// thread waits for them. Errors name what is to blame.
  [[nodiscard]] static vhost::Result<std::unique_ptr<Network>> create(
      const Settings& settings, std::span<const PortSpec> ports, const common::Patience& patience);
  /// No ring may run any more.
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  /// Of the port in that place: first those that it was created with, in their order.
  [[nodiscard]] Device& device(PortId port) { return *devices_[std::to_underlying(port)]; }

  /// One port more, if the settings have a file of ports; there is a place for as many as they say.
  /// Its device may be served when this returns. An error names the port and what is to blame.
  [[nodiscard]] vhost::Result<PortId> add(const PortSpec& port);
  /// None of its rings may run any more. Its device and its statistics go.
  void remove(PortId port);

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
  Network(const Settings& settings, std::span<const PortSpec> ports,
          const common::Patience& patience);

  [[nodiscard]] PortId uplink_place(std::size_t uplink) const;
  [[nodiscard]] vhost::Result<void> start_eal();
  [[nodiscard]] vhost::Result<void> open_uplinks();
  [[nodiscard]] vhost::Result<void> make_switch(std::span<const PortSpec> ports);
  [[nodiscard]] std::unique_ptr<ToGuest> make_to_guest(const PortSpec& port) const;
  [[nodiscard]] vhost::Result<void> start_workers();
  [[nodiscard]] std::size_t worker_of(std::size_t uplink, std::size_t queue) const;
  [[nodiscard]] std::chrono::nanoseconds longest_pause(std::size_t worker) const;
  void join_uplinks();
  void make_device(PortId place, const PortSpec& port);
  void let_workers_take_note();

  const Settings& settings_;
  const common::Patience patience_;
  const std::size_t first_uplink_;  ///< its number in the switch
  const std::size_t places_;        ///< in the switch
  const bool is_patch_;
  bool abandoned_ = false;
  std::optional<Eal> eal_;
  Desks desks_;
  std::vector<std::unique_ptr<ToGuest>> to_guests_;  ///< by PortId; null: not a guest's
  std::vector<std::unique_ptr<Uplink>> uplinks_;
  std::vector<bool> links_up_;  ///< by uplink
  std::unique_ptr<Switch> switch_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Device>> devices_;  ///< by PortId; null: not a guest's
};

}  // namespace net
