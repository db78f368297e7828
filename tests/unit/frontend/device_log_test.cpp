#include <algorithm>

#include <gtest/gtest.h>

#include "libvhost/frontend/device.hpp"
#include "libvhost/memory/dirty_log.hpp"
#include "tests/unit/frontend/fake_backend.hpp"

/* A driver that has its back-end log what it writes. */
namespace vhost::frontend {
namespace {

class DeviceLogTest : public testing::Test {
 protected:
  DeviceLogTest() {
    EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20));
    backend_.features |= bit(feature::log_all);
    backend_.protocol_features |= bit(protocol_feature::log_shmfd);
    answer_log_with(0);
  }
  void answer_log_with(std::uint64_t value) {
    backend_.on(Request::set_log_base, [this, value](FakeBackend& self, Message& got) {
      const auto log = read_once<LogDescription>(got.payload.data());
      auto mapped = DirtyLog::map(got.fds.front().get(), log.offset_bytes, log.size_bytes);
      EXPECT_TRUE(mapped) << mapped.error().what;
      log_ = *mapped;
      self.reply_u64(got, value);
    });
  }
  void start_device() {
    auto connection = Connection::adopt(backend_.socket());
    backend_.run();
    device_ = std::make_unique<Device>(std::move(*connection), memory_);
    ASSERT_TRUE(device_->negotiate({}));
    ASSERT_TRUE(device_->make_queues(2, {.ring = {.size = 16}}));
    ASSERT_TRUE(device_->start());
  }
  /// What came of these, in order.
  [[nodiscard]] std::vector<FakeBackend::Seen> seen(std::initializer_list<Request> which) {
    backend_.stop();
    std::vector<FakeBackend::Seen> found;
    for (const auto& message : backend_.seen) {
      if (std::ranges::find(which, message.request) != which.end()) found.push_back(message);
    }
    return found;
  }
  [[nodiscard]] std::uint64_t guest_address(std::uint64_t frontend) const {
    const auto& region = *memory_.regions().front();
    return region.guest_address() + (frontend - region.wire().frontend_address);
  }

  SharedMemory memory_;
  FakeBackend backend_;
  std::unique_ptr<Device> device_;
  std::shared_ptr<DirtyLog> log_;
};

TEST_F(DeviceLogTest, TurnsItOnAndOffWhileTheDeviceRuns) {
  start_device();
  ASSERT_TRUE(device_->start_log());
  ASSERT_TRUE(device_->stop_log());
  const auto messages =
      seen({Request::set_log_base, Request::set_features, Request::set_vring_addr});
  // Start: features, two rings. On: log, features, two rings. Off: features, two rings.
  ASSERT_EQ(messages.size(), 10u);
  EXPECT_EQ(messages[3].request, Request::set_log_base);
  for (const std::size_t at : {std::size_t{4}, std::size_t{7}}) {
    const bool on = at == 4;
    ASSERT_EQ(messages[at].request, Request::set_features);
    EXPECT_EQ(has(read_once<std::uint64_t>(messages[at].payload.data()), feature::log_all), on);
    for (std::size_t ring = 0; ring < 2; ++ring) {
      const auto addr = read_once<VringAddr>(messages[at + 1 + ring].payload.data());
      EXPECT_EQ(addr.index, ring);
      EXPECT_EQ(addr.flags, on ? vring_flag_log : 0u);
      EXPECT_EQ(addr.log, on ? guest_address(addr.used) : 0);
    }
  }
}

TEST_F(DeviceLogTest, TellsTheNextStartToo) {
  start_device();
  ASSERT_TRUE(device_->start_log());
  ASSERT_TRUE(device_->stop());
  ASSERT_TRUE(device_->start());
  const auto messages = seen({Request::set_log_base, Request::set_features});
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_TRUE(has(read_once<std::uint64_t>(messages[3].payload.data()), feature::log_all));
  EXPECT_EQ(messages[4].request, Request::set_log_base) << "once there are rings";
}

TEST_F(DeviceLogTest, ReadsEachMarkOnce) {
  start_device();
  ASSERT_TRUE(device_->start_log());
  const std::uint64_t first = memory_.regions().front()->guest_address();
  const std::uint64_t last = first + (1 << 20) - DirtyPages::page_bytes;
  ASSERT_TRUE(log_->reaches(last + DirtyPages::page_bytes));
  DirtyMarks marks;
  marks.move_to(log_.get());
  marks.add(first, 1);
  marks.add(last, 1);
  marks.flush();
  EXPECT_EQ(device_->dirty_pages().take(), (std::vector{first, last}));
  EXPECT_TRUE(device_->dirty_pages().take().empty());
}

TEST_F(DeviceLogTest, SaysThatTheBackEndHasNoLogOrRefusesIt) {
  answer_log_with(1);
  start_device();
  EXPECT_FALSE(device_->start_log());
  ASSERT_TRUE(device_->stop());
  EXPECT_TRUE(device_->start()) << "without it";

  FakeBackend plain;
  auto connection = Connection::adopt(plain.socket());
  plain.run();
  Device other(std::move(*connection), memory_);
  ASSERT_TRUE(other.negotiate({}));
  EXPECT_FALSE(other.start_log());
}

}  // namespace
}  // namespace vhost::frontend
