#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace vhost {

/// The names of the bits above a device's own (24 and up, VIRTIO 6 and vhost-user), as the
/// specifications spell them; a bit without a name is "bit N".
[[nodiscard]] std::vector<std::string> transport_feature_names(std::uint64_t features);
[[nodiscard]] std::vector<std::string> protocol_feature_names(std::uint64_t features);

}  // namespace vhost
