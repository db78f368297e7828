// Ports that come and go.
#include <filesystem>
#include <thread>

#include <gmock/gmock.h>

#include "common/mailbox.hpp"
#include "tests/unit/common/temp_folder.hpp"
#include "tests/unit/net/forwarding/switch_fixture.hpp"

namespace net::tests {
namespace {

Bytes frame(unsigned to, unsigned from, unsigned mark = 0, std::initializer_list<Tag> tags = {}) {
  return plain_frame(station(to), station(from), mark, tags);
}
Bytes to_all(unsigned from, unsigned mark = 0) {
  return plain_frame(broadcast, station(from), mark);
}

PortSetup with_sink(Sink& sink) {
  PortSetup setup;
  setup.name = "new";
  setup.sink = &sink;
  return setup;
}

class SwitchPortsTest : public SwitchTest {
 protected:
  /// So many ports, and room for others.
  void start_with_room(unsigned ports, std::size_t places, SwitchOptions options = {}) {
    options.places = places;
    workers = options.workers;
    start_with(ports, options);
    for (FakeSink& sink : sinks) sink_of.push_back(&sink);
  }
  void all_take_note() {
    for (unsigned worker = 0; worker < workers; ++worker) subject->take_note(worker);
  }
  /// A new port with a sink of its own.
  unsigned come(VlanPolicy vlan = VlanPolicy::transparent(),
                std::unique_ptr<Capture> capture = nullptr, Guard guard = {}) {
    FakeSink& sink = sinks.emplace_back();
    PortSetup setup = with_sink(sink);
    setup.vlan = vlan;
    setup.guard = std::move(guard);
    setup.capture = std::move(capture);
    const PortId place = subject->add(std::move(setup));
    const unsigned port = std::to_underlying(place);
    sink_of.resize(std::max<std::size_t>(sink_of.size(), port + 1));
    sink_of[port] = &sink;
    while (sources.size() <= port) {
      sources.emplace_back(PortId{static_cast<std::uint16_t>(sources.size())});
    }
    all_take_note();
    return port;
  }
  void go(unsigned port) {
    subject->withdraw(id(port));
    all_take_note();
    subject->erase(id(port));
  }
  Frames received(unsigned port) { return sink_of[port]->take(); }
  static PortId id(unsigned port) { return PortId{static_cast<std::uint16_t>(port)}; }

