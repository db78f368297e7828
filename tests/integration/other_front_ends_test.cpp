// A disk under the messages of cloud-hypervisor, crosvm and SPDK's initiator: each over a whole
// life, with data.
#include "tests/integration/other_front_ends.hpp"

#include "libvhost/frontend/blk_queue.hpp"
#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using vhost::bit;
using vhost::frontend::BlkCompletion;
using vhost::frontend::BlkConfig;
using vhost::frontend::BlkQueue;
using vhost::frontend::Poll;
namespace feature = vhost::feature;
namespace blk_feature = vhost::frontend::blk_feature;

constexpr std::uint64_t known_disk_features =
    bit(blk_feature::size_max) | bit(blk_feature::seg_max) | bit(blk_feature::geometry) |
    bit(blk_feature::ro) | bit(blk_feature::blk_size) | bit(blk_feature::flush) |
    bit(blk_feature::topology) | bit(blk_feature::config_wce) | bit(blk_feature::discard) |
    bit(blk_feature::write_zeroes) | bit(blk_feature::mq);
constexpr std::uint64_t plainest = bit(feature::version_1);

/// A driver on the rings of a front-end, from one activation to the next.
class DiskDriver {
 public:
  static constexpr std::size_t bytes = 64 * kibi;
  static constexpr std::uint16_t slots = 8;

  /// Buffers lie in memory of this id.
  explicit DiskDriver(FrontEnd& front_end, std::size_t memory_id = 0) {
    for (std::uint32_t ring = 0; ring < front_end.rings(); ++ring) {
      queues_.push_back(must(BlkQueue::create(front_end.memory(), front_end.queue(ring), slots)));
      buffers_.push_back(must(front_end.memory().allocate_in(memory_id, bytes, 4096)));
    }
  }
  /// One request on each ring, each at a place of its own.
  void submit(BlkType type) {
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      const Segment data = buffers_[i].segment();
      if (!queues_[i].submit({type, place(i), std::span(&data, 1), 0, false, i})) {
        throw std::runtime_error("no room in the ring");
      }
      queues_[i].kick();
      ++owed_;
    }
  }
  /// All that was submitted is done, and well.
  [[nodiscard]] bool settles(milliseconds time = long_wait) {
    return eventually(
        [&] {
          for (BlkQueue& queue : queues_) {
            BlkCompletion done;
            while (queue.poll(done) == Poll::done) {
              EXPECT_EQ(done.status, BlkStatus::ok);
              --owed_;
            }
          }
          return owed_ == 0;
        },
        time);
  }
  void fill_all(std::uint64_t seed) {
    for (std::size_t i = 0; i < buffers_.size(); ++i) fill(buffers_[i].bytes(), seed + i);
  }
  [[nodiscard]] bool all_hold(std::uint64_t seed) {
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      if (!holds(buffers_[i].bytes(), seed + i)) return false;
    }
    return true;
  }
  /// Writes on each ring and reads the same back.
  void work(std::uint64_t seed) {
    fill_all(seed);
    submit(BlkType::write);
    ASSERT_TRUE(settles());
    fill_all(~seed);
    submit(BlkType::read);
    ASSERT_TRUE(settles());
    EXPECT_TRUE(all_hold(seed));
  }
  [[nodiscard]] static std::uint64_t place(std::size_t ring) { return ring * (bytes / sector); }

 private:
  std::vector<BlkQueue> queues_;
  std::vector<Buffer> buffers_;
  std::size_t owed_ = 0;
};

class OtherFrontEnds : public Served {
 protected:
  static constexpr std::uint32_t rings = 4;

  void SetUp() override { serve({"--queues", std::to_string(rings), "--workers", "2"}); }
  void TearDown() override {
    EXPECT_EQ(daemon->terminate(), good_end) << daemon->words();
    EXPECT_EQ(read_stats(stats).at("connection").at("messages_refused"), 0);
  }
  void expect_on_disk(std::uint64_t seed) const {
    for (std::size_t ring = 0; ring < rings; ++ring) {
      EXPECT_TRUE(image_holds(DiskDriver::place(ring), seed + ring, DiskDriver::bytes)) << ring;
    }
  }
};

// --- cloud-hypervisor ---------------------------------------------------------------------------

class CloudHypervisorDisk : public OtherFrontEnds {
 protected:
  CloudHypervisor machine() const { return {socket, rings, known_disk_features}; }
};

TEST_F(CloudHypervisorDisk, WorksForOneDriverAfterTheOther) {
  auto front_end = machine();
  EXPECT_NE(front_end.protocol_features() & bit(vhost::protocol_feature::inflight_shmfd), 0U);
  for (const std::uint64_t accepted : {plainest, front_end.passed_on()}) {
    front_end.activate(accepted);
    DiskDriver(front_end).work(accepted);
    front_end.reset();
    expect_on_disk(accepted);
  }
}

TEST_F(CloudHypervisorDisk, FindsTheConfigurationAndTurnsTheCacheOff) {
  auto front_end = machine();
  BlkConfig config{};
  const auto bytes = front_end.read_config(vhost::frontend::blk_config_bytes);
  std::memcpy(&config, bytes.data(), bytes.size());
  EXPECT_EQ(config.capacity_sectors, image_bytes / sector);
  EXPECT_EQ(config.queues, rings);
  EXPECT_EQ(config.write_cache, 1);
  front_end.activate(front_end.passed_on());
  const std::byte off{0};
  front_end.write_config(vhost::frontend::blk_config_wce_offset, std::span(&off, 1));
  EXPECT_EQ(front_end.read_config(60)[vhost::frontend::blk_config_wce_offset], off);
}

