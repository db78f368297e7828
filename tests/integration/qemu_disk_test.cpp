// A disk under the messages of QEMU, in the orders of its versions: what must outlast a stop and a
// reset, and what must not.
#include <algorithm>
#include <set>

#include "tests/integration/fixture.hpp"
#include "tests/integration/qemu.hpp"

namespace integration {
namespace {

using vhost::bit;
using vhost::bytes_of;
using vhost::Request;
using vhost::VringState;
using vhost::frontend::BlkCompletion;
using vhost::frontend::BlkQueue;
using vhost::frontend::Poll;
namespace blk_feature = vhost::frontend::blk_feature;

struct Way {
  Version version;
  bool packed;
};

/// A driver of the disk: writes whose bytes tell which they are.
class Writer {
 public:
  static constexpr std::size_t write_bytes = 16 * kibi;
  static constexpr std::uint16_t slots = 20;  // three descriptors each in a ring of 64

  explicit Writer(Qemu& qemu, std::uint32_t rings) {
    for (std::uint32_t ring = 0; ring < rings; ++ring) {
      queues_.push_back(must(BlkQueue::create(qemu.memory(), qemu.queue(ring), slots)));
      for (std::uint16_t i = 0; i < slots; ++i) {
        buffers_.push_back(must(qemu.memory().allocate(write_bytes, 4096)));
      }
    }
  }
  /// Fills the rings with writes, of which the device is told.
  void submit() {
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      const std::uint64_t seed = ++seed_;
      fill(buffers_[i].bytes(), seed);
      const Segment data = buffers_[i].segment();
      BlkQueue& queue = queues_[i / slots];
      const std::uint64_t at = i * (write_bytes / sector);
      if (!queue.submit({BlkType::write, at, std::span(&data, 1), 0, false, seed})) {
        throw std::runtime_error("the ring is full");
      }
      expected_[at] = seed;
      owed_.insert(seed);
    }
    for (BlkQueue& queue : queues_) queue.kick();
  }
  /// Takes in what is done; each once, and well.
  void reap() {
    for (BlkQueue& queue : queues_) {
      BlkCompletion done;
      while (queue.poll(done) == Poll::done) {
        EXPECT_EQ(done.status, BlkStatus::ok);
        EXPECT_EQ(owed_.erase(done.cookie), 1U) << "it is done twice";
      }
    }
  }
  [[nodiscard]] bool settles() {
    return eventually([&] {
      reap();
      return owed_.empty();
    });
  }
  /// After a reset: what was not done is nobody's.
  void forget() {
    owed_.clear();
    for (BlkQueue& queue : queues_) queue.forget();
  }
  [[nodiscard]] std::size_t owed() const { return owed_.size(); }
  [[nodiscard]] const std::map<std::uint64_t, std::uint64_t>& expected() const { return expected_; }

 private:
  std::vector<BlkQueue> queues_;
  std::vector<Buffer> buffers_;
  std::set<std::uint64_t> owed_;
  std::map<std::uint64_t, std::uint64_t> expected_;  // first sector -> seed
  std::uint64_t seed_ = 0;
};

class QemuDisk : public Served, public ::testing::WithParamInterface<Way> {
 protected:
  static constexpr std::uint32_t rings = 2;

