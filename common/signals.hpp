#pragma once
#include <initializer_list>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace common {

/// Turns signals from interruptions into something to read: blocks them and gives a signalfd
/// (non-blocking, close-on-exec) that the control thread polls. SIGPIPE is ignored: a front-end
/// that is gone is an EPIPE.
///
/// Call it first in main(): threads inherit the mask, and one that did not would be killed by the
/// signal. A second signal while the daemon ends waits in the descriptor, too.
[[nodiscard]] vhost::Result<vhost::UniqueFd> catch_signals(std::initializer_list<int> wanted);

/// SIGTERM and SIGINT: the process is to end.
[[nodiscard]] vhost::Result<vhost::UniqueFd> catch_end_signals();

/// The number of a signal that has arrived, 0 if none has.
[[nodiscard]] int next_signal(const vhost::UniqueFd& signals);

}  // namespace common
