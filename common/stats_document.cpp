#include "common/stats_document.hpp"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "libvhost/session/feature_names.hpp"

namespace common {
namespace {

using nlohmann::json;

json feature_names(std::uint64_t features, std::span<const FeatureName> device) {
  json names = json::array();
  for (const auto& [mask, name] : device) {
    if ((features & mask) != 0) names.push_back(name);
  }
  for (const auto& name : vhost::transport_feature_names(features)) names.push_back(name);
  return names;
}

json iommu_document(const vhost::IommuCounts& counts, const vhost::SessionInfo& session) {
  return {{"entries", session.iotlb_entries},
          {"updates", counts.updates},
          {"misses", counts.misses},
          {"waiting", session.unanswered_misses},
          {"refused", counts.refused},
          {"late", counts.late},
          {"invalidations", counts.invalidations},
          {"drains", counts.drains},
          {"overflows", counts.overflows}};
}

}  // namespace

json stats_head(std::string_view program, std::string_view version,
                std::chrono::steady_clock::duration uptime) {
  return {{"schema", 1},
          {"program", program},
          {"version", version},
          {"pid", ::getpid()},
          {"uptime_ms", std::chrono::duration_cast<std::chrono::milliseconds>(uptime).count()}};
}

json connection_document(const vhost::Server& server, std::span<const FeatureName> device) {
  const vhost::SessionInfo session = server.info();
  return {{"connected", server.connected()},
          {"connections", server.connections()},
          {"messages_refused", server.refused()},
          {"hung_calls", server.hung_calls()},
          {"features", feature_names(session.features, device)},
          {"protocol_features", vhost::protocol_feature_names(session.protocol_features)},
          {"memory_regions", session.memory_regions},
          {"running_queues", session.running_rings},
          {"iommu", iommu_document(server.iommu(), session)}};
}

}  // namespace common
