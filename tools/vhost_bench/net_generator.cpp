#include "tools/vhost_bench/net_generator.hpp"

#include <algorithm>
#include <numeric>

namespace bench {
namespace {

using std::chrono::milliseconds;

constexpr unsigned turns_between_looks = 256;  // at the clock
constexpr milliseconds window_patience{20};
constexpr milliseconds drain_patience{100};

}  // namespace

NetResult NetGenerator::run() {
  last_arrival_ = Clock::now();
  run_until(Clock::now() + plan_.warmup);

  NetResult result;
  const auto queues_before = queue_counters();
  turns_ = idle_turns_ = 0;
  if (hooks_.begin) hooks_.begin();
  for (unsigned i = 0; i < plan_.rounds && !stopped_; ++i) {
    const NetRound before = totals();
    const auto start = Clock::now();
    run_until(start + plan_.duration);
    const NetRound after = totals();
    const std::chrono::duration<double> took = Clock::now() - start;
    result.rounds.push_back(
        {took.count(), after.frames - before.frames, after.bytes - before.bytes});
  }
  if (hooks_.end) hooks_.end();
  if (turns_ > 0) result.idle = static_cast<double>(idle_turns_) / static_cast<double>(turns_);
  const auto queues_after = queue_counters();
  result.kicks = queues_after.kicks - queues_before.kicks;
  result.calls = queues_after.calls - queues_before.calls;
  drain();
  finish(result);
  return result;
}

void NetGenerator::run_until(Clock::time_point end) {
  while (!stopped_) {
    for (unsigned i = 0; i < turns_between_looks; ++i) idle_turns_ += turn() ? 0 : 1;
    turns_ += turns_between_looks;
    const auto now = Clock::now();
    look(now);
    if (now >= end) return;
  }
}

/// Everybody moves a batch. True if anything moved.
bool NetGenerator::turn() {
  bool moved = false;
  for (Sender& sender : senders_) moved |= sender.turn(budget());
  for (Receiver& receiver : receivers_) moved |= receiver.turn();
  if (hooks_.device) hooks_.device();
  return moved;
}

/// How many frames more may be on their way.
std::uint32_t NetGenerator::budget() const {
  if (!sending_) return 0;
  if (plan_.window == 0 || receivers_.empty()) return net_batch;
  // Late ones may arrive that were given up already.
  const auto on_their_way = static_cast<std::int64_t>(started() - forgotten_ - received());
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(plan_.window - on_their_way, 0, net_batch));
}

/// What need not be looked at in each turn.
void NetGenerator::look(Clock::time_point now) {
  stopped_ |= hooks_.interrupted && hooks_.interrupted();
  for (const Sender& sender : senders_) stopped_ |= sender.broken();
  for (const Receiver& receiver : receivers_) stopped_ |= receiver.broken();
  if (received() != last_received_) {
    last_received_ = received();
    last_arrival_ = now;
  } else if (plan_.window != 0 && now - last_arrival_ > window_patience) {
    forgotten_ = started() - received();
    last_arrival_ = now;
  }
}

void NetGenerator::drain() {
  sending_ = false;
  auto last_move = Clock::now();
  while (Clock::now() - last_move < drain_patience) {
    if (plan_.mode == NetMode::receive) return;  // that source never ends
    if (turn()) last_move = Clock::now();
    const bool out = std::ranges::any_of(
        senders_, [](const Sender& sender) { return sender.outstanding() > 0; });
    if (!out && (receivers_.empty() || received() >= started())) return;
    if (hooks_.interrupted && hooks_.interrupted()) return;
  }
}

/// What has arrived, or without receivers been taken.
NetRound NetGenerator::totals() const {
  NetRound sum;
  for (const Receiver& receiver : receivers_) {
    sum.frames += receiver.frames();
    sum.bytes += receiver.bytes();
  }
  if (!receivers_.empty()) return sum;
  for (const Sender& sender : senders_) sum.frames += sender.done();
  sum.bytes = sum.frames * plan_.frame_bytes;
  return sum;
}

std::uint64_t NetGenerator::started() const {
  std::uint64_t sum = 0;
  for (const Sender& sender : senders_) sum += sender.started();
  return sum;
}

std::uint64_t NetGenerator::received() const {
  std::uint64_t sum = 0;
  for (const Receiver& receiver : receivers_) sum += receiver.frames();
  return sum;
}

vhost::frontend::QueueCounters NetGenerator::queue_counters() {
  vhost::frontend::QueueCounters sum;
  const auto add = [&sum](vhost::frontend::Queue& queue) {
    queue.clear_call();  // a polling driver has not looked yet
    sum.kicks += queue.counters().kicks;
    sum.calls += queue.counters().calls;
  };
  for (Sender& sender : senders_) add(sender.queue().from_guest());
  for (Receiver& receiver : receivers_) add(receiver.queue().to_guest());
  return sum;
}

void NetGenerator::finish(NetResult& result) {
  result.sent = started();
  result.received = received();
  for (Receiver& receiver : receivers_) {
    result.foreign += receiver.foreign();
    if (receiver.broken()) result.broken = receiver.queue().broken_because();
  }
  std::uint64_t taken = 0;
  for (Sender& sender : senders_) {
    taken += sender.done();
    if (sender.broken()) result.broken = sender.queue().from_guest().ring().broken_because();
  }
  if (!plan_.sends()) return;
  const std::uint64_t arrived = plan_.receives() ? result.received - result.foreign : taken;
  result.lost = result.sent > arrived ? result.sent - arrived : 0;
}

}  // namespace bench
