#include "backends/net/daemon/network.hpp"

#include <algorithm>

#include "common/log.hpp"

namespace net {
namespace {

using vhost::Result;

std::unexpected<vhost::Error> blame(std::string_view origin, const std::string& name,
                                    const vhost::Error& error) {
  return vhost::fail(error.fault, std::string(origin) + ": " + name + ": " + error.what);
}

VlanPolicy policy_of(const SpecVlans& vlans) {
  if (vlans.tagged.any()) return VlanPolicy::trunk(vlans.tagged, vlans.untagged);
  if (vlans.untagged) return VlanPolicy::access(*vlans.untagged);
  return VlanPolicy::transparent();
}

Guard guard_of(const PortSpec& spec) {
  Guard guard;
  if (!spec.guard) return guard;
  guard.mac = spec.mac;
  guard.ipv4 = spec.addresses.ipv4;
  guard.ipv6 = spec.addresses.ipv6;
  return guard;
}

/// What is the same for a port and an uplink.
template <class Spec>
Result<PortSetup> place_of(const Spec& spec, std::string_view origin, Sink& sink) {
  PortSetup setup;
  setup.name = spec.name;
  setup.sink = &sink;
  setup.vlan = policy_of(spec.vlans);
  if (!spec.capture.empty()) {
    auto capture = Capture::create(spec.capture, spec.name);
    if (!capture) return blame(origin, spec.name, capture.error());
    setup.capture = std::move(*capture);
  }
  return setup;
}

Result<PortSetup> place_of_guest(const PortSpec& port, ToGuest& to_guest) {
  auto place = place_of(port, port.origin, to_guest);
  if (place) place->guard = guard_of(port);
  return place;
}

/// One port and one uplink, neither with VLANs, and no others to come.
bool only_passes_on(const Settings& settings, std::span<const PortSpec> ports) {
  return settings.ports_file.empty() && ports.size() == 1 && settings.uplinks.size() == 1 &&
         !ports[0].vlans.any() && !settings.uplinks[0].vlans.any();
}

}  // namespace

Network::Network(const Settings& settings, std::span<const PortSpec> ports,
                 const common::Patience& patience)
    : settings_(settings),
      patience_(patience),
      first_uplink_(ports.size()),
      places_(settings.uplinks.size() +
              (settings.ports_file.empty() ? ports.size() : settings.most_ports)),
      is_patch_(only_passes_on(settings, ports)),
      to_guests_(places_),
      devices_(places_) {}

Result<std::unique_ptr<Network>> Network::create(const Settings& settings,
                                                 std::span<const PortSpec> ports,
                                                 const common::Patience& patience) {
  std::unique_ptr<Network> network(new Network(settings, ports, patience));
  if (auto started = network->start_eal(); !started) return std::unexpected(started.error());
  auto desks = make_desks(settings.workers);
  if (!desks) return std::unexpected(desks.error());
  network->desks_ = std::move(*desks);
  if (auto opened = network->open_uplinks(); !opened) return std::unexpected(opened.error());
  if (auto made = network->make_switch(ports); !made) return std::unexpected(made.error());
  if (auto started = network->start_workers(); !started) return std::unexpected(started.error());
  network->join_uplinks();
  for (std::size_t i = 0; i < ports.size(); ++i) {
    network->make_device(PortId{static_cast<std::uint16_t>(i)}, ports[i]);
  }
  return network;
}

Network::~Network() = default;

PortId Network::uplink_place(std::size_t uplink) const {
  return PortId{static_cast<std::uint16_t>(first_uplink_ + uplink)};
}

Result<void> Network::start_eal() {
  EalSetup setup;
  bool needed = !is_patch_;  // a switch's table is DPDK's
  for (std::size_t i = 0; i < settings_.uplinks.size(); ++i) {
    const UplinkPlan& uplink = settings_.uplinks[i];
    if (!uplink.device.needs_dpdk()) continue;
    needed = true;
    if (uplink.device.needs_pci()) setup.pci_devices.push_back(uplink.device.argument);
    setup.memory_bytes +=
        uplink_memory(uplink.device, {.port = {}, .workers = settings_.workers, .mtu = uplink.mtu});
  }
  if (!needed) return {};
  setup.no_iommu = settings_.unsafe_no_iommu;
  setup.extra = split_arguments(settings_.eal);
  auto eal = Eal::start(setup);
  if (!eal) return std::unexpected(eal.error());
  eal_.emplace(std::move(*eal));
  return {};
}

Result<void> Network::open_uplinks() {
  for (std::size_t i = 0; i < settings_.uplinks.size(); ++i) {
    const UplinkPlan& plan = settings_.uplinks[i];
    UplinkSetup setup;
    setup.port = uplink_place(i);
    setup.workers = settings_.workers;
    setup.mtu = plan.mtu;
    setup.allow_no_iommu = settings_.unsafe_no_iommu;
    auto uplink = open_uplink(plan.device, setup);
    if (!uplink) return std::unexpected(uplink.error());
    links_up_.push_back((*uplink)->link_up());
    uplinks_.push_back(std::move(*uplink));
  }
  return {};
}

std::unique_ptr<ToGuest> Network::make_to_guest(const PortSpec& port) const {
  // A front-end that counts rings may use twice as many pairs (Device::max_queues()).
  const auto queues = static_cast<std::uint16_t>(2 * port.queues);
  return std::make_unique<ToGuest>(port.name, queues, desks_);
}

Result<void> Network::make_switch(std::span<const PortSpec> ports) {
  std::vector<PortSetup> places;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    to_guests_[i] = make_to_guest(ports[i]);
    auto place = place_of_guest(ports[i], *to_guests_[i]);
    if (!place) return std::unexpected(place.error());
    places.push_back(std::move(*place));
  }
  for (std::size_t i = 0; i < settings_.uplinks.size(); ++i) {
    auto place = place_of(settings_.uplinks[i], "--uplink", *uplinks_[i]);
    if (!place) return std::unexpected(place.error());
    places.push_back(std::move(*place));
  }
  SwitchOptions options;
  options.patch = is_patch_;
  options.workers = settings_.workers;
  options.places = places_;
  options.ageing_s = static_cast<std::uint32_t>(
      std::chrono::ceil<std::chrono::seconds>(settings_.mac_ageing).count());
  options.storm_limit = settings_.storm_limit;
  auto fabric = Switch::create(std::move(places), options);
  if (!fabric) return std::unexpected(fabric.error());
  switch_ = std::move(*fabric);
  switch_->age(common::now_ns());
  return {};
}

