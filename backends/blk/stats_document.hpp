#pragma once
#include <chrono>

#include <nlohmann/json_fwd.hpp>

#include "backends/blk/device.hpp"
#include "backends/blk/settings.hpp"
#include "libvhost/session/server.hpp"

namespace blk {

/// The stats file's document; docs/stats.md says what every key means. Control thread.
[[nodiscard]] nlohmann::json stats_document(const Settings& settings, const Device& device,
                                            const vhost::Server& server,
                                            std::chrono::steady_clock::duration uptime);

}  // namespace blk
