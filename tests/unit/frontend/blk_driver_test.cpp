#include "libvhost/frontend/blk_driver.hpp"

#include <gtest/gtest.h>

#include "tests/unit/frontend/fake_disk.hpp"

namespace vhost::frontend {
namespace {

using namespace std::chrono_literals;

class BlkDriverTest : public testing::Test {
 protected:
  void attach(BlkOptions options = {}) {
    ASSERT_TRUE(memory_.add_region(std::size_t{4} << 20));
    auto connection = Connection::adopt(disk_.backend.socket());
    ASSERT_TRUE(connection);
    disk_.backend.run();
    auto driver = BlkDriver::attach(std::move(*connection), memory_, options);
    ASSERT_TRUE(driver) << driver.error().what;
    driver_ = std::move(*driver);
  }
  [[nodiscard]] static std::vector<std::byte> pattern(std::size_t bytes) {
    std::vector<std::byte> data(bytes);
    for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7 + i / 512);
    return data;
  }
  /// Polls until one request is back.
  BlkCompletion one() {
    BlkCompletion completion;
    for (int i = 0; i < 5000; ++i) {
      if (driver_->queue(0).poll(completion) == Poll::done) return completion;
      std::this_thread::sleep_for(1ms);
    }
    ADD_FAILURE() << "nothing came back";
    return completion;
  }

  SharedMemory memory_;
  FakeDisk disk_;
  std::unique_ptr<BlkDriver> driver_;
};

TEST_F(BlkDriverTest, ReadsTheCapacity) {
  attach();
  EXPECT_EQ(driver_->capacity_bytes(), FakeDisk::disk_bytes);
}

TEST_F(BlkDriverTest, ReadReturnsWhatWriteWrote) {
  attach();
  const auto data = pattern(9 * 512);
  auto seen = std::vector<std::byte>(data.size());
  ASSERT_TRUE(driver_->write(3, data));
  ASSERT_TRUE(driver_->read(3, seen));
  EXPECT_EQ(seen, data);
}

TEST_F(BlkDriverTest, WorksWithDirectDescriptors) {
  attach({.queue = {.ring = {.size = 16}}});
  const auto data = pattern(512);
  auto seen = std::vector<std::byte>(data.size());
  ASSERT_TRUE(driver_->write(0, data));
  ASSERT_TRUE(driver_->read(0, seen));
  EXPECT_EQ(seen, data);
}

TEST_F(BlkDriverTest, WorksForALegacyDevice) {
  disk_.backend.features &= ~bit(feature::version_1);
  attach();
  EXPECT_TRUE(driver_->write(0, pattern(512)));
}

TEST_F(BlkDriverTest, FailedRequestNamesItsSectorAndStatus) {
  attach();
  const auto done = driver_->write(FakeDisk::disk_bytes / 512, pattern(512));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().what, "write at sector 128 ended with status 1");
}

TEST_F(BlkDriverTest, UnsupportedRequestIsSaidToBe) {
  attach();
  const auto done = driver_->discard(0, 8);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().fault, Fault::unsupported);
}

TEST_F(BlkDriverTest, PartOfASectorIsRefused) {
  attach();
  EXPECT_FALSE(driver_->write(0, pattern(100)));
  EXPECT_FALSE(driver_->write(0, {}));
}

TEST_F(BlkDriverTest, IdEndsAtTheFirstZero) {
  attach();
  EXPECT_EQ(driver_->get_id().value_or(""), "fake");
}

TEST_F(BlkDriverTest, RequestsInBatchesComeBackWithTheirCookies) {
  attach();
  const auto buffer = memory_.allocate(4096, 4096);
  ASSERT_TRUE(buffer);
  std::uint64_t sum = 0;
  for (std::uint32_t i = 1; i <= 8; ++i) {
    const Segment data = buffer->segment((i - 1) * 512, 512);
    ASSERT_TRUE(driver_->queue(0).submit({.sector = i, .data = std::span(&data, 1), .cookie = i}));
  }
  driver_->queue(0).kick();
  for (int i = 0; i < 8; ++i) {
    const BlkCompletion completion = one();
    EXPECT_EQ(completion.status, BlkStatus::ok);
    sum += completion.cookie;
  }
  EXPECT_EQ(sum, 36u);
}

