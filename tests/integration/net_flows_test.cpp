// Streams through several queues and workers, and what a daemon with guests costs when none of them
// has anything to say.
#include <thread>

#include "tests/integration/net_stream.hpp"

namespace integration {
namespace {

using vhost::Request;
using vhost::VringState;
using NetFlows = NetServed;

/// Turns again and again on a thread of its own, until destroyed.
template <class Turning>
[[nodiscard]] std::jthread keep_turning(Turning& turning) {
  return std::jthread([&turning](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      if (!turning.turn()) ::usleep(50);
    }
  });
}

/// Numbers that came more than once, over all sinks.
std::size_t duplicates(const std::vector<std::unique_ptr<StreamSink>>& sinks) {
  std::map<std::uint32_t, std::vector<std::uint32_t>> all;
  for (const auto& sink : sinks) {
    for (const auto& [flow, numbers] : sink->numbers) {
      all[flow].insert(all[flow].end(), numbers.begin(), numbers.end());
    }
  }
  std::size_t count = 0;
  for (auto& [flow, numbers] : all) {
    std::ranges::sort(numbers);
    count += static_cast<std::size_t>(std::ranges::distance(std::ranges::unique(numbers)));
  }
  return count;
}

TEST_F(NetFlows, StayInOrderWhileAPairStopsAndStarts) {
  serve({"--port", port("a", "queues=2"), "--port", port("b", "queues=2"), "--workers", "2"});
  NetOptions options;
  options.pairs = 2;
  Station a = guest("a", 1, options);
  Station b = guest("b", 2, options);
  b.send(a.mac);  // the switch knows it

  std::vector<std::unique_ptr<StreamSource>> sources;
  std::vector<std::unique_ptr<StreamSink>> sinks;
  for (std::uint32_t pair = 0; pair < 2; ++pair) {
    sources.push_back(std::make_unique<StreamSource>(a, pair, b.mac, 16 * pair, 16));
    sinks.push_back(std::make_unique<StreamSink>(b, pair));
  }
  auto& connection = b->device().connection();
  {
    std::vector<std::jthread> threads;
    for (const auto& sink : sinks) threads.push_back(keep_turning(*sink));
    for (const auto& source : sources) threads.push_back(keep_turning(*source));
    for (int round = 0; round < 40; ++round) {
      for (const std::uint32_t ring : {2U, 3U}) {
        must(
            connection.tell(Request::set_vring_enable, VringState{ring, round % 2 == 0 ? 0U : 1U}));
      }
      ::usleep(20'000);
    }
    const std::uint64_t before = sinks[1]->received;
    EXPECT_TRUE(eventually([&] { return sinks[1]->received > before; })) << "it started again";
    threads.resize(2);  // first the sources end
    ::usleep(50'000);
  }
  for (const auto& sink : sinks) {
    EXPECT_GT(sink->received, 1000U);
    EXPECT_EQ(sink->garbled, 0U);
    EXPECT_EQ(sink->out_of_order, 0U);
  }
  EXPECT_EQ(duplicates(sinks), 0U);
  const auto told = read_stats(stats);
  for (const auto& queue : told["ports"][0]["queues"]) {
    EXPECT_GT(queue["from_guest"]["frames"], 1000U) << "both workers' pairs sent";
  }
}

class NetIdle : public NetServed {
 protected:
  static constexpr int nothing_ms = 30;
  /// 200 pauses of 5 ms in a second; a machine may take 100 microseconds to wake up for one.
  static constexpr int pauses_ms = 100;

  /// CPU time of the daemon in three seconds without a frame, after a lot of them.
  void expect_idle(int most_ms, const Strings& flags) {
    if (sanitized) GTEST_SKIP() << "a sanitizer's threads run";
    interval = "1";
    Strings all{"--port", port("a"), "--port", port("b")};
    all.insert(all.end(), flags.begin(), flags.end());
    serve(all);
    Station a = guest("a", 1);
    Station b = guest("b", 2);
    b.send(a.mac);
    StreamSource source(a, 0, b.mac, 0, 4);
    StreamSink sink(b, 0);
    {
      const std::jthread receiver = keep_turning(sink);
      const std::jthread sender = keep_turning(source);
      ::usleep(300'000);
    }
    ASSERT_GT(sink.received, 1000U);
    (void)source.turn();
    ::usleep(200'000);
    // Whoever does not sleep spends all of the three seconds.
    if (emulated) most_ms = 1000;
    milliseconds spent{0};
    for (int attempt = 0; attempt < 3; ++attempt) {  // a crowded machine makes waking up dear
      const auto before = daemon->cpu_time();
      ::usleep(3'000'000);
      spent = daemon->cpu_time() - before;
      if (spent.count() < most_ms) break;
    }
    EXPECT_LT(spent.count(), most_ms);
    (void)source.turn();
    EXPECT_TRUE(eventually([&] { return sink.turn(); })) << "and it wakes up";
  }
};

TEST_F(NetIdle, GuestsThatSayNothingCostNothing) {
  expect_idle(nothing_ms, {});
}

TEST_F(NetIdle, AnUplinkWithoutInterruptsCostsLittle) {
  expect_idle(pauses_ms, {"--uplink", "net_null0,no-rx=1"});
}

TEST_F(NetIdle, SeveralWorkersThatHaveNothingToDoCostNothing) {
  expect_idle(nothing_ms, {"--workers", "2"});
}

}  // namespace
}  // namespace integration