  void SetUp() override {
    serve({"--workers", "2"});
    qemu = std::make_unique<Qemu>(
        socket,
        QemuOptions{.version = GetParam().version, .rings = rings, .packed = GetParam().packed});
    writer = std::make_unique<Writer>(*qemu, rings);
  }
  void expect_written() {
    for (const auto& [at, seed] : writer->expected()) {
      EXPECT_TRUE(image_holds(at, seed, Writer::write_bytes)) << at;
    }
  }
  [[nodiscard]] bool called(std::uint32_t ring) {
    return eventually([&] { return qemu->queue(ring).clear_call() > 0; });
  }
  std::unique_ptr<Qemu> qemu;
  std::unique_ptr<Writer> writer;
};

TEST_P(QemuDisk, WorksFromTheStartAndTellsItsStatus) {
  EXPECT_EQ(qemu->status(), 0U);
  qemu->start();
  EXPECT_EQ(qemu->status(), 0xfU);
  writer->submit();
  EXPECT_TRUE(writer->settles());
  expect_written();
  qemu->stop();
  EXPECT_EQ(qemu->status(), 0U);
}

TEST_P(QemuDisk, AStopEndsWhatIsInFlightAndTheNextStartDoesTheRest) {
  std::size_t left = 0;
  for (int round = 0; round < 30; ++round) {
    qemu->start();
    writer->reap();
    if (writer->owed() == 0) writer->submit();
    qemu->stop();
    left += writer->owed();
  }
  qemu->start();
  EXPECT_TRUE(writer->settles());
  expect_written();
  EXPECT_GT(left, 0U) << "no stop came while something was in flight";
}

TEST_P(QemuDisk, AStoppedDeviceWritesAndCallsNothing) {
  qemu->start();
  writer->submit();
  qemu->stop();
  const auto whole = qemu->memory().regions().front()->bytes();
  const std::vector<std::byte> before(whole.begin(), whole.end());
  for (std::uint32_t ring = 0; ring < rings; ++ring) {
    (void)qemu->queue(ring).clear_call();
    qemu->queue(ring).kick();
  }
  ::usleep(50'000);
  EXPECT_TRUE(std::ranges::equal(before, whole));
  for (std::uint32_t ring = 0; ring < rings; ++ring) {
    EXPECT_EQ(qemu->queue(ring).clear_call(), 0U);
  }
}

TEST_P(QemuDisk, ABaseIsWhatWasTaken) {
  qemu->start();
  writer->submit();
  ASSERT_TRUE(writer->settles());
  qemu->stop();
  // A write is an indirect or three direct descriptors; of a split ring chains are counted.
  const std::uint32_t slots = 3 * Writer::slots;
  const std::uint32_t expected =
      GetParam().packed ? slots | 0x8000 | (slots | 0x8000) << 16 : Writer::slots;
  for (std::uint32_t ring = 0; ring < rings; ++ring) EXPECT_EQ(qemu->base(ring), expected);
}

TEST_P(QemuDisk, AfterARebootTheRingsBeginAnewInTheMemoryThatIsShared) {
  for (int round = 0; round < 10; ++round) {
    qemu->start();
    writer->submit();
    if (round % 2 == 0) {
      EXPECT_TRUE(writer->settles());
      expect_written();
    }
    qemu->stop();
    writer->reap();
    qemu->reset();
    writer->forget();
  }
  qemu->start();
  EXPECT_EQ(qemu->status(), 0xfU);
  writer->submit();
  EXPECT_TRUE(writer->settles());
  expect_written();
}

TEST_P(QemuDisk, ADriverOfOtherFeaturesMayFollow) {
  qemu->start();
  writer->submit();
  ASSERT_TRUE(writer->settles());
  qemu->stop();
  qemu->reset();
  // The firmware's driver is modest; features change where no ring runs.
  qemu->say_and_wait(Request::set_features, bit(vhost::feature::protocol_features));
  EXPECT_EQ(qemu->status(), 0U);
  qemu->start();
  writer->forget();
  writer->submit();
  EXPECT_TRUE(writer->settles());
}

TEST_P(QemuDisk, AResetForgetsTheInflightRegionAndKeepsTheCallDescriptors) {
  qemu->start();
  writer->submit();
  ASSERT_TRUE(writer->settles());
  qemu->stop();
  qemu->say_and_wait(Request::reset_device, std::span<const std::byte>{});
  // Started by hand, by one who tells neither again.
  auto& queue = qemu->queue(0);
  queue.ring().reset();
  qemu->say_and_wait(Request::set_features, qemu->features());
  qemu->say(Request::set_vring_num, VringState{0, queue.ring().size()});
  qemu->say(Request::set_vring_base, VringState{0, queue.ring().first_base()});
  qemu->say(Request::set_vring_addr, queue.ring().addresses(0));
  const int kick = queue.kick_fd();
  qemu->say(Request::set_vring_kick, std::uint64_t{0}, std::span(&kick, 1));
  qemu->say_and_wait(Request::set_vring_enable, VringState{0, 1});
  (void)queue.clear_call();
  ASSERT_FALSE(queue.ring().arm_calls());
  BlkQueue disk = must(BlkQueue::create(qemu->memory(), queue, 2));
  ASSERT_TRUE(disk.submit({BlkType::flush, 0, {}, 0, false, 5}));
  disk.kick();
  ASSERT_TRUE(called(0));
  BlkCompletion done;
  ASSERT_EQ(disk.poll(done), Poll::done);
  EXPECT_EQ(done.status, BlkStatus::ok);
}

TEST_P(QemuDisk, AResetOfRunningRingsEndsWhatIsInFlight) {
  qemu->start();
  writer->submit();
  qemu->say_and_wait(Request::reset_device, std::span<const std::byte>{});
  EXPECT_EQ(qemu->status(), 0U);
  const auto state = must(
      qemu->connection().ask_for<VringState>(Request::get_vring_base, bytes_of(VringState{0, 0})));
  EXPECT_EQ(state.value, 0U) << "nobody has configured it";
  writer->reap();
  qemu->reset();
  writer->forget();
  qemu->start();
  writer->submit();
  EXPECT_TRUE(writer->settles());
  expect_written();
}

TEST_P(QemuDisk, FeaturesThatAreRefusedTakeFeaturesOkBack) {
  auto& connection = qemu->connection();
  connection.acknowledge(true);
  EXPECT_FALSE(connection.tell(Request::set_features, qemu->features() | bit(63)));
  qemu->say_and_wait(Request::set_status, std::uint64_t{0xb});
  EXPECT_EQ(qemu->status(), 0x3U);
  qemu->say_and_wait(Request::set_features, qemu->features());
  qemu->say_and_wait(Request::set_status, std::uint64_t{0xb});
  EXPECT_EQ(qemu->status(), 0xbU);
}

TEST_P(QemuDisk, FeaturesThatNobodyCanRefuseEndTheConnection) {
  // QEMU does not look at FEATURES_OK again: it learns it by this, and connects again.
  qemu->say(Request::set_features, qemu->features() | bit(63));
  EXPECT_TRUE(qemu->connection().closed_within(long_wait));
}

INSTANTIATE_TEST_SUITE_P(
    Orders, QemuDisk,
    ::testing::Values(Way{Version::qemu_7_2, false}, Way{Version::qemu_10, false},
                      Way{Version::qemu_7_2, true}, Way{Version::qemu_10, true}),
    [](const auto& way) {
      return std::string(way.param.version == Version::qemu_10 ? "Qemu10" : "Qemu72") +
             (way.param.packed ? "Packed" : "Split");
    });

}  // namespace
}  // namespace integration
