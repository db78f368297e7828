#include "backends/blk/device.hpp"

#include <sys/syscall.h>

#include "tests/unit/blk/worker_fixture.hpp"

namespace blk {
namespace {

using namespace std::chrono_literals;
using testing_tools::GuestsEnd;

constexpr std::uint64_t can_set = feature::flush | feature::config_wce;

/// The bytes behind the inflight sections, which outlive a daemon.
struct Region {
  alignas(64) std::array<std::byte, vhost::keepsake_bytes> bytes{};
  [[nodiscard]] vhost::Keepsake keepsake() { return {nullptr, std::span(bytes)}; }
};

class BlkDevice : public testing::Test {
 protected:
  static Device::Setup null_setup() {
    Device::Setup setup;
    setup.disk.size_bytes = 1 << 20;
    setup.queues = 4;
    return setup;
  }
  static std::unique_ptr<Device> make(Device::Setup setup = null_setup()) {
    auto made = Device::create(std::move(setup));
    if (!made) ADD_FAILURE() << made.error().what;
    return std::move(*made);
  }
  static Config config_of(Device& device) {
    Config config;
    device.read_config(0, std::as_writable_bytes(std::span(&config, 1)));
    return config;
  }
  static int writeback(Device& device) { return config_of(device).writeback; }
  static bool set_writeback(Device& device, int value) {
    const std::array<std::byte, 1> byte{static_cast<std::byte>(value)};
    return device.write_config(offsetof(Config, writeback), byte).has_value();
  }
  void start(Device& device, GuestsEnd& end) { device.start_ring(end.index, end.ring(map_)); }

  vhost::fakes::GuestMemory memory_;
  std::shared_ptr<const vhost::MemoryMap> map_ = memory_.map();
};

TEST_F(BlkDevice, OffersWhatItsDiskCan) {
  auto device = make();
  EXPECT_EQ(device->features(), features(device->disk(), 4));
  EXPECT_EQ(device->max_queues(), 4);
  EXPECT_EQ(config_of(*device).capacity, 2048u);
  EXPECT_EQ(config_of(*device).num_queues, 4);
}

TEST_F(BlkDevice, CannotBeMadeWithAWorkerThatCannotStart) {
  auto setup = null_setup();
  setup.cpus = {1023};
  EXPECT_FALSE(Device::create(std::move(setup)));
}

TEST_F(BlkDevice, RefusesAWriteToWhatIsNotTheDrivers) {
  auto device = make();
  device->set_features(can_set);
  const std::array<std::byte, 1> byte{};
  const auto refused = device->write_config(0, byte);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().fault, vhost::Fault::front_end);
  device->set_features(feature::flush);
  EXPECT_FALSE(set_writeback(*device, 0));
}

// ------------------------------------------------------------ the guest's write cache

TEST_F(BlkDevice, KeepsTheCacheAsTheGuestSetItOverAReset) {
  auto device = make();
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  device->set_features(can_set);
  EXPECT_EQ(writeback(*device), 0);
}

TEST_F(BlkDevice, KeepsTheCacheOverAReconnectThatAcceptsFeaturesFirst) {
  auto device = make();
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  device->set_features(0);
  device->set_features(can_set);
  EXPECT_EQ(writeback(*device), 0);
}

TEST_F(BlkDevice, ForgetsTheCacheForAFrontEndThatReadsFirst) {
  auto device = make();
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  device->set_features(0);
  EXPECT_EQ(writeback(*device), 1);
  device->set_features(can_set);
  EXPECT_EQ(writeback(*device), 1);
}

TEST_F(BlkDevice, ReadingBetweenFeaturesForgetsNothing) {
  auto device = make();
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  EXPECT_EQ(writeback(*device), 0);
  EXPECT_EQ(writeback(*device), 0);
}

TEST_F(BlkDevice, LeavesItsSuccessorANoteOfTheCache) {
  Region region;
  auto first = make();
  first->set_features(can_set);
  first->keep_in(region.keepsake());
  ASSERT_TRUE(set_writeback(*first, 0));
  auto second = make();
  second->set_features(can_set);
  second->keep_in(region.keepsake());
  EXPECT_EQ(writeback(*second), 0);
  ASSERT_TRUE(set_writeback(*second, 1));
  auto third = make();
  third->set_features(can_set);
  third->keep_in(region.keepsake());
  EXPECT_EQ(writeback(*third), 1);
}

TEST_F(BlkDevice, BelievesANoteEvenIfTheConfigurationIsReadBeforeFeatures) {
  Region region;
  auto first = make();
  first->set_features(can_set);
  first->keep_in(region.keepsake());
  ASSERT_TRUE(set_writeback(*first, 0));
  auto second = make();
  second->keep_in(region.keepsake());
  EXPECT_EQ(writeback(*second), 0);
}

TEST_F(BlkDevice, LearnsNothingFromANewRegion) {
  Region region;
  auto device = make();
  device->set_features(can_set);
  device->keep_in(region.keepsake());
  EXPECT_EQ(writeback(*device), 1);
}

TEST_F(BlkDevice, LearnsNothingFromWhatAnotherProgramLeft) {
  Region region;
  region.bytes.fill(std::byte{0x55});
  std::fill_n(region.bytes.begin() + 4, 4, std::byte{0});
  auto device = make();
  device->set_features(can_set);
  device->keep_in(region.keepsake());
  EXPECT_EQ(writeback(*device), 1);
}

TEST_F(BlkDevice, WritesNoNoteIntoARegionOfAFrontEndThatLeft) {
  Region region;
  auto device = make();
  device->set_features(can_set);
  device->keep_in(region.keepsake());
  device->set_features(0);
  const auto before = region.bytes;
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  EXPECT_EQ(region.bytes, before);
}

// ------------------------------------------------------------ durability, as the kernel sees it

/// Dirty pages of a file; nothing where the kernel does not tell (before 6.5).
std::optional<std::uint64_t> dirty_pages(int fd) {
  struct {
    std::uint64_t offset, length;
  } range{0, 0};
  struct {
    std::uint64_t cached, dirty, in_writeback, evicted, recently_evicted;
  } found{};
  constexpr long cachestat = 451;
  if (::syscall(cachestat, fd, &range, &found, 0) != 0) return std::nullopt;
  return found.dirty + found.in_writeback;
}

class BlkDeviceOnAFile : public BlkDevice {
 protected:
  void SetUp() override {
    const vhost::UniqueFd probe(::open(folder_.file("probe", 4096).c_str(), O_RDWR));
    (void)!::pwrite(probe.get(), "x", 1, 0);
    const auto dirty = dirty_pages(probe.get());
    (void)::fdatasync(probe.get());
    if (!dirty || *dirty == 0 || dirty_pages(probe.get()) != 0) GTEST_SKIP() << "no cachestat()";
  }
  std::unique_ptr<Device> on_file(CacheMode cache) {
    auto image =
        testing_tools::open_to_write(folder_.file(std::to_string(files_++), 1 << 20), cache);
    image_ = std::make_shared<const Image>(std::move(*image));
    Device::Setup setup;
    setup.image = image_;
    setup.disk = image_->disk;
    setup.ignores_flush = ignores_flush(cache);
    return make(std::move(setup));
  }
  /// Whether the guest's write is still in memory alone when it completes.
  bool stays_in_cache(Device& device) {
    GuestsEnd end(memory_, 0);
    start(device, end);
    (void)end.guest.write(8 * writes_++, std::string(512, 'x'));
    end.kick_if_wanted();
    EXPECT_TRUE(end.wait_for(1));
    EXPECT_TRUE(device.stop_ring(0));
    memory_.store(end.guest.driver().used_at(), std::uint32_t{0});
    return dirty_pages(image_->file.get()) != 0;
  }

