#include "backends/net/daemon/stats_document.hpp"

#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "backends/net/frame/virtio_net.hpp"
#include "common/stats_document.hpp"

namespace net {
namespace {

using nlohmann::json;

constexpr std::array<common::FeatureName, 17> device_features{{
    {feature::csum, "VIRTIO_NET_F_CSUM"},
    {feature::guest_csum, "VIRTIO_NET_F_GUEST_CSUM"},
    {feature::mtu, "VIRTIO_NET_F_MTU"},
    {feature::mac, "VIRTIO_NET_F_MAC"},
    {feature::guest_tso4, "VIRTIO_NET_F_GUEST_TSO4"},
    {feature::guest_tso6, "VIRTIO_NET_F_GUEST_TSO6"},
    {feature::guest_ecn, "VIRTIO_NET_F_GUEST_ECN"},
    {feature::guest_ufo, "VIRTIO_NET_F_GUEST_UFO"},
    {feature::host_tso4, "VIRTIO_NET_F_HOST_TSO4"},
    {feature::host_tso6, "VIRTIO_NET_F_HOST_TSO6"},
    {feature::host_ecn, "VIRTIO_NET_F_HOST_ECN"},
    {feature::host_ufo, "VIRTIO_NET_F_HOST_UFO"},
    {feature::mergeable_buffers, "VIRTIO_NET_F_MRG_RXBUF"},
    {feature::status, "VIRTIO_NET_F_STATUS"},
    {feature::control_queue, "VIRTIO_NET_F_CTRL_VQ"},
    {feature::guest_announce, "VIRTIO_NET_F_GUEST_ANNOUNCE"},
    {feature::multi_queue, "VIRTIO_NET_F_MQ"},
}};

/// Sums of what several writers count.
struct Sum {
  std::uint64_t frames = 0, bytes = 0, bursts = 0, segmented = 0, summed = 0;
  std::array<std::uint64_t, size_class_limits.size()> size_classes{};
  std::array<std::uint64_t, drops> dropped{};

