#pragma once
#include <poll.h>

#include <atomic>
#include <thread>

#include "tests/integration/layout.hpp"
#include "tests/integration/net_fixture.hpp"
#include "tests/integration/raw_ring.hpp"

/*
 * Drivers and front-ends that mean harm, on port a. Meanwhile two decent guests, on b and c, send
 * each other frames and look at every byte; a third, on d, sends to the victim whatever a test
 * wants. After each test the daemon runs, the two were served all the time, a fresh guest on a is,
 * too, and the daemon has as many descriptors as before.
 */
namespace integration {

using vhost::frontend::Buffer;
using vhost::frontend::NetHeader;
using vhost::frontend::Segment;

/// A thread in which one guest sends another frames, one at a time.
class Chat {
 public:
  Chat(Station& from, Station& to)
      : thread_([&](const std::stop_token& stop) {
          for (unsigned round = 0; !stop.stop_requested(); ++round) say(from, to, round);
        }) {}

  [[nodiscard]] std::uint64_t delivered() const { return delivered_; }
  [[nodiscard]] std::uint64_t garbled() const { return garbled_; }
  /// So many frames more arrive.
  [[nodiscard]] bool goes_on(std::uint64_t frames = 50) const {
    const std::uint64_t before = delivered_;
    return eventually([&] { return delivered_ >= before + frames; });
  }

 private:
  void say(Station& from, Station& to, unsigned round) {
    const std::size_t bytes = 64 + round % 1400;
    if (!from->send(frame(from.mac, to.mac, bytes, round))) return;
    while (const auto received = to->receive(milliseconds(200) * slowness)) {
      // A frame of somebody else's, to one whom the switch does not know.
      if (!std::ranges::equal(std::as_bytes(std::span(from.mac)),
                              std::span(received->bytes).subspan(6, 6))) {
        continue;
      }
      (received->bytes == frame(from.mac, to.mac, bytes, round) ? delivered_ : garbled_) += 1;
      return;
    }
  }

  std::atomic<std::uint64_t> delivered_ = 0;
  std::atomic<std::uint64_t> garbled_ = 0;
  std::jthread thread_;
};

class NetHostile : public NetServed {
 protected:
  static constexpr std::uint16_t ring_size = 16;

  void SetUp() override {
    serve({"--port", port("a", "queues=2"), "--port", port("b"), "--port", port("c"), "--port",
           port("d"), "--log-level", "error", "--storm-limit", "0"});
    d = std::make_unique<Station>(connect(socket("d")), 4);
    b_ = std::make_unique<Station>(connect(socket("b")), 2);
    c_ = std::make_unique<Station>(connect(socket("c")), 3);
    c_->send(everybody);  // from now on the switch knows where it is
    works();
    calm_ = quiet_descriptors();
    chat = std::make_unique<Chat>(*b_, *c_);
    EXPECT_TRUE(chat->goes_on(1));
  }
  void TearDown() override {
    ASSERT_TRUE(daemon->running()) << daemon->words();
    EXPECT_TRUE(chat->goes_on()) << "the others were not served";
    EXPECT_EQ(chat->garbled(), 0U);
    ASSERT_NO_THROW(works()) << daemon->words();
    EXPECT_TRUE(eventually([&] { return daemon->descriptors() <= calm_; }))
        << daemon->descriptors() << " descriptors instead of " << calm_;
  }

  /// How the victim's driver is made.
  [[nodiscard]] virtual NetOptions rings() const { return {}; }
  /// Rings of few descriptors, so that all of them can be looked at.
  [[nodiscard]] NetOptions small(std::uint16_t buffers = 0) const {
    NetOptions options = rings();
    options.queue.ring = {.size = ring_size};
    options.buffers = buffers;
    return options;
  }
  [[nodiscard]] Station victim(const NetOptions& options) { return guest("a", 1, options); }

  /// A guest on a and the one on d hear each other, in both directions.
  void expect_talk(Station& a) const {
    for (Station* const station : {&a, d.get()}) {  // what came before is in the way
      while ((*station)->receive(milliseconds(0))) {
      }
    }
    // First d: a victim may have sent what it had received, and the switch takes it for d since.
    d->send(a.mac, 1400, 2);
    EXPECT_TRUE(hears(a, frame(d->mac, a.mac, 1400, 2)));
    a.send(d->mac, 700, 1);
    EXPECT_TRUE(hears(*d, frame(a.mac, d->mac, 700, 1)));
  }
  /// This frame comes, after whatever came before it.
  [[nodiscard]] static bool hears(Station& station, const Bytes& expected) {
    while (const auto received = station->receive(milliseconds(2000) * slowness)) {
      if (received->bytes == expected) return true;
    }
    return false;
  }
  /// A device reset; the same driver then starts with a ring that is in order.
  void expect_revival(Station& a) const {
    (void)a->detach();
    must(a->device().reset());
    must(a->start());
    expect_talk(a);
  }

  /// What port a has counted.
  [[nodiscard]] std::uint64_t counted(const char* direction, const char* key) const {
    return of_all_queues([&](const nlohmann::json& queue) { return queue[direction][key]; });
  }
  [[nodiscard]] std::uint64_t dropped(const char* direction, const char* why) const {
    return of_all_queues(
        [&](const nlohmann::json& queue) { return queue[direction]["drops"][why]; });
  }
  /// Waits for a drop of that name behind `before`.
  [[nodiscard]] bool drops_more(const char* direction, const char* why,
                                std::uint64_t before) const {
    return eventually([&] { return dropped(direction, why) > before; });
  }

  std::unique_ptr<Station> d;

 private:
  void works() {
    Station a = victim(rings());
    expect_talk(a);
  }
  template <class Value>
  [[nodiscard]] std::uint64_t of_all_queues(Value value) const {
    std::uint64_t sum = 0;
    const nlohmann::json told = up_to_date();
    for (const auto& queue : told["ports"][0]["queues"]) {
      sum += value(queue).template get<std::uint64_t>();
    }
    return sum;
  }
  /// Statistics of which no number is older than this call.
  [[nodiscard]] nlohmann::json up_to_date() const {
    nlohmann::json told = read_stats(stats);
    for (int writing = 0; writing < 2; ++writing) {
      const nlohmann::json before = told["uptime_ms"];
      told = stats_when(stats, [&](const auto& now) { return now["uptime_ms"] != before; });
    }
    return told;
  }
  /// Once the session of the last connection is gone.
  [[nodiscard]] std::size_t quiet_descriptors() const {
    (void)stats_when(stats,
                     [](const auto& now) { return !now["ports"][0]["connection"]["connected"]; });
    return daemon->descriptors();
  }

  std::unique_ptr<Station> b_, c_;
  std::size_t calm_ = 0;

 protected:
  std::unique_ptr<Chat> chat;  ///< ends before its guests
};

/// The same where the victim's rings are of either layout.
class AnyNetHostile : public NetHostile, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] NetOptions rings() const override { return on_rings(GetParam()); }
};

}  // namespace integration