  testing_tools::ScratchFolder folder_;
  std::shared_ptr<const Image> image_;
  int files_ = 0;
  std::uint64_t writes_ = 0;
};

TEST_F(BlkDeviceOnAFile, WritesAreDurableWhileTheGuestHasTheCacheOff) {
  auto device = on_file(CacheMode::writeback);
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  EXPECT_FALSE(stays_in_cache(*device));
  ASSERT_TRUE(set_writeback(*device, 1));
  EXPECT_TRUE(stays_in_cache(*device));
}

TEST_F(BlkDeviceOnAFile, WritesAreDurableForADriverThatCannotFlush) {
  auto device = on_file(CacheMode::writeback);
  device->set_features(0x100);
  EXPECT_FALSE(stays_in_cache(*device));
  device->set_features(can_set);
  EXPECT_TRUE(stays_in_cache(*device));
}

TEST_F(BlkDeviceOnAFile, WritesAreDurableWhenAPredecessorsGuestHadTheCacheOff) {
  Region region;
  {
    auto device = on_file(CacheMode::writeback);
    device->set_features(can_set);
    device->keep_in(region.keepsake());
    ASSERT_TRUE(set_writeback(*device, 0));
  }
  auto device = on_file(CacheMode::writeback);
  device->set_features(can_set);
  device->keep_in(region.keepsake());
  EXPECT_FALSE(stays_in_cache(*device));
}

TEST_F(BlkDeviceOnAFile, WritesOfAWritethroughDiskAreDurable) {
  auto device = on_file(CacheMode::writethrough);
  device->set_features(feature::flush);
  EXPECT_FALSE(stays_in_cache(*device));
}

TEST_F(BlkDeviceOnAFile, WritesOfAnUnsafeDiskAreNeverDurable) {
  auto device = on_file(CacheMode::unsafe);
  device->set_features(can_set);
  ASSERT_TRUE(set_writeback(*device, 0));
  EXPECT_TRUE(stays_in_cache(*device));
}

// ------------------------------------------------------------ rings

TEST_F(BlkDevice, ServesRingsOnEveryWorkerAndGivesThemBack) {
  auto setup = null_setup();
  setup.workers = 3;
  auto device = make(std::move(setup));
  std::vector<std::unique_ptr<GuestsEnd>> ends;
  for (std::uint16_t i = 0; i < 4; ++i) {
    ends.push_back(std::make_unique<GuestsEnd>(memory_, i));
    start(*device, *ends.back());
  }
  for (auto& end : ends) EXPECT_TRUE(end->read_one());
  for (std::uint16_t i = 0; i < 4; ++i) {
    const auto ring = device->stop_ring(i);
    ASSERT_TRUE(ring);
    EXPECT_EQ(std::get<vhost::SplitRing>(*ring).base(), 1u);
    ASSERT_TRUE(device->stats()[i]);
    EXPECT_EQ(device->stats()[i]->of(Op::read).requests.value(), 1u);
  }
}

TEST_F(BlkDevice, KeepsTheCountsOfAQueueOverARestart) {
  auto device = make();
  for (int i = 0; i < 2; ++i) {
    GuestsEnd end(memory_, 2);
    memory_.store(end.guest.driver().available_at(), std::uint32_t{0});
    memory_.store(end.guest.driver().used_at(), std::uint32_t{0});
    start(*device, end);
    EXPECT_TRUE(end.read_one());
    ASSERT_TRUE(device->stop_ring(2));
  }
  EXPECT_EQ(device->stats()[2]->of(Op::read).requests.value(), 2u);
  EXPECT_FALSE(device->stats()[1]);
}

TEST_F(BlkDevice, CallsOnTheNewDescriptor) {
  auto device = make();
  GuestsEnd end(memory_, 1);
  start(*device, end);
  const testing_tools::Event other;
  device->set_call(1, other.shared());
  EXPECT_EQ(other.count(), 1u);
}

TEST_F(BlkDevice, HasItsNewSizeForTheDriverAndForEveryRing) {
  auto device = make();
  GuestsEnd end(memory_, 3);
  start(*device, end);
  device->resize(2 << 20);
  EXPECT_EQ(device->disk().size_bytes, std::uint64_t{2 << 20});
  EXPECT_EQ(config_of(*device).capacity, 4096u);
  const auto inside = end.guest.read(4095);
  const auto beyond = end.guest.read(4096);
  end.kick_if_wanted();
  EXPECT_TRUE(end.wait_for(2));
  EXPECT_TRUE(end.guest.has_status(inside, Status::ok));
  EXPECT_TRUE(end.guest.has_status(beyond, Status::io_error));
}

TEST_F(BlkDevice, GoesOnInANewMap) {
  auto device = make();
  GuestsEnd end(memory_, 0);
  start(*device, end);
  map_ = memory_.map();
  device->move_to(map_, vhost::Drain::yes);
  EXPECT_TRUE(end.read_one());
  EXPECT_EQ(device->stats()[0]->broken.value(), 0u);
  device->move_to(memory_.map({1, 2}), vhost::Drain::yes);
  EXPECT_EQ(device->stats()[0]->broken.value(), 1u);
}

class SlowDevice : public BlkDevice {
 protected:
  std::unique_ptr<Device> make_slow() {
    auto setup = null_setup();
    setup.image = storage_.image();
    setup.patience = {end_signal_.get(), 60ms};
    return make(std::move(setup));
  }
  void get_in_flight(Device& device, GuestsEnd& end) {
    start(device, end);
    (void)end.guest.read(0);
    end.kick_if_wanted();
    EXPECT_TRUE(testing_tools::eventually(
        [&] { return device.stats()[end.index]->in_flight.load() == 1; }));
  }

