// Requests in flight that a stop leaves: to another daemon, where the guest goes on with a copy of
// the inflight region, or to the same one.
#include <algorithm>
#include <string_view>

#include "tests/integration/fixture.hpp"
#include "tests/integration/marked.hpp"

namespace integration {
namespace {

using namespace vhost::protocol_feature;

struct Way {
  const char* name;
  bool packed;
  const char* cache;
};

class CarryOver : public Served, public testing::WithParamInterface<Way> {
 protected:
  static constexpr std::uint64_t carrying =
      vhost::bit(get_vring_base_inflight) | vhost::bit(get_vring_base_skip_drain);

  [[nodiscard]] static BlkOptions options(std::uint64_t protocol = carrying) {
    BlkOptions all = with_queues(2);
    all.wishes.required_protocol_features |= protocol;
    return GetParam().packed ? packed(all) : all;
  }
  /// Direct I/O of one and the page cache of the other keep requests back in different places.
  [[nodiscard]] static Strings flags() {
    return {"--cache", GetParam().cache, "--lock", "running"};
  }

  /// What waits for a buffer is left in a round or two. What waits for the page cache may be done
  /// before anybody can stop it.
  [[nodiscard]] static bool leaves_some() { return GetParam().cache == std::string_view("none"); }
  [[nodiscard]] static bool go_on(int round, int rounds, std::size_t left) {
    return round < rounds || (leaves_some() && left == 0 && round < 300);
  }

  /// Two queues under load: one with buffers that direct I/O cannot use, and few to replace them.
  struct Loads {
    explicit Loads(Guest& disk)
        : odd(disk, {.queue = 0, .depth = 40, .misalignment = 8, .seed = 1}),
          large(disk, {.queue = 1,
                       .first_sector = 2 * mebi / sector,
                       .blocks = 96,
                       .block_bytes = 64 * kibi,
                       .depth = 32,
                       .seed = 2}) {}
    void begin() {
      for (Load* load : {&odd, &large}) load->submit();
    }
    /// Some have come back, and others are on their way.
    void stir() {
      begin();
      for (Load* load : {&odd, &large}) (void)load->reap(milliseconds(100));
      begin();
    }
    void settle() {
      for (Load* load : {&odd, &large}) load->settle();
    }
    void verify() {
      for (Load* load : {&odd, &large}) load->verify();
    }
    Load odd, large;
  };

  [[nodiscard]] std::vector<std::byte> image_now() const { return read_file(image, 0, 8 * mebi); }
  /// Nothing is written any more, neither to the guest nor to the disk.
  void expect_quiet(Guest& disk) const {
    const auto memory = disk.memory().regions().front()->bytes();
    const std::vector<std::byte> memory_before(memory.begin(), memory.end());
    const auto image_before = image_now();
    ::usleep(20'000);
    EXPECT_TRUE(std::ranges::equal(memory, memory_before)) << "the guest's memory changed";
    EXPECT_TRUE(image_now() == image_before) << "a ghost wrote to the disk";
  }
};

TEST_P(CarryOver, RequestsInFlightMoveToAnotherDaemonAndCompleteOnce) {
  serve(flags());
  const std::string second_socket = folder / "second";
  Strings second_flags{"--socket-path", second_socket, "--blk-file", image};
  for (const std::string& flag : flags()) second_flags.push_back(flag);
  Daemon second(folder, second_flags);
  Guest disk(socket, options(), 8 * mebi);
  Loads loads(disk);
  std::size_t left = 0;
  for (int move = 0; go_on(move, 12, left); ++move) {
    loads.stir();
    ::usleep(static_cast<useconds_t>(move * 97 % 500));
    must(disk->device().suspend());
    left += marked(disk);
    if (move % 4 == 0) expect_quiet(disk);
    must(disk->device().move_inflight());
    must(disk->reconnect(connect(move % 2 == 0 ? second_socket : socket)));
    loads.settle();
  }
  loads.verify();
  EXPECT_EQ(loads.odd.failed + loads.large.failed, 0U);
  EXPECT_TRUE(left > 0 || !leaves_some()) << "nothing was carried over";
}

TEST_P(CarryOver, RequestsInFlightWaitForTheSameDaemonToGoOn) {
  serve(flags());
  Guest disk(socket, options(), 8 * mebi);
  Loads loads(disk);
  std::size_t left = 0;
  for (int round = 0; go_on(round, 20, left); ++round) {
    loads.stir();
    must(disk->device().suspend());
    left += marked(disk);
    must(disk->start());
    if (round % 2 == 0) {  // once more, before the first of them is done
      must(disk->device().suspend());
      must(disk->start());
    }
    loads.settle();
    EXPECT_EQ(marked(disk), 0U);
  }
  loads.verify();
  EXPECT_TRUE(left > 0 || !leaves_some());
}

/// Also behind a disable, which does not know yet what kind of stop comes.
TEST_P(CarryOver, AnOrdinaryStopEndsAllThatWasTaken) {
  serve(flags());
  Guest disk(socket, options(), 8 * mebi);
  Loads loads(disk);
  for (int round = 0; round < 10; ++round) {
    loads.stir();
    must(disk->stop());
    EXPECT_EQ(marked(disk), 0U) << "round " << round;
    must(disk->start());
    loads.settle();
  }
  loads.verify();
}

/// As QEMU 11.0, which knows no other message.
TEST_P(CarryOver, WithoutTheMessageEveryStopMayLeaveRequests) {
  serve(flags());
  Guest disk(socket, options(vhost::bit(get_vring_base_inflight)));
  Loads loads(disk);
  std::size_t left = 0;
  for (int round = 0; go_on(round, 20, left); ++round) {
    loads.stir();
    must(disk->stop());
    left += marked(disk);
    must(disk->device().move_inflight());
    must(disk->start());
    loads.settle();
  }
  loads.verify();
  EXPECT_TRUE(left > 0 || !leaves_some());
}

/// A death while they are carried out, of which the region tells as of any.
TEST_P(CarryOver, WhatWasCarriedOverSurvivesADeath) {
  serve(flags());
  Guest disk(socket, options(), 8 * mebi);
  Loads loads(disk);
  for (int round = 0; round < 5; ++round) {
    loads.stir();
    must(disk->device().suspend());
    must(disk->device().move_inflight());
    must(disk->start());
    daemon->kill();
    must(disk->reconnect(resurrect(flags())));
    loads.settle();
  }
  loads.verify();
}

INSTANTIATE_TEST_SUITE_P(Rings, CarryOver,
                         testing::Values(Way{"SplitDirect", false, "none"},
                                         Way{"SplitCached", false, "writeback"},
                                         Way{"PackedDirect", true, "none"},
                                         Way{"PackedCached", true, "writeback"}),
                         [](const auto& way) { return way.param.name; });

}  // namespace
}  // namespace integration
