#include <mutex>
#include <thread>

#include "tests/unit/net/forwarding/switch_fixture.hpp"

namespace net::tests {
namespace {

constexpr unsigned ports = 4;

/// Checks frames as they come: those for its own station must be complete and in order.
class OrderedSink final : public Sink {
 public:
  explicit OrderedSink(unsigned own) : own_(station(own)) {}

  void deliver(std::span<Frame* const> frames, unsigned worker) override {
    const std::lock_guard lock(mutex_);
    for (const Frame* const frame : frames) {
      if (frame->field<MacAddress>(0) != own_) continue;
      if (frame->field<std::uint32_t>(14) != received[worker]++) ++wrong;
    }
  }
  void flush(unsigned) override {}

  std::array<std::uint32_t, ports> received{};  // from each sender; worker n serves port n
  unsigned wrong = 0;

 private:
  const MacAddress own_;
  std::mutex mutex_;
};

/// Whether a station is known, forgotten or just learned: every frame for it arrives, once, in
/// order.
TEST_F(SwitchTest, LosesAndTurnsNothingWhileWorkersLearnAndStationsAge) {
  std::deque<OrderedSink> ordered;
  for (unsigned i = 0; i < ports; ++i) {
    add_port();
    setups.back().sink = &ordered.emplace_back(i);
  }
  start({.workers = ports, .ageing_s = 1});
  constexpr unsigned bursts = 3000;
  std::atomic<unsigned> working = ports;
  {
    std::vector<std::jthread> workers;
    for (unsigned port = 0; port < ports; ++port) {
      workers.emplace_back([&, port] {
        auto burst = std::make_unique<Burst>();
        std::array<std::uint32_t, ports> sent{};
        for (unsigned i = 0; i < bursts; ++i) {
          for (unsigned k = 0; k < Burst::most; ++k) {
            const unsigned to = (port + 1 + (i + k / 8) % (ports - 1)) % ports;
            auto bytes = plain_frame(station(to), station(port));
            std::memcpy(bytes.data() + 14, &sent[to], sizeof sent[to]);
            ++sent[to];
            sources[port].add(std::move(bytes));
          }
          if (!sources[port].take(*burst)) continue;
          subject->forward(sources[port], burst->taken(), port);
          subject->flush(port);
          sources[port].release();
        }
        --working;
      });
    }
    for (unsigned round = 1; working != 0; ++round) age_after(2 * round);
  }
  for (unsigned to = 0; to < ports; ++to) {
    EXPECT_EQ(ordered[to].wrong, 0U);
    for (unsigned from = 0; from < ports; ++from) {
      const std::uint32_t expected = from == to ? 0 : bursts * Burst::most / (ports - 1);
      EXPECT_EQ(ordered[to].received[from], expected);
    }
  }
}

}  // namespace
}  // namespace net::tests
