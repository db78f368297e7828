// A network device under the messages of QEMU, in the orders of its versions: guests of two queue
// pairs that stop, pause, reboot and go on.
#include "tests/integration/net_fixture.hpp"
#include "tests/integration/qemu.hpp"

namespace integration {
namespace {

using vhost::Request;
using vhost::frontend::Buffer;
using vhost::frontend::Completion;
using vhost::frontend::NetHeader;
using vhost::frontend::Poll;

/// A guest's driver, with as much of virtio-net as it takes to tell frames apart.
class Machine {
 public:
  static constexpr std::uint32_t pairs = 2;

  Machine(const std::string& socket, std::uint8_t number, const QemuOptions& options)
      : mac{2, 0, 0, 0, 0, number}, qemu(socket, options) {
    for (std::uint32_t i = 0; i < pairs * buffers_each; ++i) {
      room_.push_back(must(qemu.memory().allocate(room_bytes)));
    }
    sending_ = must(qemu.memory().allocate(room_bytes));
  }

  void start() {
    qemu.start();
    for (std::uint64_t i = 0; i < room_.size(); ++i) {
      if (!posted_) post(i);
    }
    posted_ = true;
    for (std::uint32_t pair = 0; pair < pairs; ++pair) qemu.queue(2 * pair).kick();
  }
  void reboot() {
    qemu.stop();
    qemu.reset();
    posted_ = false;
    start();
  }

  /// A frame through a transmit queue; it has left when this returns.
  void send(const MacAddress& to, std::uint32_t pair, unsigned seed) {
    offer(to, pair, seed);
    auto& queue = qemu.queue(2 * pair + 1);
    Completion done;
    if (!eventually([&] { return queue.ring().poll(done) == Poll::done; })) {
      throw std::runtime_error("a frame was not taken");
    }
  }
  /// The same, and nobody looks whether it leaves.
  void offer(const MacAddress& to, std::uint32_t pair, unsigned seed) {
    auto& queue = qemu.queue(2 * pair + 1);
    const Bytes bytes = frame(mac, to, 100, seed);
    const NetHeader header{};
    std::memcpy(sending_.data, &header, sizeof header);
    std::memcpy(sending_.data + sizeof header, bytes.data(), bytes.size());
    const Segment whole = sending_.segment(0, sizeof header + 100);
    if (!queue.ring().add(std::span(&whole, 1), {}, 0)) throw std::runtime_error("ring is full");
    queue.submit();
  }
  void collect_sent(std::uint32_t pair) {
    Completion done;
    while (qemu.queue(2 * pair + 1).ring().poll(done) == Poll::done) continue;
  }
  /// The next frame, from whichever queue; empty if none comes.
  [[nodiscard]] Bytes receive(milliseconds time = long_wait) {
    Bytes bytes;
    (void)eventually(
        [&] {
          for (std::uint32_t pair = 0; pair < pairs && bytes.empty(); ++pair) bytes = take(pair);
          return !bytes.empty();
        },
        time);
    return bytes;
  }

  const MacAddress mac;
  Qemu qemu;

 private:
  using Segment = vhost::frontend::Segment;
  static constexpr std::uint32_t buffers_each = 16;
  static constexpr std::size_t room_bytes = 2048;

  void post(std::uint64_t index) {
    const Segment whole = room_[index].segment();
    auto& ring = qemu.queue(2 * static_cast<std::uint32_t>(index / buffers_each)).ring();
    if (!ring.add({}, std::span(&whole, 1), index)) throw std::runtime_error("the ring is full");
    qemu.queue(2 * static_cast<std::uint32_t>(index / buffers_each)).submit();
  }
  Bytes take(std::uint32_t pair) {
    Completion done;
    if (qemu.queue(2 * pair).ring().poll(done) != Poll::done) return {};
    const auto bytes = room_[done.cookie].bytes().first(done.written_bytes);
    Bytes frame(bytes.begin() + sizeof(NetHeader), bytes.end());
    post(done.cookie);
    return frame;
  }

  std::vector<Buffer> room_;
  Buffer sending_;
  bool posted_ = false;
};

struct Way {
  Version version;
  bool packed;
};

class QemuNet : public NetServed, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    serve({"--port", port("a", "queues=2"), "--port", port("b", "queues=2"), "--workers", "2"});
    const QemuOptions options{.version = GetParam().version,
                              .kind = Kind::net,
                              .rings = 2 * Machine::pairs,
                              .packed = GetParam().packed};
    a = std::make_unique<Machine>(socket("a"), 1, options);
    b = std::make_unique<Machine>(socket("b"), 2, options);
  }
  void expect_talk(unsigned seed) {
    for (std::uint32_t pair = 0; pair < Machine::pairs; ++pair) {
      a->send(b->mac, pair, seed + pair);
      EXPECT_EQ(b->receive(), frame(a->mac, b->mac, 100, seed + pair)) << pair;
      b->send(a->mac, pair, seed + pair);
      EXPECT_EQ(a->receive(), frame(b->mac, a->mac, 100, seed + pair)) << pair;
    }
  }
  std::unique_ptr<Machine> a, b;
};