  testing_tools::SlowStorage storage_;
  testing_tools::Event end_signal_;
};

TEST_F(SlowDevice, DrainsBeforeAMapGoesAwayAndOnlyThen) {
  auto device = make_slow();
  GuestsEnd end(memory_, 0);
  get_in_flight(*device, end);
  device->move_to(map_, vhost::Drain::no);
  EXPECT_EQ(end.guest.take_all(), 0u);
  std::thread storage([&] {
    std::this_thread::sleep_for(10ms);
    storage_.answer();
  });
  device->move_to(map_, vhost::Drain::yes);
  EXPECT_EQ(end.guest.take_all(), 1u);
  storage.join();
  EXPECT_FALSE(device->abandoned());
}

TEST_F(SlowDevice, SaysThatItLeavesRequestsWhenTheProcessMustEnd) {
  auto device = make_slow();
  GuestsEnd end(memory_, 0);
  get_in_flight(*device, end);
  end_signal_.add();
  const auto ring = device->stop_ring(0);
  ASSERT_FALSE(ring);
  EXPECT_EQ(ring.error().fault, vhost::Fault::host);
  EXPECT_TRUE(device->abandoned());
  EXPECT_FALSE(device->stop_ring(1));  // nobody is asked any more
  testing_tools::leave_behind(storage_.image());
  testing_tools::leave_behind(std::move(device));
}

TEST_F(BlkDevice, IsAliveIfAllItsWorkersAre) {
  auto setup = null_setup();
  setup.workers = 2;
  auto device = make(std::move(setup));
  EXPECT_TRUE(testing_tools::eventually([&] { return device->alive() && device->alive(); }));
}

}  // namespace
}  // namespace blk
