#pragma once
#include <dirent.h>

#include <gtest/gtest.h>

#include "tests/fakes/fake_device.hpp"
#include "tests/fakes/fake_frontend.hpp"

namespace vhost::tests {

using fakes::FakeDevice;
using fakes::FakeFrontend;
using fakes::FakeSplitDriver;
using fakes::GuestMemory;
using fakes::Outcome;

inline std::size_t open_fds() {
  std::size_t count = 0;
  DIR* const folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

/// A session, its front-end, a device, and a driver with a ring in the guest's memory.
class SessionTest : public testing::Test {
 protected:
  void negotiate() { frontend_.negotiate(); }

  /// Everything that ring `index` needs to run.
  void start(std::uint32_t index, std::uint32_t base = 0) {
    ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
    configure(index, base);
    ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, index, kick_), Outcome::done);
    ASSERT_EQ(frontend_.enable(index, 1), Outcome::done);
    ASSERT_EQ(device_.running.count(static_cast<std::uint16_t>(index)), 1u);
  }
  void configure(std::uint32_t index, std::uint32_t base = 0) {
    if (base != 0) driver_.start_at(static_cast<std::uint16_t>(base));
    ASSERT_EQ(frontend_.num(index, 8), Outcome::done);
    ASSERT_EQ(frontend_.addr(index, driver_.setup()), Outcome::done);
    ASSERT_EQ(frontend_.base(index, base), Outcome::done);
  }

  FakeDevice device_;
  FakeFrontend frontend_{device_};
  GuestMemory memory_;
  FakeSplitDriver driver_{memory_, {.size = 8, .event_idx = true}};
  UniqueFd kick_ = FakeFrontend::event();
  UniqueFd call_ = FakeFrontend::event();
};

}  // namespace vhost::tests