TEST_P(QemuNet, TalksFromTheStartAndTellsItsStatus) {
  EXPECT_EQ(a->qemu.status(), 0U);
  a->start();
  b->start();
  EXPECT_EQ(a->qemu.status(), 0xfU);
  expect_talk(1);
  a->qemu.stop();
  EXPECT_EQ(a->qemu.status(), 0U);
}

TEST_P(QemuNet, GoesOnAfterAPauseWhereItWas) {
  a->start();
  b->start();
  for (unsigned round = 0; round < 20; ++round) {
    expect_talk(10 * round);
    Machine& one = round % 2 == 0 ? *a : *b;
    one.qemu.stop();
    one.start();
    EXPECT_EQ(one.qemu.status(), 0xfU);
  }
  expect_talk(7);
}

TEST_P(QemuNet, WhatCameWhileItPausedIsLostAndNothingElse) {
  a->start();
  b->start();
  expect_talk(1);
  b->qemu.stop();
  for (unsigned i = 0; i < 40; ++i) a->send(b->mac, 0, 100 + i);
  b->start();
  EXPECT_TRUE(b->receive(milliseconds(50)).empty());
  expect_talk(3);
}

TEST_P(QemuNet, WhatItHadOfferedBeforeAStopLeavesOnceItGoesOn) {
  a->start();
  b->start();
  expect_talk(1);
  for (unsigned round = 0; round < 20; ++round) {
    a->offer(b->mac, round % 2, 50 + round);
    a->qemu.stop();
    a->start();
    EXPECT_EQ(b->receive(), frame(a->mac, b->mac, 100, 50 + round)) << round;
    EXPECT_TRUE(eventually([&] {
      a->collect_sent(round % 2);
      return a->qemu.queue(2 * (round % 2) + 1).ring().outstanding() == 0;
    }));
  }
  EXPECT_TRUE(b->receive(milliseconds(50)).empty()) << "a frame left twice";
}

TEST_P(QemuNet, AfterARebootTheRingsBeginAnewInTheMemoryThatIsShared) {
  a->start();
  b->start();
  for (unsigned round = 0; round < 10; ++round) {
    expect_talk(10 * round);
    (round % 2 == 0 ? *a : *b).reboot();
  }
  expect_talk(5);
}

TEST_P(QemuNet, CallDescriptorsOutlastAReboot) {
  // They were told once, when it connected.
  a->start();
  b->start();
  a->reboot();
  expect_talk(1);
  std::uint64_t calls = 0;
  for (const std::uint32_t ring : {0U, 2U}) {
    (void)a->qemu.queue(ring).clear_call();
    ASSERT_FALSE(a->qemu.queue(ring).ring().arm_calls());
  }
  b->send(a->mac, 0, 9);
  EXPECT_TRUE(eventually([&] {
    for (const std::uint32_t ring : {0U, 2U}) calls += a->qemu.queue(ring).clear_call();
    return calls > 0;
  }));
  EXPECT_EQ(a->receive(), frame(b->mac, a->mac, 100, 9));
}

TEST_P(QemuNet, AResetOfRunningRingsDisturbsNoOther) {
  a->start();
  b->start();
  expect_talk(1);
  b->offer(a->mac, 0, 77);
  b->qemu.say_and_wait(Request::reset_device, std::span<const std::byte>{});
  EXPECT_EQ(b->qemu.status(), 0U);
  for (unsigned i = 0; i < 40; ++i) a->send(b->mac, 0, i);
  (void)a->receive(milliseconds(50));  // what b had offered may have left
  b->reboot();
  expect_talk(2);
}

INSTANTIATE_TEST_SUITE_P(
    Orders, QemuNet,
    ::testing::Values(Way{Version::qemu_7_2, false}, Way{Version::qemu_10, false},
                      Way{Version::qemu_7_2, true}, Way{Version::qemu_10, true}),
    [](const auto& way) {
      return std::string(way.param.version == Version::qemu_10 ? "Qemu10" : "Qemu72") +
             (way.param.packed ? "Packed" : "Split");
    });

}  // namespace
}  // namespace integration
