#include "backends/blk/stats_document.hpp"

#include <array>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "backends/blk/image.hpp"
#include "common/stats_document.hpp"

namespace blk {
namespace {

using nlohmann::json;

constexpr std::array<common::FeatureName, 11> device_features{{
    {feature::size_max, "VIRTIO_BLK_F_SIZE_MAX"},
    {feature::seg_max, "VIRTIO_BLK_F_SEG_MAX"},
    {feature::geometry, "VIRTIO_BLK_F_GEOMETRY"},
    {feature::read_only, "VIRTIO_BLK_F_RO"},
    {feature::blk_size, "VIRTIO_BLK_F_BLK_SIZE"},
    {feature::flush, "VIRTIO_BLK_F_FLUSH"},
    {feature::topology, "VIRTIO_BLK_F_TOPOLOGY"},
    {feature::config_wce, "VIRTIO_BLK_F_CONFIG_WCE"},
    {feature::multi_queue, "VIRTIO_BLK_F_MQ"},
    {feature::discard, "VIRTIO_BLK_F_DISCARD"},
    {feature::write_zeroes, "VIRTIO_BLK_F_WRITE_ZEROES"},
}};

constexpr std::array<std::pair<Op, const char*>, QueueStats::ops> op_names{{
    {Op::read, "read"},
    {Op::write, "write"},
    {Op::flush, "flush"},
    {Op::discard, "discard"},
    {Op::write_zeroes, "write_zeroes"},
    {Op::get_id, "get_id"},
    {Op::other, "other"},
}};

json latency_of(const common::LatencySnapshot& latency) {
  return {{"min", latency.min_ns()},
          {"mean", latency.count() == 0 ? 0 : latency.sum_ns() / latency.count()},
          {"p50", latency.percentile_ns(50)},
          {"p90", latency.percentile_ns(90)},
          {"p99", latency.percentile_ns(99)},
          {"p99_9", latency.percentile_ns(99.9)},
          {"p99_99", latency.percentile_ns(99.99)},
          {"max", latency.max_ns()}};
}

json operations_of(const QueueStats& stats) {
  json operations = json::object();
  for (const auto& [op, name] : op_names) {
    const auto& counted = stats.of(op);
    operations[name] = {{"requests", counted.requests.value()},
                        {"bytes", counted.bytes.value()},
                        {"io_errors", counted.io_errors.value()},
                        {"unsupported", counted.unsupported.value()},
                        {"latency_ns", latency_of(counted.latency.snapshot())}};
  }
  return operations;
}

json queue_document(std::size_t index, const QueueStats& stats) {
  const std::uint64_t invalid = stats.invalid.value();  // first: io_errors is counted before it
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;
  std::uint64_t io_errors = 0;
  std::uint64_t unsupported = 0;
  for (const auto& counted : stats.per_op) {
    requests += counted.requests.value();
    bytes += counted.bytes.value();
    io_errors += counted.io_errors.value();
    unsupported += counted.unsupported.value();
  }
  return {{"index", index},
          {"requests", requests},
          {"bytes", bytes},
          {"errors",
           {{"io", io_errors - invalid},
            {"invalid", invalid},
            {"unsupported", unsupported},
            {"unanswerable", stats.unanswerable.value()},
            {"broken_ring", stats.broken.value()}}},
          {"bursts", stats.bursts.value()},
          {"merged_bursts", stats.merged_bursts.value()},
          {"kicks", stats.kicks.value()},
          {"calls", stats.calls.value()},
          {"calls_suppressed", stats.calls_suppressed.value()},
          {"bounced", stats.bounced.value()},
          {"left", stats.left.value()},
          {"in_flight", stats.in_flight.load(std::memory_order_relaxed)},
          {"operations", operations_of(stats)}};
}

json disk_document(const Settings& settings, const Disk& disk) {
  const std::string_view serial(disk.serial.data(), disk.serial.size());
  return {{"image", settings.blk_file},
          {"null", settings.null_bytes.has_value()},
          {"size_bytes", disk.size_bytes},
          {"block_bytes", disk.logical_block_bytes},
          {"read_only", disk.read_only},
          {"cache", std::string(name(settings.cache))},
          {"serial", std::string(serial.substr(0, serial.find('\0')))}};
}

}  // namespace

json stats_document(const Settings& settings, const Device& device, const vhost::Server& server,
                    std::chrono::steady_clock::duration uptime) {
  json queues = json::array();
  for (std::size_t index = 0; index < device.stats().size(); ++index) {
    if (const auto& stats = device.stats()[index]) queues.push_back(queue_document(index, *stats));
  }
  json document = common::stats_head("vhost-user-blk", VHOST_BACKENDS_VERSION, uptime);
  document["socket"] = settings.socket_path;
  document["disk"] = disk_document(settings, device.disk());
  document["connection"] = common::connection_document(server, device_features);
  document["queues"] = std::move(queues);
  return document;
}

}  // namespace blk
