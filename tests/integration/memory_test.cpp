// Guest memory that comes and goes while its requests are in flight.
#include <thread>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using vhost::bit;
using vhost::frontend::PageSize;

class Memory : public Served {
 protected:
  /// Regions come, carry verified requests, and go, beside a load that never stops.
  void swap_under_load(Guest& disk, int rounds) {
    Load load(disk, {.blocks = 128, .depth = 32});
    std::atomic<bool> stop = false;
    std::string wrong;
    std::jthread thread([&] {
      try {
        load.run(stop);
      } catch (const std::exception& error) {
        wrong = error.what();
      }
    });
    for (int round = 0; round < rounds; ++round) {
      const auto id = must(disk->device().add_region(1 * mebi));
      const Buffer piece = must(disk.memory().allocate_in(id, 16 * kibi));
      use(disk, piece, static_cast<std::uint64_t>(round) + 1);
      disk.memory().release(piece);
      must(disk->device().remove_region(id));
    }
    stop = true;
    thread.join();
    EXPECT_EQ(wrong, "");
    EXPECT_GT(load.completed, 32U);
    load.verify();
  }
  /// A write and a read on queue 1 whose data lies in `piece`.
  void use(Guest& disk, const Buffer& piece, std::uint64_t seed) {
    const std::uint64_t at = image_bytes / sector / 2;
    fill(piece.bytes(), seed);
    request(disk, BlkType::write, at, piece);
    EXPECT_TRUE(image_holds(at, seed, piece.size_bytes));
    fill(piece.bytes(), 0);
    request(disk, BlkType::read, at, piece);
    EXPECT_TRUE(holds(piece.bytes(), seed));
  }
  static void request(Guest& disk, BlkType type, std::uint64_t at, const Buffer& piece) {
    const Segment data = piece.segment();
    auto& queue = disk->queue(1);
    ASSERT_TRUE(queue.submit({.type = type, .sector = at, .data = std::span(&data, 1)}));
    queue.kick();
    ASSERT_TRUE(queue.queue().wait(milliseconds(10000)));
    vhost::frontend::BlkCompletion done;
    ASSERT_EQ(queue.poll(done), vhost::frontend::Poll::done);
    EXPECT_EQ(done.status, BlkStatus::ok);
  }
};

TEST_F(Memory, RegionsAreAddedAndRemovedUnderLoad) {
  serve({"--workers", "2"});
  auto disk = guest(with_queues(2));
  swap_under_load(disk, 100);
}

TEST_F(Memory, TheWholeTableIsReplacedUnderLoad) {
  serve({"--workers", "2"});
  BlkOptions options = with_queues(2);
  options.wishes.protocol_features &= ~bit(vhost::protocol_feature::configure_mem_slots);
  auto disk = guest(options);
  swap_under_load(disk, 100);
}

TEST_F(Memory, ManySlotsAreServedAtOnce) {
  serve();
  auto disk = guest(with_queues(2));
  const auto reply =
      must(disk->device().connection().ask_for<std::uint64_t>(vhost::Request::get_max_mem_slots));
  EXPECT_GE(reply, 32U);
  std::vector<Buffer> pieces;
  for (std::uint64_t i = 1; i < std::min<std::uint64_t>(reply, 509); ++i) {
    const auto id = must(disk->device().add_region(8 * kibi));
    pieces.push_back(must(disk.memory().allocate_in(id, 8 * kibi)));
  }
  for (std::size_t i = 0; i < pieces.size(); i += 50) use(disk, pieces[i], i + 1);
  use(disk, pieces.back(), 99);
}

TEST_F(Memory, ARegionMayBeginInTheMiddleOfItsFile) {
  serve();
  auto disk = guest(with_queues(2));
  const auto id = must(disk->device().add_region(1 * mebi, {.mmap_offset_bytes = 3 * 4096}));
  use(disk, must(disk.memory().allocate_in(id, 16 * kibi)), 5);
}

TEST_F(Memory, ABufferMayCrossFromOneRegionIntoTheNext) {
  serve();
  auto disk = guest(with_queues(2));
  const std::uint64_t low = std::uint64_t{1} << 40;
  const auto first = must(disk->device().add_region(64 * kibi, {.guest_address = low}));
  const auto second =
      must(disk->device().add_region(64 * kibi, {.guest_address = low + 64 * kibi}));
  const Buffer front = must(disk.memory().allocate_in(first, 64 * kibi));
  const Buffer back = must(disk.memory().allocate_in(second, 64 * kibi));
  fill(front.bytes(), 1);
  fill(back.bytes(), 2);
  const Buffer both{front.data, 128 * kibi, low};
  request(disk, BlkType::write, 0, both);
  EXPECT_TRUE(image_holds(0, 1, 64 * kibi));
  EXPECT_TRUE(image_holds(128, 2, 64 * kibi));
}

TEST_F(Memory, HugePagesAreServed) {
  serve();
  SharedMemory memory;
  const auto huge = memory.add_region(4 * mebi, {.pages = PageSize::huge_2m});
  if (!huge) GTEST_SKIP() << "no huge pages: " << huge.error().what;
  auto disk = guest(with_queues(2));
  const auto id = must(disk->device().add_region(2 * mebi, {.pages = PageSize::huge_2m}));
  use(disk, must(disk.memory().allocate_in(id, 64 * kibi)), 3);
}

}  // namespace
}  // namespace integration
