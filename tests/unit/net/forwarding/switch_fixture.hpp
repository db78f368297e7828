#pragma once
#include <deque>

#include <gtest/gtest.h>

#include "backends/net/forwarding/switch.hpp"
#include "common/spin.hpp"
#include "tests/unit/net/eal/eal_environment.hpp"
#include "tests/unit/net/forwarding/fake_sink.hpp"
#include "tests/unit/net/forwarding/fake_source.hpp"
#include "tests/unit/net/frame/ethernet.hpp"

namespace net::tests {

/// A switch with fake ports, driven by hand.
class SwitchTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(need_eal()); }

  void add_port(VlanPolicy vlan = VlanPolicy::transparent(), Guard guard = {}) {
    sources.emplace_back(PortId{static_cast<std::uint16_t>(sources.size())});
    setups.push_back({.name = "port" + std::to_string(setups.size()),
                      .sink = &sinks.emplace_back(),
                      .vlan = vlan,
                      .guard = std::move(guard),
                      .capture = nullptr});
  }
  void start(const SwitchOptions& options = {}) {
    auto made = Switch::create(std::move(setups), options);
    ASSERT_TRUE(made) << made.error().what;
    subject = std::move(*made);
    subject->age(start_ns);
  }
  /// A switch with so many transparent ports.
  void start_with(unsigned ports, const SwitchOptions& options = {}) {
    for (unsigned i = 0; i < ports; ++i) add_port();
    start(options);
  }

  /// One burst in through a port.
  void send(unsigned port, const std::vector<Bytes>& frames, unsigned worker = 0) {
    for (const Bytes& frame : frames) sources[port].add(frame);
    auto burst = std::make_unique<Burst>();
    ASSERT_TRUE(sources[port].take(*burst));
    subject->forward(sources[port], burst->taken(), worker);
    sources[port].release();
  }
  void send(unsigned port, const Bytes& frame) { send(port, std::vector<Bytes>{frame}); }
  /// The switch hears station n on the port: in a frame to itself, which goes nowhere.
  void hear(unsigned port, unsigned n) { send(port, plain_frame(station(n), station(n))); }
  void age_after(std::uint64_t seconds) { subject->age(start_ns + seconds * 1'000'000'000); }

  const std::uint64_t start_ns = common::now_ns();
  std::deque<FakeSink> sinks;
  std::deque<FakeSource> sources;
  std::vector<PortSetup> setups;
  std::unique_ptr<Switch> subject;
};

using Frames = std::vector<Bytes>;

}  // namespace net::tests
