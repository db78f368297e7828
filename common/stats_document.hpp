#pragma once
#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include <nlohmann/json_fwd.hpp>

#include "libvhost/session/server.hpp"

/*
 * What the stats files of all daemons have alike.
 */
namespace common {

/// A bit of a device's own features, and its name in the specification.
using FeatureName = std::pair<std::uint64_t, std::string_view>;

/// What every document begins with: who writes, and for how long already.
[[nodiscard]] nlohmann::json stats_head(std::string_view program, std::string_view version,
                                        std::chrono::steady_clock::duration uptime);

/// The front-end of one socket. Features that are not the transport's are named by `device`.
[[nodiscard]] nlohmann::json connection_document(const vhost::Server& server,
                                                 std::span<const FeatureName> device);

}  // namespace common
