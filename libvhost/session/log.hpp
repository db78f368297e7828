#pragma once
#include <functional>
#include <string_view>

namespace vhost {

enum class LogLevel : unsigned char { debug, info, warning, error };

/// Where the library's log lines go: one whole sentence a call. Thread: the control thread's.
using Log = std::function<void(LogLevel, std::string_view)>;

}  // namespace vhost
