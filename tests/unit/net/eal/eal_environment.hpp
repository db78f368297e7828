#pragma once
#include <rte_eal.h>

#include <array>

#include <gtest/gtest.h>

namespace net::tests {

/// Starts DPDK's environment once for all tests of the process that ask for it: 64 MiB of ordinary
/// memory, no devices, no files.
inline void need_eal() {
  static const int started = [] {
    std::array<std::string, 7> words{"net_tests",        "--no-huge",   "-m64",
                                     "--no-pci",         "--no-shconf", "--no-telemetry",
                                     "--log-level=error"};
    std::array<char*, words.size()> arguments;
    for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
    return rte_eal_init(static_cast<int>(arguments.size()), arguments.data());
  }();
  ASSERT_GE(started, 0);
}

}  // namespace net::tests