  unsigned workers = 1;
  std::vector<FakeSink*> sink_of;  // by port
};

TEST_F(SwitchPortsTest, ANewPortHearsWhatIsForAll) {
  start_with_room(2, 3);
  EXPECT_EQ(come(), 2U);
  send(0, to_all(1));
  EXPECT_EQ(received(1), Frames{to_all(1)});
  EXPECT_EQ(received(2), Frames{to_all(1)});
  EXPECT_THAT(subject->members(), testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(subject->name(id(2)), "new");
}

TEST_F(SwitchPortsTest, ANewPortsStationsAreLearned) {
  start_with_room(2, 3);
  const unsigned port = come();
  hear(port, 9);
  send(0, frame(9, 1));
  EXPECT_EQ(received(port), Frames{frame(9, 1)});
  EXPECT_TRUE(received(1).empty());
  EXPECT_EQ(subject->station_count(id(port)), 1U);
}

TEST_F(SwitchPortsTest, AWorkerKnowsAPortWhenItHasTakenNote) {
  start_with_room(2, 3, {.workers = 2});
  FakeSink& sink = sinks.emplace_back();
  (void)subject->add(with_sink(sink));
  subject->take_note(1);
  send(0, {to_all(1)}, 0);
  EXPECT_TRUE(sink.take().empty());
  send(0, {to_all(1)}, 1);
  EXPECT_EQ(sink.take().size(), 1U);
}

TEST_F(SwitchPortsTest, ARemovedPortGetsNothing) {
  start_with_room(3, 3);
  hear(2, 9);
  go(2);
  send(0, {to_all(1), frame(9, 1)});
  EXPECT_TRUE(received(2).empty());
  EXPECT_EQ(received(1), (Frames{to_all(1), frame(9, 1)})) << "its station is known no more";
  EXPECT_THAT(subject->members(), testing::ElementsAre(0, 1));
}

TEST_F(SwitchPortsTest, AllButTheRemovedPortsStationsStayKnown) {
  start_with_room(3, 3);
  for (unsigned n = 0; n < 100; ++n) {
    hear(1, 100 + n);
    hear(2, 200 + n);
  }
  go(2);
  EXPECT_EQ(subject->stations(1000).size(), 100U);
  EXPECT_EQ(subject->station_count(id(1)), 100U);
  EXPECT_EQ(subject->station_count(id(2)), 0U);
}

TEST_F(SwitchPortsTest, AStationThatHasMovedAwayBeforeStaysKnown) {
  start_with_room(4, 4);
  hear(2, 9);
  hear(1, 9);
  go(2);
  send(0, frame(9, 1));
  EXPECT_EQ(received(1), Frames{frame(9, 1)});
  EXPECT_TRUE(received(3).empty());
}

/// What a worker remembers of the last frame says where its station was.
TEST_F(SwitchPortsTest, APlacesNewOwnerGetsNothingThatWasForTheOldOne) {
  start_with_room(3, 3, {.workers = 2});
  hear(2, 9);
  for (unsigned worker = 0; worker < 2; ++worker) send(0, {frame(9, 1)}, worker);
  EXPECT_EQ(received(2).size(), 2U);
  go(2);
  ASSERT_EQ(come(), 2U);
  for (unsigned worker = 0; worker < 2; ++worker) {
    send(0, {frame(9, 1)}, worker);
    EXPECT_EQ(received(1).size(), 1U) << "it is flooded, for nobody knows the station";
    EXPECT_EQ(received(2).size(), 1U);
  }
}

/// Its predecessor's last frame must not speak for its first one, whether it was learned or not.
TEST_F(SwitchPortsTest, APlacesNewOwnerIsHeardAtOnce) {
  start_with_room(3, 3, {.stations_per_port = 1});
  hear(2, 8);
  send(2, frame(1, 9));  // not learned: the share is full
  EXPECT_EQ(subject->not_learned(id(2)), 1U);
  go(2);
  EXPECT_EQ(subject->not_learned(id(2)), 0U);
  ASSERT_EQ(come(), 2U);
  EXPECT_EQ(subject->station_count(id(2)), 0U);
  send(2, frame(1, 9));
  EXPECT_EQ(subject->station_count(id(2)), 1U);
  EXPECT_EQ(subject->stations(2)[0].mac, station(9));
}

TEST_F(SwitchPortsTest, TheFirstFreePlaceIsTaken) {
  start_with_room(4, 5);
  go(3);
  go(1);
  EXPECT_EQ(come(), 1U);
  EXPECT_EQ(come(), 3U);
  EXPECT_EQ(come(), 4U);
  EXPECT_THAT(subject->members(), testing::ElementsAre(0, 1, 2, 3, 4));
  send(4, to_all(5));
  for (unsigned port = 0; port < 4; ++port) EXPECT_EQ(received(port).size(), 1U) << port;
}

TEST_F(SwitchPortsTest, MayAllGoAndComeAgain) {
  start_with_room(2, 2);
  for (int round = 0; round < 3; ++round) {
    go(0);
    go(1);
    EXPECT_TRUE(subject->members().empty());
    ASSERT_EQ(come(), 0U);
    send(0, to_all(1));
    EXPECT_EQ(sources[0].dropped(Drop::nowhere), static_cast<unsigned>(round) + 1);
    ASSERT_EQ(come(), 1U);
    send(0, to_all(1));
    EXPECT_EQ(received(1).size(), 1U);
  }
}

/// Each port fills its share each time; a position that is not given back is missed soon.
TEST_F(SwitchPortsTest, AddressesOfRemovedPortsAreRoomForOthers) {
  start_with_room(2, 2, {.stations_per_port = 64});
  for (unsigned round = 0; round < 20; ++round) {
    for (unsigned n = 0; n < 64; ++n) hear(1, 1000 * round + n);
    EXPECT_EQ(subject->station_count(id(1)), 64U) << round;
    go(1);
    ASSERT_EQ(come(), 1U);
  }
}

TEST_F(SwitchPortsTest, TheFirstVlanComesWithItsPortAndGoesWithIt) {
  start_with_room(2, 4);
  const auto tagged = frame(9, 1, 0, {{5}});
  const unsigned port = come(VlanPolicy::access(5));
  send(0, {tagged, to_all(1)});
  EXPECT_EQ(received(port), Frames{frame(9, 1)}) << "of its own VLAN, without the tag";
  hear(1, 9);
  send(1, plain_frame(station(9), station(9), 0, {{6}}));
  (void)received(1);
  (void)received(0);
  go(port);
  send(0, {tagged, to_all(1)});
  EXPECT_EQ(received(1), (Frames{tagged, to_all(1)}));
  EXPECT_TRUE(received(port).empty());
}

TEST_F(SwitchPortsTest, ANewPortsGuardIsItsOwn) {
  start_with_room(3, 3);
  send(2, frame(1, 7));
  EXPECT_EQ(received(0).size(), 1U);
  go(2);
  ASSERT_EQ(come(VlanPolicy::transparent(), nullptr, {.mac = station(8), .ipv4 = {}, .ipv6 = {}}),
            2U);
  send(2, {frame(1, 7), frame(1, 8)});
  EXPECT_EQ(received(0), Frames{frame(1, 8)});
  EXPECT_EQ(sources[2].dropped(Drop::spoofed), 1U);
}

TEST_F(SwitchPortsTest, ACaptureIsClosedWhenItsPortGoes) {
  const common::test::TempFolder folder;
  const std::string path = folder / "capture";
  start_with_room(2, 3);
  EXPECT_FALSE(subject->captures());
  auto capture = Capture::create(path, "new");
  ASSERT_TRUE(capture);
  const unsigned port = come(VlanPolicy::transparent(), std::move(*capture));
  EXPECT_TRUE(subject->captures());
  send(0, to_all(1));
  EXPECT_EQ(std::filesystem::file_size(path), 0U);
  EXPECT_TRUE(subject->write_captures());
  const auto with_one = std::filesystem::file_size(path);
  EXPECT_GT(with_one, to_all(1).size());
  send(0, to_all(1));
  go(port);
  EXPECT_GT(std::filesystem::file_size(path), with_one) << "the last frames are written, too";
  EXPECT_FALSE(subject->captures());
  EXPECT_TRUE(subject->write_captures());
}

/// Ends as a port's sink does, and notices who comes later.
class MortalSink final : public Sink {
 public:
  void deliver(std::span<Frame* const> frames, unsigned) override {
    if (!lives) ++too_late;
    delivered += frames.size();
  }
  void flush(unsigned) override {
    if (!lives) ++too_late;
  }

  std::atomic<bool> lives = true;
  std::atomic<unsigned> too_late = 0;
  std::atomic<std::uint64_t> delivered = 0;
};

/// Frames for the stations of a port that comes and goes, and for all, from two workers; and the
/// port's own.
TEST_F(SwitchPortsTest, PortsComeAndGoWhileWorkersForward) {
  constexpr unsigned count = 2;
  start_with_room(count, 3, {.workers = count});
  std::deque<MortalSink> steady(count);
  for (unsigned i = 0; i < count; ++i) {
    go(i);
    ASSERT_EQ(subject->add(with_sink(steady[i])), id(i));
    all_take_note();
  }
  std::vector<std::shared_ptr<common::Mailbox>> mailboxes;
  for (unsigned i = 0; i < count; ++i) mailboxes.push_back(*common::Mailbox::create());
  FakeSource visitor(id(2));
  std::atomic<bool> go_on = true;
  std::array<bool, count> serves_visitor{};  // the worker's own
  std::array<std::uint64_t, count> sent{};
  std::vector<std::jthread> threads;
  for (unsigned worker = 0; worker < count; ++worker) {
    threads.emplace_back([&, worker] {
      auto burst = std::make_unique<Burst>();
      const auto serve = [&](FakeSource& source, const Frames& frames) {
        for (const Bytes& one : frames) source.add(one);
        if (source.take(*burst)) subject->forward(source, burst->taken(), worker);
        source.release();
      };
      while (go_on || mailboxes[worker]->full()) {
        serve(sources[worker], {frame(9, worker), to_all(worker), frame(1 - worker, worker)});
        ++sent[worker];
        if (serves_visitor[worker]) serve(visitor, {to_all(9), frame(0, 9), frame(1, 9)});
        subject->flush(worker);
        if (mailboxes[worker]->full()) mailboxes[worker]->open();
        std::this_thread::yield();  // to the control thread, where CPUs are few
      }
    });
  }
  const auto on_all = [&](const auto& task) {
    for (unsigned i = 0; i < count; ++i) {
      ASSERT_TRUE(mailboxes[i]->post([&task, i] { task(i); }, {}));
    }
  };
  std::deque<MortalSink> visitors;
  std::uint64_t visited = 0;
  for (unsigned round = 0; round < 300; ++round) {
    MortalSink& sink = visitors.emplace_back();
    ASSERT_EQ(subject->add(with_sink(sink)), id(2));
    on_all([&](unsigned worker) { subject->take_note(worker); });
    const unsigned host = round % count;
    on_all([&](unsigned worker) { serves_visitor[worker] = worker == host; });
    for (int turn = 0; turn < 3; ++turn) on_all([](unsigned) {});
    on_all([&](unsigned worker) { serves_visitor[worker] = false; });
    subject->withdraw(id(2));
    on_all([&](unsigned worker) { subject->take_note(worker); });
    subject->erase(id(2));
    sink.lives = false;
    visited += sink.delivered;
    subject->age(start_ns);
  }
  go_on = false;
  threads.clear();
  EXPECT_GT(visited, 300U);
  for (const MortalSink& sink : visitors) EXPECT_EQ(sink.too_late, 0U);
  for (unsigned i = 0; i < count; ++i) {
    EXPECT_GE(steady[i].delivered, 2 * sent[1 - i]) << "nothing of the others was lost";
  }
  EXPECT_EQ(subject->station_count(id(2)), 0U);
}

}  // namespace
}  // namespace net::tests
