// A guest without a VM moves from one daemon to another: its memory is copied page by page while
// the load runs, as a hypervisor does it, and the copy must be the memory in the end.
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "tests/integration/fixture.hpp"
#include "tests/integration/marked.hpp"
#include "tests/integration/own_writes.hpp"

namespace integration {
namespace {

class Migration : public Served, public testing::WithParamInterface<bool> {
 protected:
  static constexpr std::size_t page = OwnWrites::page;

  [[nodiscard]] static BlkOptions options() {
    BlkOptions all = with_queues(2, 1024);  // each of a ring's areas has pages of its own
    return GetParam() ? packed(all) : all;
  }

  /// One round: what was written since the last is copied.
  void copy_dirty(Guest& disk, OwnWrites& own, std::span<const std::byte> memory,
                  std::uint64_t base) {
    std::set<std::size_t> dirty = own.take();
    for (const std::uint64_t address : disk->device().dirty_pages().take()) {
      if (address - base < memory.size()) dirty.insert(address - base);
    }
    for (const std::size_t offset : dirty) {
      std::memcpy(copy_.data() + offset, memory.data() + offset, page);
    }
    copied_ += dirty.size();
  }

  /// Runs a load, copies meanwhile, and stops in the middle of it: what is in flight then was
  /// offered, and copied, before the device began. Whether the copy is the memory.
  [[nodiscard]] bool copies_all(Guest& disk, Load& load, const Daemon& back_end,
                                std::uint64_t requests = 200,
                                std::optional<useconds_t> suspended_after = {}) {
    const auto& region = disk.memory().regions().front();
    const std::span<std::byte> memory = region->bytes();
    const std::uint64_t base = region->guest_address();
    OwnWrites own(memory);
    must(disk->device().start_log());
    copy_.assign(memory.begin(), memory.end());
    for (int round = 0; round < 8; ++round) {
      load.run(requests);
      load.submit();
      copy_dirty(disk, own, memory, base);
    }
    load.settle();
    back_end.signal(SIGSTOP);
    load.submit();
    copy_dirty(disk, own, memory, base);
    back_end.signal(SIGCONT);
    if (suspended_after) ::usleep(*suspended_after);
    must(suspended_after ? disk->device().suspend() : disk->stop());
    copy_dirty(disk, own, memory, base);
    return std::ranges::equal(memory, copy_);
  }

  std::vector<std::byte> copy_;
  std::size_t copied_ = 0;
};

TEST_P(Migration, TheCopyIsTheMemoryAndTheLoadGoesOnElsewhere) {
  serve({"--lock", "running"});
  const std::string second_socket = folder / "second";
  Daemon second(folder, {"--socket-path", second_socket, "--blk-file", image, "--lock", "running"});
  Guest disk(socket, options());
  Load load(disk, {.depth = 32});
  for (int move = 0; move < 6; ++move) {
    const bool forth = move % 2 == 0;
    ASSERT_TRUE(copies_all(disk, load, forth ? *daemon : second)) << "move " << move;
    must(disk->device().stop_log());
    must(disk->reconnect(connect(forth ? second_socket : socket)));
    load.settle();
  }
  load.verify();
  EXPECT_LT(copied_, 6 * 10 * copy_.size() / page / 4) << "not everything is dirty all the time";
}

/// Of a read that is left in flight, and goes through bounce buffers in four parts, some may be in
/// the memory.
TEST_P(Migration, TheCopyIsTheMemoryWhereRequestsAreLeftInFlight) {
  serve({"--cache", "none"});
  BlkOptions all = options();
  all.wishes.required_protocol_features |=
      vhost::bit(vhost::protocol_feature::get_vring_base_inflight) |
      vhost::bit(vhost::protocol_feature::get_vring_base_skip_drain);
  Guest disk(socket, all);
  Load load(disk, {.blocks = 12, .block_bytes = 1024 * kibi, .depth = 6, .misalignment = 8});
  std::size_t left = 0;
  const useconds_t rounds = sanitized ? 4 : 10;
  for (useconds_t round = 0; round < rounds || (left == 0 && round < 50); ++round) {
    ASSERT_TRUE(copies_all(disk, load, *daemon, 6, round * 200)) << "round " << round;
    left += marked(disk);
    must(disk->device().stop_log());
    must(disk->device().move_inflight());
    must(disk->start());
    load.settle();
  }
  load.verify();
  EXPECT_GT(left, 0U);
}

/// By daemons that leave out one kind of marks, and are otherwise the same.
TEST_P(Migration, TheCopyIsAnotherIfAnythingIsNotMarked) {
  image = make_image(folder, image_bytes);
  for (const char* const program :
       {"VHOST_USER_BLK_UNLOGGED_DATA", "VHOST_USER_BLK_UNLOGGED_RINGS"}) {
    const std::string place = folder / program;
    const Daemon forgetful(folder, {"--socket-path", place, "--blk-file", image},
                           {.program = program});
    Guest disk(place, options());
    Load load(disk, {.depth = 32});
    EXPECT_FALSE(copies_all(disk, load, forgetful)) << program;
  }
}

INSTANTIATE_TEST_SUITE_P(OnSplitAndPackedRings, Migration, testing::Bool());

}  // namespace
}  // namespace integration