Result<void> Network::start_workers() {
  for (std::uint16_t i = 0; i < settings_.workers; ++i) {
    WorkerSetup setup;
    setup.number = i;
    if (!settings_.cpus.empty()) setup.cpus = {settings_.cpus[i % settings_.cpus.size()]};
    setup.polling = settings_.polling;
    if (const auto pause = longest_pause(i); pause.count() != 0) setup.longest_pause = pause;
    setup.patience = patience_;
    auto worker = Worker::start(std::move(setup), *desks_[i], *switch_);
    if (!worker) return std::unexpected(worker.error());
    workers_.push_back(std::move(*worker));
  }
  return {};
}

std::size_t Network::worker_of(std::size_t uplink, std::size_t queue) const {
  return (first_uplink_ + uplink + queue) % settings_.workers;
}

/// The shortest bound of the uplinks that it serves; 0: all of their sources wake it.
std::chrono::nanoseconds Network::longest_pause(std::size_t worker) const {
  std::chrono::nanoseconds shortest{0};
  for (std::size_t u = 0; u < uplinks_.size(); ++u) {
    const std::chrono::nanoseconds bound = uplinks_[u]->longest_pause();
    if (bound.count() == 0) continue;
    for (std::size_t queue = 0; queue < uplinks_[u]->queues(); ++queue) {
      if (worker_of(u, queue) != worker) continue;
      shortest = shortest.count() == 0 ? bound : std::min(shortest, bound);
    }
  }
  return shortest;
}

void Network::join_uplinks() {
  for (std::size_t u = 0; u < uplinks_.size(); ++u) {
    const auto sources = uplinks_[u]->sources();
    for (std::size_t queue = 0; queue < sources.size(); ++queue) {
      Worker& worker = *workers_[worker_of(u, queue)];
      // Only a process that is to end is refused, and it ends.
      (void)worker.post([&worker, source = sources[queue]] { worker.add(*source); });
    }
  }
}

void Network::make_device(PortId place, const PortSpec& port) {
  std::vector<Worker*> workers;
  workers.reserve(workers_.size());
  for (const auto& worker : workers_) workers.push_back(worker.get());
  Device::Setup setup;
  setup.name = port.name;
  setup.port = place;
  setup.pairs = port.queues;
  setup.mac = port.mac;
  setup.serves_config = port.config;
  const auto index = std::to_underlying(place);
  devices_[index] = std::make_unique<Device>(std::move(setup), *to_guests_[index], workers);
}

Result<PortId> Network::add(const PortSpec& port) {
  auto to_guest = make_to_guest(port);
  auto setup = place_of_guest(port, *to_guest);
  if (!setup) return std::unexpected(setup.error());
  // What was removed last may still have its place.
  if (abandoned()) return vhost::fail(vhost::Fault::host, "the process ends");
  const PortId place = switch_->add(std::move(*setup));
  to_guests_[std::to_underlying(place)] = std::move(to_guest);
  make_device(place, port);
  let_workers_take_note();
  return place;
}

void Network::remove(PortId port) {
  switch_->withdraw(port);
  let_workers_take_note();
  if (abandoned()) return;  // a worker may still use it
  switch_->erase(port);
  devices_[std::to_underlying(port)].reset();
  to_guests_[std::to_underlying(port)].reset();
}

void Network::let_workers_take_note() {
  for (const auto& worker : workers_) {
    const unsigned number = worker->number();
    if (!worker->post([this, number] { switch_->take_note(number); })) abandoned_ = true;
  }
}

void Network::look_after() {
  // One guest's front-end must not hold up the others of its worker.
  for (const auto& desk : desks_) desk->mailbox->look_at_call();
  switch_->age(common::now_ns());
  for (std::size_t i = 0; i < uplinks_.size(); ++i) links_up_[i] = uplinks_[i]->link_up();
}

void Network::write_captures() {
  if (const auto written = switch_->write_captures(); !written) {
    common::log::warning("{}", written.error().what);
  }
}

bool Network::alive() {
  return std::ranges::all_of(workers_, [](const auto& worker) { return worker->alive(); });
}

bool Network::abandoned() const {
  return abandoned_ || std::ranges::any_of(devices_, [](const auto& device) {
           return device && device->abandoned();
         });
}

InService Network::in_service() const {
  InService now{.ports = {}, .uplinks = {}, .workers = {}, .fabric = *switch_};
  for (std::size_t i = 0; i < uplinks_.size(); ++i) {
    now.uplinks.push_back({*uplinks_[i], uplink_place(i), links_up_[i]});
  }
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    now.workers.push_back({*workers_[i], longest_pause(i)});
  }
  return now;
}

}  // namespace net