  void add(const Traffic& traffic) {
    frames += traffic.frames.value();
    bytes += traffic.bytes.value();
    bursts += traffic.bursts.value();
    segmented += traffic.segmented.value();
    summed += traffic.summed.value();
    for (std::size_t i = 0; i < size_classes.size(); ++i) {
      size_classes[i] += traffic.size_classes[i].value();
    }
    for (std::size_t i = 0; i < drops; ++i) dropped[i] += traffic.dropped[i].value();
  }
};

/// "64", "127", ..., "9216", and "longer" for the last class.
std::string size_class_name(std::size_t index) {
  if (index + 1 == size_class_limits.size()) return "longer";
  return std::to_string(size_class_limits[index]);
}

json traffic_document(const Sum& sum) {
  json sizes = json::object();
  for (std::size_t i = 0; i < sum.size_classes.size(); ++i) {
    sizes[size_class_name(i)] = sum.size_classes[i];
  }
  json dropped = json::object();
  for (std::size_t i = 0; i < drops; ++i) {
    dropped[std::string(name(static_cast<Drop>(i)))] = sum.dropped[i];
  }
  return {{"frames", sum.frames},       {"bytes", sum.bytes},   {"bursts", sum.bursts},
          {"segmented", sum.segmented}, {"summed", sum.summed}, {"size_classes", std::move(sizes)},
          {"drops", std::move(dropped)}};
}

json queue_document(const QueueStats& stats) {
  Sum sum;
  sum.add(stats.traffic);
  json document = traffic_document(sum);
  document["kicks"] = stats.kicks.value();
  document["calls"] = stats.calls.value();
  document["calls_suppressed"] = stats.calls_suppressed.value();
  document["broken_ring"] = stats.broken.value();
  return document;
}

/// The pairs of which either queue ever ran.
json queues_document(const Device& device) {
  json queues = json::array();
  const QueueStats none;
  for (std::size_t pair = 0; pair < device.from_guest_stats().size(); ++pair) {
    const QueueStats* const from = device.from_guest_stats()[pair].get();
    const QueueStats* const to = device.to_guest().stats(static_cast<std::uint16_t>(pair));
    if (from == nullptr && to == nullptr) continue;
    queues.push_back({{"index", pair},
                      {"from_guest", queue_document(from != nullptr ? *from : none)},
                      {"to_guest", queue_document(to != nullptr ? *to : none)}});
  }
  return queues;
}

/// What the switch knows of a port or uplink.
json place_document(const Switch& fabric, PortId port) {
  return {{"stations", fabric.station_count(port)},
          {"not_learned", fabric.not_learned(port)},
          {"capture_lost", fabric.capture_lost(port)}};
}

json port_document(const InService::Port& port, const Switch& fabric) {
  return {{"name", port.spec.name},
          {"socket", port.spec.socket},
          {"mac", port.spec.mac ? mac_text(*port.spec.mac) : ""},
          {"link_up", port.device.to_guest().link_up()},
          {"mtu", port.device.mtu()},
          {"dropped_link_down", port.device.to_guest().dropped_link_down()},
          {"announcements", port.device.announced().frames.value()},
          {"connection", common::connection_document(port.server, device_features)},
          {"switch", place_document(fabric, port.device.setup().port)},
          {"queues", queues_document(port.device)}};
}

json uplink_document(const InService::UplinkNow& now, unsigned workers, const Switch& fabric) {
  Sum from;
  for (Source* const source : now.uplink.sources()) from.add(source->traffic());
  Sum to;
  for (unsigned worker = 0; worker < workers; ++worker) to.add(now.uplink.to_uplink(worker));
  json counters = json::object();
  for (const auto& [name, value] : now.uplink.driver_counters()) counters[name] = value;
  return {{"name", fabric.name(now.place)},
          {"device", now.uplink.name()},
          {"driver", now.uplink.driver()},
          {"link_up", now.link_up},
          {"mtu", now.uplink.mtu()},
          {"queues", now.uplink.queues()},
          {"longest_pause_us", now.uplink.longest_pause().count()},
          {"switch", place_document(fabric, now.place)},
          {"from_uplink", traffic_document(from)},
          {"to_uplink", traffic_document(to)},
          {"driver_counters", std::move(counters)}};
}

json worker_document(std::size_t index, const InService::WorkerNow& now) {
  const WorkerStats& stats = now.worker.stats();
  return {{"index", index},
          {"turns", stats.turns.value()},
          {"busy_turns", stats.busy_turns.value()},
          {"busy_ns", stats.busy_ns.value()},
          {"looking_ns", stats.looking_ns.value()},
          {"sleeping_ns", stats.sleeping_ns.value()},
          {"sleeps", stats.sleeps.value()},
          {"wake_ups", stats.wake_ups.value()},
          {"pauses", stats.pauses.value()},
          {"longest_pause_ns", now.longest_pause.count()}};
}

json switch_document(const Switch& fabric) {
  std::uint64_t known = 0;
  for (const std::uint16_t port : fabric.members()) known += fabric.station_count(PortId{port});
  json list = json::array();
  for (const Station& station : fabric.stations(most_stations_listed)) {
    list.push_back({{"mac", mac_text(station.mac)},
                    {"vlan", station.vlan},
                    {"port", fabric.name(station.port)},
                    {"age_s", station.age_s}});
  }
  return {{"stations", known}, {"list", std::move(list)}};
}

}  // namespace

json stats_document(const InService& now, std::chrono::steady_clock::duration uptime) {
  json ports = json::array();
  for (const auto& port : now.ports) ports.push_back(port_document(port, now.fabric));
  json uplinks = json::array();
  const auto worker_count = static_cast<unsigned>(now.workers.size());
  for (const auto& uplink : now.uplinks) {
    uplinks.push_back(uplink_document(uplink, worker_count, now.fabric));
  }
  json workers = json::array();
  for (std::size_t i = 0; i < now.workers.size(); ++i) {
    workers.push_back(worker_document(i, now.workers[i]));
  }
  json document = common::stats_head("vhost-user-net", VHOST_BACKENDS_VERSION, uptime);
  document["workers"] = std::move(workers);
  document["ports"] = std::move(ports);
  document["uplinks"] = std::move(uplinks);
  document["switch"] = switch_document(now.fabric);
  return document;
}

}  // namespace net
