#include "backends/net/uplink/dpdk_port.hpp"

#include <rte_ethdev.h>

#include <algorithm>

#include "common/log.hpp"

namespace net {
namespace {

/// A queue of 1024 frames overflows in less only above a million frames a second, which is no
/// silence for a worker to sleep in.
constexpr std::chrono::microseconds pause_without_interrupts{5000};

}  // namespace

vhost::Result<std::unique_ptr<DpdkPort>> DpdkPort::open(const UplinkSpec& spec,
                                                        const UplinkSetup& setup) {
  auto device = DpdkDevice::open(spec, setup);
  if (!device) return pass_on(device);
  return std::unique_ptr<DpdkPort>(new DpdkPort(std::move(*device), setup));
}

vhost::Result<std::unique_ptr<DpdkPort>> DpdkPort::adopt(std::uint16_t dpdk_port,
                                                         const UplinkSpec& spec,
                                                         const UplinkSetup& setup) {
  auto device = DpdkDevice::adopt(dpdk_port, spec, setup);
  if (!device) return pass_on(device);
  return std::unique_ptr<DpdkPort>(new DpdkPort(std::move(*device), setup));
}

DpdkPort::DpdkPort(std::unique_ptr<DpdkDevice> device, const UplinkSetup& setup)
    : Uplink(setup.workers), device_(std::move(device)) {
  for (std::uint16_t queue = 0; queue < device_->queues; ++queue) {
    from_.push_back(std::make_unique<DpdkSource>(*device_, queue, setup.port));
    to_.push_back(std::make_unique<DpdkSink>(*device_, queue));
    sources_.push_back(from_.back().get());
  }
}

void DpdkPort::deliver(std::span<Frame* const> frames, unsigned worker) {
  to_[worker % to_.size()]->send(frames, to_uplink_[worker]);
}

bool DpdkPort::link_up() {
  rte_eth_link link{};
  if (::rte_eth_link_get_nowait(device_->port, &link) != 0) return was_up_;
  const bool up = link.link_status == RTE_ETH_LINK_UP;
  if (up != was_up_) common::log::info("--uplink {}: the link is {}", name(), up ? "up" : "down");
  return was_up_ = up;
}

std::vector<DriverCounter> DpdkPort::driver_counters() const {
  const int count = ::rte_eth_xstats_get_names(device_->port, nullptr, 0);
  if (count <= 0) return {};
  std::vector<rte_eth_xstat_name> names(static_cast<std::size_t>(count));
  std::vector<rte_eth_xstat> values(names.size());
  const auto room = static_cast<unsigned>(count);
  if (::rte_eth_xstats_get_names(device_->port, names.data(), room) != count ||
      ::rte_eth_xstats_get(device_->port, values.data(), room) != count) {
    return {};
  }
  std::vector<DriverCounter> counters;
  for (const rte_eth_xstat& value : values) {
    if (value.id < names.size()) counters.push_back({names[value.id].name, value.value});
  }
  return counters;
}

std::chrono::microseconds DpdkPort::longest_pause() const {
  const bool all_wake =
      std::ranges::all_of(from_, [](const auto& source) { return source->wake_fd() >= 0; });
  return all_wake ? std::chrono::microseconds{0} : pause_without_interrupts;
}

bool DpdkPort::lends() const {
  return std::ranges::all_of(to_, [](const auto& sink) { return sink->lends(); });
}

}  // namespace net
