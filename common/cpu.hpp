#pragma once
#include <pthread.h>

#include <string_view>
#include <vector>

#include "libvhost/wire/error.hpp"

namespace common {

/// The CPUs that the calling thread may run on, ascending. In main(), before anything is pinned,
/// that is what taskset, a cpuset or CPUAffinity= left to the process.
[[nodiscard]] vhost::Result<std::vector<unsigned>> allowed_cpus();

/// Refuses `cpus` if it names one that is not in `allowed`: pinning a thread to it would fail, or
/// leave it where it is. The sentence has no option's name in front.
[[nodiscard]] vhost::Result<void> check_cpus(const std::vector<unsigned>& cpus,
                                             const std::vector<unsigned>& allowed);

/// Lets `thread` run on these CPUs only. Refuses, and changes nothing, if `cpus` is empty or the
/// kernel has none of them. Any thread.
[[nodiscard]] vhost::Result<void> pin_thread(pthread_t thread, const std::vector<unsigned>& cpus);

/// Names the calling thread, for ps and top; cut to the 15 bytes that the kernel keeps.
void name_this_thread(std::string_view name);

}  // namespace common