TEST_F(BlkDriverTest, PreparedRequestRunsAgainForOtherSectors) {
  attach();
  ASSERT_TRUE(driver_->write(1, pattern(512)));
  const auto buffer = memory_.allocate(512, 512);
  ASSERT_TRUE(buffer);
  const Segment data = buffer->segment();
  const auto slot = driver_->queue(0).prepare({.data = std::span(&data, 1), .cookie = 5});
  ASSERT_TRUE(slot);
  for (const std::uint64_t sector : {0u, 1u}) {
    driver_->queue(0).start(*slot, sector);
    driver_->queue(0).kick();
    EXPECT_EQ(one().cookie, 5u);
    EXPECT_EQ(buffer->data[1], std::byte{static_cast<std::uint8_t>(sector * 7)});
  }
  EXPECT_TRUE(driver_->queue(0).drop(*slot));
  EXPECT_FALSE(driver_->queue(0).drop(*slot));
}

TEST_F(BlkDriverTest, FullQueueRefusesUntilPolled) {
  attach({.queue = {.ring = {.size = 2, .indirect = 4}}});
  disk_.mute = true;
  EXPECT_TRUE(driver_->queue(0).submit({.type = BlkType::flush}));
  EXPECT_TRUE(driver_->queue(0).submit({.type = BlkType::flush}));
  EXPECT_FALSE(driver_->queue(0).submit({.type = BlkType::flush}));
}

TEST_F(BlkDriverTest, DetachReturnsTheCookiesOfWhatIsOutAndStartBeginsAnew) {
  attach();
  disk_.mute = true;
  ASSERT_TRUE(driver_->queue(0).submit({.type = BlkType::flush, .cookie = 70}));
  ASSERT_TRUE(driver_->queue(0).submit({.type = BlkType::flush, .cookie = 71}));
  driver_->queue(0).kick();
  const auto returned = driver_->detach();
  ASSERT_EQ(returned.size(), 2u);
  EXPECT_EQ(returned[0].cookie, 70u);
  EXPECT_EQ(returned[1].cookie, 71u);
  EXPECT_EQ(driver_->queue(0).outstanding(), 0u);
}

TEST_F(BlkDriverTest, GoesOnAfterStopAndStart) {
  attach();
  ASSERT_TRUE(driver_->write(0, pattern(512)));
  ASSERT_TRUE(driver_->stop());
  ASSERT_TRUE(driver_->start());
  auto seen = std::vector<std::byte>(512);
  ASSERT_TRUE(driver_->read(0, seen));
  EXPECT_EQ(seen, pattern(512));
}

TEST_F(BlkDriverTest, SilentDeviceEndsARequestAtItsDeadline) {
  attach({.request_deadline = 20ms});
  disk_.mute = true;
  const auto done = driver_->flush();
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().what, "the flush request did not come back in time");
}

TEST_F(BlkDriverTest, DeviceThatUsesWhatItWasNotGivenIsAnError) {
  attach();
  disk_.spoil_ids = true;
  const auto done = driver_->flush();
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().what.find("beyond the ring"), std::string::npos) << done.error().what;
}

TEST_F(BlkDriverTest, BackendThatDiesDuringARequestIsNoticed) {
  attach();
  disk_.mute = true;
  std::thread killer([this] {
    std::this_thread::sleep_for(20ms);
    disk_.die();
  });
  const auto done = driver_->flush();
  killer.join();
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().what.find("went away"), std::string::npos) << done.error().what;
}

}  // namespace
}  // namespace vhost::frontend
