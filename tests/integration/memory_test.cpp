// Guest memory that comes and goes while its requests are in flight.
#include <algorithm>
#include <array>
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

/// Loads on some queues, each in a thread of its own, for as long as this lives.
class Traffic {
 public:
  Traffic(Guest& disk, std::size_t queues) {
    for (std::size_t queue = 0; queue < queues; ++queue) {
      loads_.push_back(std::make_unique<Load>(
          disk, Load::Shape{.queue = queue, .first_sector = queue * 4096, .blocks = 64}));
    }
    for (std::size_t queue = 0; queue < queues; ++queue) {
      threads_.emplace_back([this, queue] {
        try {
          loads_[queue]->run(stop_);
        } catch (const std::exception& error) {
          wrong_[queue] = error.what();
        }
      });
    }
  }
  ~Traffic() { stop_ = true; }
  [[nodiscard]] std::uint64_t least() const {
    std::uint64_t least = UINT64_MAX;
    for (const auto& load : loads_) least = std::min<std::uint64_t>(least, load->completed);
    return least;
  }
  /// Each did what it should, and what it wrote is there.
  void expect_well() {
    EXPECT_TRUE(eventually([&] { return least() > 100; }));
    stop_ = true;
    threads_.clear();
    for (const std::string& wrong : wrong_) EXPECT_EQ(wrong, "");
    for (auto& load : loads_) load->verify();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::vector<std::unique_ptr<Load>> loads_;
  std::array<std::string, 8> wrong_;
  std::vector<std::jthread> threads_;
};

TEST_F(Memory, RegionsComeUpToTheLimitAndGoUnderLoadOnEveryQueue) {
  serve({"--workers", "2", "--queues", "4"});
  auto disk = guest(with_queues(4));
  Traffic traffic(disk, 3);
  auto& queue = disk->queue(3);
  vhost::frontend::BlkCompletion done;
  const auto reap = [&](std::uint32_t left) {
    return eventually([&] {
      while (queue.poll(done) == vhost::frontend::Poll::done) {
        EXPECT_EQ(done.status, BlkStatus::ok);
      }
      return queue.outstanding() <= left;
    });
  };
  const auto at = [](std::uint64_t i) { return image_bytes / sector / 2 + i * 16; };
  std::vector<std::pair<std::size_t, Buffer>> pieces;
  for (std::uint64_t i = 1; i < 509; ++i) {  // the guest has one already
    const auto id = must(disk->device().add_region(8 * kibi));
    const Buffer piece = must(disk.memory().allocate_in(id, 8 * kibi));
    fill(piece.bytes(), i);
    const Segment data = piece.segment();
    ASSERT_TRUE(queue.submit({BlkType::write, at(i), std::span(&data, 1), 0, false, 0}));
    queue.kick();
    ASSERT_TRUE(reap(24)) << "some are in flight while the next region comes";
    pieces.emplace_back(id, piece);
  }
  const auto one_more = disk->device().add_region(8 * kibi);
  EXPECT_FALSE(one_more);
  ASSERT_TRUE(reap(0));
  for (std::uint64_t i = 1; i < 509; ++i) {
    const auto& [id, piece] = pieces[i - 1];
    EXPECT_TRUE(image_holds(at(i), i, piece.size_bytes)) << i;
    disk.memory().release(piece);
    must(disk->device().remove_region(id));
  }
  (void)must(disk->device().add_region(8 * kibi));  // there is room again
  traffic.expect_well();
}

TEST_F(Memory, ARemovalIsAcknowledgedWhenTheLastRequestInItHasEnded) {
  // A driver takes memory away under its own request. What the device had taken of it is done
  // when the removal is acknowledged; what it had not breaks the ring, and can be done later.
  serve({"--workers", "2"});
  auto disk = guest(with_queues(2));
  auto& device = disk->device();
  auto& queue = disk->queue(1);
  const auto id = must(device.add_region(1 * mebi));
  const Buffer piece = must(disk.memory().allocate_in(id, 1 * mebi));
  const auto& region = *disk.memory().regions()[id];
  const Segment data = piece.segment();
  const vhost::SingleRegion told{0, region.wire()};
  const int fd = region.fd();
  vhost::frontend::BlkCompletion done;
  int in_time = 0;
  for (std::uint64_t round = 1; round <= 60; ++round) {
    fill(piece.bytes(), round);
    ASSERT_TRUE(queue.submit({BlkType::write, 0, std::span(&data, 1), 0, false, 0}));
    queue.kick();
    ::usleep(static_cast<unsigned>(round * 10));
    must(device.connection().tell(vhost::Request::rem_mem_reg, told));
    const bool ended = queue.poll(done) == vhost::frontend::Poll::done;
    fill(piece.bytes(), 1000 + round);  // which nobody may read any more
    if (ended) {
      ++in_time;
      EXPECT_EQ(done.status, BlkStatus::ok);
      EXPECT_TRUE(image_holds(0, round, piece.size_bytes)) << round;
    } else {
      ::usleep(5'000);
      EXPECT_EQ(queue.poll(done), vhost::frontend::Poll::empty) << round;
    }
    must(device.connection().tell(vhost::Request::add_mem_reg, told, std::span(&fd, 1)));
    if (ended) continue;
    must(device.stop());
    must(device.start());
    ASSERT_TRUE(queue.queue().wait(long_wait));
    ASSERT_EQ(queue.poll(done), vhost::frontend::Poll::done);
    EXPECT_TRUE(image_holds(0, 1000 + round, piece.size_bytes)) << round;
  }
  EXPECT_GT(in_time, 0);
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

TEST_F(Memory, AFrontEndMayHaveNoAddressesOfItsOwn) {
  serve({"--workers", "2"});
  for (const bool on_packed : {false, true}) {
    for (const bool slots : {false, true}) {
      BlkOptions options = on_packed ? packed(with_queues(2)) : with_queues(2);
      options.wishes.required_protocol_features |= bit(vhost::protocol_feature::gpa_addresses);
      if (!slots) {
        options.wishes.protocol_features &= ~bit(vhost::protocol_feature::configure_mem_slots);
      }
      auto disk = guest(options);
      swap_under_load(disk, 40);
      must(disk->stop());
      must(disk->start());
      swap_under_load(disk, 40);
    }
  }
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
