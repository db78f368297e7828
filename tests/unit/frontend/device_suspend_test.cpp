#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "libvhost/frontend/device.hpp"
#include "tests/unit/frontend/fake_backend.hpp"

/* A device that is stopped with requests in flight, and goes on elsewhere. */
namespace vhost::frontend {
namespace {

constexpr std::uint64_t carrying = bit(protocol_feature::inflight_shmfd) |
                                   bit(protocol_feature::get_vring_base_inflight) |
                                   bit(protocol_feature::get_vring_base_skip_drain);
constexpr off_t region_bytes = 4096;

class DeviceSuspendTest : public testing::Test {
 protected:
  DeviceSuspendTest() {
    EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20));
    backend_.protocol_features |= carrying;
    backend_.on(Request::get_inflight_fd, [](FakeBackend& self, Message& got) {
      const UniqueFd fd(::memfd_create("inflight", MFD_CLOEXEC));
      ASSERT_EQ(::ftruncate(fd.get(), 2 * region_bytes), 0);
      auto description = read_once<InflightDescription>(got.payload.data());
      description.mmap_size_bytes = region_bytes;
      description.mmap_offset_bytes = region_bytes;
      const int number = fd.get();
      self.reply(got, bytes_of(description), std::span(&number, 1));
    });
    backend_.on(Request::get_vring_base_skip_drain, [](FakeBackend& self, Message& got) {
      auto state = read_once<VringState>(got.payload.data());
      state.value = 3;
      self.reply(got, bytes_of(state));
    });
    successor_.protocol_features = backend_.protocol_features;
  }
  static Connection connect(FakeBackend& backend) {
    auto connection = Connection::adopt(backend.socket());
    EXPECT_TRUE(connection);
    backend.run();
    return std::move(*connection);
  }
  void start_device(std::uint64_t protocol = carrying) {
    device_ = std::make_unique<Device>(connect(backend_), memory_);
    ASSERT_TRUE(device_->negotiate({.required_protocol_features = protocol}));
    ASSERT_TRUE(device_->make_queues(1, {.ring = {.size = 16}}));
    ASSERT_TRUE(device_->start());
  }
  [[nodiscard]] std::uint32_t base_told() const {
    const auto* told = successor_.find(Request::set_vring_base);
    return told == nullptr ? UINT32_MAX : read_once<VringState>(told->payload.data()).value;
  }

  SharedMemory memory_;
  FakeBackend backend_;
  FakeBackend successor_;
  std::unique_ptr<Device> device_;
};

TEST_F(DeviceSuspendTest, TellsTheSuccessorTheBaseThatWasAnswered) {
  start_device();
  ASSERT_TRUE(device_->suspend());
  EXPECT_FALSE(device_->running());
  ASSERT_TRUE(device_->reconnect(connect(successor_)));
  backend_.stop();
  successor_.stop();
  EXPECT_TRUE(backend_.saw(Request::get_vring_base_skip_drain));
  EXPECT_FALSE(backend_.saw(Request::get_vring_base));
  EXPECT_EQ(base_told(), 3u) << "not the used index, as after a crash";
}

TEST_F(DeviceSuspendTest, TellsTheUsedIndexWhereItWentOnAndWasCutOff) {
  start_device();
  ASSERT_TRUE(device_->suspend());
  ASSERT_TRUE(device_->start());
  backend_.stop();
  ASSERT_TRUE(device_->reconnect(connect(successor_)));
  successor_.stop();
  EXPECT_EQ(base_told(), 0u);
}

TEST_F(DeviceSuspendTest, IsRefusedWhereItWasNotNegotiated) {
  start_device(0);
  EXPECT_FALSE(device_->suspend());
  EXPECT_TRUE(device_->running());
  EXPECT_FALSE(has(device_->protocol_features(), protocol_feature::get_vring_base_inflight))
      << "nobody asked for it";
}

TEST_F(DeviceSuspendTest, MovesTheContentOfTheInflightRegionAndNotItsFile) {
  start_device();
  EXPECT_FALSE(device_->move_inflight()) << "somebody writes there";
  ASSERT_TRUE(device_->suspend());
  const std::string_view words = "two requests are left";
  ASSERT_GT(::pwrite(device_->inflight_fd(), words.data(), words.size(), region_bytes), 0);
  struct stat before{}, after{};
  ::fstat(device_->inflight_fd(), &before);
  ASSERT_TRUE(device_->move_inflight());
  ::fstat(device_->inflight_fd(), &after);
  EXPECT_NE(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_size, region_bytes);

  ASSERT_TRUE(device_->reconnect(connect(successor_)));
  successor_.stop();
  const auto* told = successor_.find(Request::set_inflight_fd);
  ASSERT_NE(told, nullptr);
  const auto described = read_once<InflightDescription>(told->payload.data());
  EXPECT_EQ(described.mmap_offset_bytes, 0u);
  EXPECT_EQ(described.mmap_size_bytes, static_cast<std::uint64_t>(region_bytes));
  std::string there(words.size(), '\0');
  EXPECT_GT(::pread(device_->inflight_fd(), there.data(), there.size(), 0), 0);
  EXPECT_EQ(there, words);
}

}  // namespace
}  // namespace vhost::frontend