TEST_F(CloudHypervisorDisk, WaitsWhileThePauseLasts) {
  auto front_end = machine();
  front_end.activate(front_end.passed_on());
  DiskDriver driver(front_end);
  for (const std::uint64_t seed : {1, 2, 3}) {
    driver.work(seed);
    front_end.pause();
    driver.fill_all(seed);
    driver.submit(BlkType::write);
    EXPECT_FALSE(driver.settles(milliseconds(20)));
    front_end.resume();
    EXPECT_TRUE(driver.settles());
  }
}

TEST_F(CloudHypervisorDisk, UsesMemoryThatIsPluggedIntoItsTable) {
  auto front_end = machine();
  front_end.activate(front_end.passed_on());
  DiskDriver(front_end).work(1);
  const std::size_t id = front_end.plug(8 << 20);
  front_end.reset();
  front_end.activate(front_end.passed_on());  // says the table, which has the new region now
  DiskDriver(front_end, id).work(2);
  const std::size_t next = front_end.plug(8 << 20);
  DiskDriver(front_end, next).work(3);
  expect_on_disk(3);
}

TEST_F(CloudHypervisorDisk, ANextBackEndDoesWhatNobodyHasSeen) {
  auto front_end = machine();
  front_end.activate(front_end.passed_on());
  DiskDriver driver(front_end);
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    driver.work(seed);
    daemon->kill();
    driver.fill_all(~seed);
    driver.submit(BlkType::write);
    SetUp();
    front_end.reconnect(socket);
    ASSERT_TRUE(driver.settles()) << "what its base leaves out is nobody's";
    expect_on_disk(~seed);
  }
}

// --- crosvm -------------------------------------------------------------------------------------

class CrosvmDisk : public OtherFrontEnds {};

TEST_F(CrosvmDisk, ReadsTheConfigurationInPieces) {
  Crosvm front_end(socket);
  EXPECT_EQ(front_end.rings_offered(), rings);
  for (const std::uint32_t piece : {1U, 2U, 4U, 8U}) {
    BlkConfig config{};
    std::array<std::byte, sizeof config> bytes{};
    for (std::uint32_t at = 0; at < bytes.size(); at += piece) {
      std::ranges::copy(front_end.read_config(at, piece), bytes.begin() + at);
    }
    std::memcpy(&config, bytes.data(), bytes.size());
    EXPECT_EQ(config.capacity_sectors, image_bytes / sector) << piece;
    EXPECT_EQ(config.queues, rings) << piece;
    EXPECT_EQ(config.seg_max, 126U) << piece;
  }
}

TEST_F(CrosvmDisk, GoesOnWhereItSlept) {
  Crosvm front_end(socket);
  front_end.activate(front_end.passed_on(), rings);
  DiskDriver driver(front_end);
  for (const std::uint64_t seed : {1, 2, 3}) {
    driver.work(seed);
    front_end.sleep();
    driver.fill_all(~seed);
    driver.submit(BlkType::write);
    EXPECT_FALSE(driver.settles(milliseconds(20)));
    front_end.wake();
    EXPECT_TRUE(driver.settles());
    expect_on_disk(~seed);
  }
}

TEST_F(CrosvmDisk, WorksForDriversWithOtherRingsAndFeatures) {
  Crosvm front_end(socket);
  for (const std::uint32_t count : {1U, rings, 2U}) {
    front_end.activate(count == rings ? front_end.passed_on() : plainest, count,
                       count == 1 ? 256 : 32);
    DiskDriver(front_end).work(count);
    front_end.reset();
  }
}

// --- SPDK ---------------------------------------------------------------------------------------

class SpdkDisk : public OtherFrontEnds {
 protected:
  static constexpr std::uint64_t wanted = bit(blk_feature::blk_size) | bit(blk_feature::topology) |
                                          bit(blk_feature::mq) | bit(blk_feature::ro) |
                                          bit(blk_feature::discard) | bit(feature::event_idx);
};

TEST_F(SpdkDisk, WorksWithRingsThatWereEnabledBeforeTheyWere) {
  Spdk front_end(socket, wanted);
  EXPECT_EQ(front_end.read_config<std::uint64_t>(offsetof(BlkConfig, capacity_sectors)),
            image_bytes / sector);
  EXPECT_EQ(front_end.read_config<std::uint32_t>(offsetof(BlkConfig, blk_size_bytes)), sector);
  EXPECT_EQ(front_end.read_config<std::uint16_t>(offsetof(BlkConfig, queues)), rings);
  front_end.start(rings);
  {
    DiskDriver driver(front_end, 0);
    driver.work(1);
    DiskDriver(front_end, 1).work(2);
  }
  front_end.stop();
  expect_on_disk(2);
}

TEST_F(SpdkDisk, WorksAgainOnTheNextConnection) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    Spdk front_end(socket, wanted);
    front_end.start(seed == 2 ? 1 : rings, 128);
    DiskDriver(front_end).work(seed);
    front_end.stop();
  }
  expect_on_disk(3);
}

}  // namespace
}  // namespace integration
