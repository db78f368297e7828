#pragma once
#include <functional>

#include "tools/vhost_bench/net_lane.hpp"

/*
 * One thread that sends and receives frames as fast as the back-end lets it.
 *
 * Turn after turn every sender and every receiver moves a batch; nothing ever waits or sleeps.
 * What is counted is what the back-end did: frames it took (transmit), or that arrived.
 *
 * A window bounds the frames that are on their way, so that none needs to be dropped. If nothing
 * arrives for 20 ms, what was on its way counts as lost, and the window is free again.
 *
 * The run has a warm-up and a number of measured rounds; then it waits for what is still on its
 * way, until nothing has come for 100 ms, and the rest is lost.
 */
namespace bench {

struct NetRound {
  double seconds = 0;
  std::uint64_t frames = 0;
  std::uint64_t bytes = 0;  ///< of these frames, without virtio-net headers
};

struct NetResult {
  std::vector<NetRound> rounds;
  std::uint64_t sent = 0;      ///< the whole run
  std::uint64_t received = 0;  ///< the whole run
  std::uint64_t lost = 0;      ///< sent and not received (transmit: not taken)
  std::uint64_t foreign = 0;   ///< received, and of another length than ours
  std::uint64_t kicks = 0;     ///< within the rounds, as calls
  std::uint64_t calls = 0;
  /// The share of turns, within the rounds, in which nothing could be sent and nothing had come. If
  /// there are none, the generator may be what is slow.
  double idle = 0;
  const char* broken = nullptr;  ///< why a ring broke
};

struct NetHooks {
  /// Called at the start of the first round and at the end of the last.
  std::function<void()> begin, end;
  /// True: end now. Asked some hundred times a second at least.
  std::function<bool()> interrupted;
  /// Called each turn: the device, where it is part of the program (--calibrate).
  std::function<void()> device;
};

class NetGenerator {
 public:
  NetGenerator(const NetPlan& plan, std::vector<Sender> senders, std::vector<Receiver> receivers,
               NetHooks hooks)
      : plan_(plan),
        senders_(std::move(senders)),
        receivers_(std::move(receivers)),
        hooks_(std::move(hooks)) {}

  [[nodiscard]] NetResult run();

 private:
  using Clock = std::chrono::steady_clock;

  void run_until(Clock::time_point end);
  bool turn();
  [[nodiscard]] std::uint32_t budget() const;
  void look(Clock::time_point now);
  void drain();
  [[nodiscard]] NetRound totals() const;
  [[nodiscard]] std::uint64_t started() const;
  [[nodiscard]] std::uint64_t received() const;
  [[nodiscard]] vhost::frontend::QueueCounters queue_counters();
  void finish(NetResult& result);

  const NetPlan& plan_;
  std::vector<Sender> senders_;
  std::vector<Receiver> receivers_;
  NetHooks hooks_;
  std::uint64_t forgotten_ = 0;      // given up by the window
  std::uint64_t last_received_ = 0;  // when look() looked
  Clock::time_point last_arrival_{};
  std::uint64_t turns_ = 0;
  std::uint64_t idle_turns_ = 0;
  bool sending_ = true;
  bool stopped_ = false;
};

}  // namespace bench
