#include "libvhost/frontend/device.hpp"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/unit/frontend/fake_backend.hpp"

namespace vhost::frontend {
namespace {

using namespace std::chrono_literals;

class DeviceTest : public testing::Test {
 protected:
  DeviceTest() { EXPECT_TRUE(memory_.add_region(std::size_t{1} << 20)); }
  static Connection connect(FakeBackend& backend) {
    auto connection = Connection::adopt(backend.socket());
    EXPECT_TRUE(connection);
    backend.run();
    return std::move(*connection);
  }
  void make_device() { device_ = std::make_unique<Device>(connect(backend_), memory_); }
  void start_device(std::size_t queues = 1, QueueOptions options = {.ring = {.size = 16}}) {
    make_device();
    ASSERT_TRUE(device_->negotiate({}));
    ASSERT_TRUE(device_->make_queues(queues, options));
    const auto started = device_->start();
    ASSERT_TRUE(started) << started.error().what;
  }
  [[nodiscard]] std::vector<Request> order() {
    backend_.stop();
    std::vector<Request> requests;
    for (const auto& message : backend_.seen) requests.push_back(message.request);
    return requests;
  }
  [[nodiscard]] static std::ptrdiff_t place(const std::vector<Request>& requests, Request request) {
    return std::ranges::find(requests, request) - requests.begin();
  }
  static constexpr std::array<Segment, 1> header{Segment{0x1000, 16}};

  SharedMemory memory_;
  FakeBackend backend_;
  std::unique_ptr<Device> device_;
};

TEST_F(DeviceTest, TakesOfTheWishesWhatIsOffered) {
  make_device();
  ASSERT_TRUE(device_->negotiate({.features = bit(feature::version_1) | bit(5)}));
  EXPECT_EQ(device_->features(), bit(feature::version_1));
  EXPECT_EQ(device_->protocol_features(), backend_.protocol_features);
  EXPECT_EQ(device_->max_queues(), 4u);
}

TEST_F(DeviceTest, RequiredFeatureThatIsMissingIsNamed) {
  make_device();
  const auto done = device_->negotiate({.required_features = bit(feature::ring_packed)});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().what, "the back-end does not offer feature bits 34");
}

TEST_F(DeviceTest, RequiredProtocolFeatureThatIsMissingIsNamed) {
  make_device();
  const auto done =
      device_->negotiate({.required_protocol_features = bit(protocol_feature::inflight_shmfd)});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().what, "the back-end does not offer protocol feature bits 12");
}

TEST_F(DeviceTest, SetsMemoryBeforeRingsAndEnablesThemLast) {
  start_device(2);
  const auto requests = order();
  EXPECT_LT(place(requests, Request::set_features), place(requests, Request::set_mem_table));
  EXPECT_LT(place(requests, Request::set_mem_table), place(requests, Request::set_vring_addr));
  EXPECT_LT(place(requests, Request::set_vring_addr), place(requests, Request::set_vring_kick));
  EXPECT_LT(place(requests, Request::set_vring_kick), place(requests, Request::set_vring_enable));
  EXPECT_EQ(std::ranges::count(requests, Request::set_vring_enable), 2);
}

TEST_F(DeviceTest, DoesNotEnableRingsWithoutBit30) {
  make_device();
  ASSERT_TRUE(device_->negotiate({.features = bit(feature::version_1)}));
  ASSERT_TRUE(device_->make_queues(1, {.ring = {.size = 16}}));
  ASSERT_TRUE(device_->start());
  EXPECT_EQ(std::ranges::count(order(), Request::set_vring_enable), 0);
}

TEST_F(DeviceTest, SharesRegionsOneByOneWithMemorySlots) {
  backend_.protocol_features |= bit(protocol_feature::configure_mem_slots);
  ASSERT_TRUE(memory_.add_region(4096));
  start_device();
  const auto id = device_->add_region(8192);
  ASSERT_TRUE(id);
  ASSERT_TRUE(device_->remove_region(*id));
  const auto requests = order();
  EXPECT_EQ(std::ranges::count(requests, Request::add_mem_reg), 3);
  EXPECT_EQ(std::ranges::count(requests, Request::rem_mem_reg), 1);
  EXPECT_EQ(std::ranges::count(requests, Request::set_mem_table), 0);
}

TEST_F(DeviceTest, SharesTheWholeTableWithoutMemorySlots) {
  start_device();
  const auto id = device_->add_region(8192);
  ASSERT_TRUE(id);
  ASSERT_TRUE(device_->remove_region(*id));
  backend_.stop();
  std::vector<std::size_t> tables;
  for (const auto& message : backend_.seen) {
    if (message.request == Request::set_mem_table) tables.push_back(message.fds);
  }
  EXPECT_EQ(tables, (std::vector<std::size_t>{1, 2, 1}));
}

TEST_F(DeviceTest, TellsNoAddressOfItsOwnWhereTheBackendTakesTheGuests) {
  constexpr std::uint64_t low = 0x10000;
  for (const std::uint64_t slots : {std::uint64_t{0}, bit(protocol_feature::configure_mem_slots)}) {
    SharedMemory memory;
    ASSERT_TRUE(memory.add_region(1 << 20, {.guest_address = low}));
    FakeBackend backend;
    backend.protocol_features |= bit(protocol_feature::gpa_addresses) | slots;
    Device device(connect(backend), memory);
    ASSERT_TRUE(device.negotiate({.protocol_features = backend.protocol_features}));
    ASSERT_TRUE(device.make_queues(2, {.ring = {.size = 16}}));
    ASSERT_TRUE(device.start());
    const auto id = device.add_region(4096, {.guest_address = low + (1 << 20)});
    ASSERT_TRUE(id);
    ASSERT_TRUE(device.remove_region(*id));
    backend.stop();
    int told = 0;
    for (const auto& message : backend.seen) {
      if (message.request == Request::set_vring_addr) {
        const auto addr = read_once<VringAddr>(message.payload.data());
        const auto own = device.queue(addr.index).ring().addresses(addr.index);
        const std::uint64_t begin = memory.regions()[0]->wire().frontend_address;
        EXPECT_EQ(addr.descriptors - low, own.descriptors - begin);
        EXPECT_EQ(addr.available - low, own.available - begin);
        EXPECT_EQ(addr.used - low, own.used - begin);
        ++told;
      }
      std::size_t at = 8;  // of the first region, in all three messages about memory
      if (message.request != Request::set_mem_table && message.request != Request::add_mem_reg &&
          message.request != Request::rem_mem_reg) {
        continue;
      }
      for (; at < message.payload.size(); at += sizeof(MemoryRegion), ++told) {
        const auto region = read_once<MemoryRegion>(message.payload.data() + at);
        EXPECT_EQ(region.frontend_address, region.guest_address);
      }
    }
    EXPECT_EQ(told, slots != 0 ? 2 + 3 : 2 + 1 + 2 + 1);
  }
}

TEST_F(DeviceTest, RefusedRegionIsGoneAgain) {
  start_device();
  backend_.on(Request::set_mem_table, [](auto& self, auto& got) { self.reply_u64(got, 1); });
  EXPECT_FALSE(device_->add_region(8192));
  EXPECT_TRUE(memory_.regions().size() == 1 || !memory_.regions()[1]);
}

TEST_F(DeviceTest, NinthRegionWithoutSlotsIsAnErrorNotAMessage) {
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(memory_.add_region(4096));
  make_device();
  ASSERT_TRUE(device_->negotiate({}));
  ASSERT_TRUE(device_->make_queues(1, {.ring = {.size = 16}}));
  EXPECT_FALSE(device_->start());
  EXPECT_EQ(std::ranges::count(order(), Request::set_mem_table), 0);
}

TEST_F(DeviceTest, StopTakesTheBaseAndStartGoesOnThere) {
  backend_.base = 42;
  start_device();
  ASSERT_TRUE(device_->stop());
  ASSERT_TRUE(device_->start());
  backend_.stop();
  std::vector<std::uint32_t> bases;
  for (const auto& message : backend_.seen) {
    if (message.request != Request::set_vring_base) continue;
    bases.push_back(read_once<VringState>(message.payload.data()).value);
  }
  EXPECT_EQ(bases, (std::vector<std::uint32_t>{0, 42}));
}

TEST_F(DeviceTest, BaseOfAnotherRingIsAnError) {
  backend_.on(Request::get_vring_base,
              [](auto& self, auto& got) { self.reply(got, bytes_of(VringState{5, 0})); });
  start_device();
  EXPECT_FALSE(device_->stop());
}

TEST_F(DeviceTest, DetachReturnsEveryChainOnce) {
  start_device(2);
  ASSERT_TRUE(device_->queue(0).ring().add(header, {}, 7));
  ASSERT_TRUE(device_->queue(1).ring().add(header, {}, 8));
  ASSERT_TRUE(device_->queue(1).ring().add(header, {}, 9));
  const auto returned = device_->detach();
  ASSERT_EQ(returned.size(), 3u);
  EXPECT_EQ(returned[0].cookie, 7u);
  EXPECT_EQ(returned[1].queue, 1u);
  EXPECT_EQ(returned[2].cookie, 9u);
  EXPECT_FALSE(returned[2].finished);
  EXPECT_TRUE(device_->detach().empty());
}

TEST_F(DeviceTest, DetachWorksWithoutABackend) {
  start_device();
  ASSERT_TRUE(device_->queue(0).ring().add(header, {}, 7));
  backend_.stop();
  EXPECT_TRUE(device_->lost());
  EXPECT_EQ(device_->detach().size(), 1u);
}

TEST_F(DeviceTest, PollingQueueSendsNoDescriptors) {
  start_device(1, {.ring = {.size = 16}, .calls = false, .kicks = false});
  backend_.stop();
  for (const Request request : {Request::set_vring_call, Request::set_vring_kick}) {
    const auto* message = backend_.find(request);
    ASSERT_NE(message, nullptr);
    EXPECT_EQ(message->fds, 0u);
    EXPECT_EQ(read_once<std::uint64_t>(message->payload.data()), vring_no_fd);
  }
}

TEST_F(DeviceTest, MoreQueuesThanTheBackendHasAreRefused) {
  make_device();
  ASSERT_TRUE(device_->negotiate({}));
  EXPECT_TRUE(device_->make_queues(4, {.ring = {.size = 16}}));
  EXPECT_FALSE(device_->make_queues(5, {.ring = {.size = 16}}));
}

TEST_F(DeviceTest, StatusGoesUpToDriverOkAndBackToZero) {
  backend_.protocol_features |= bit(protocol_feature::status);
  start_device();
  ASSERT_TRUE(device_->stop());
  backend_.stop();
  std::vector<std::uint64_t> values;
  for (const auto& message : backend_.seen) {
    if (message.request != Request::set_status) continue;
    values.push_back(read_once<std::uint64_t>(message.payload.data()));
  }
  EXPECT_EQ(values, (std::vector<std::uint64_t>{3, 11, 15, 0}));
}

TEST_F(DeviceTest, ClearedFeaturesOkEndsTheStart) {
  backend_.protocol_features |= bit(protocol_feature::status);
  backend_.on(Request::get_status, [](auto& self, auto& got) { self.reply_u64(got, 3); });
  make_device();
  ASSERT_TRUE(device_->negotiate({}));
  ASSERT_TRUE(device_->make_queues(1, {.ring = {.size = 16}}));
  EXPECT_FALSE(device_->start());
}

TEST_F(DeviceTest, ConfigComesBackAsLongAsAsked) {
  make_device();
  ASSERT_TRUE(device_->negotiate({}));
  const auto config = device_->read_config(0, 60);
  ASSERT_TRUE(config);
  EXPECT_EQ(config->size(), 60u);
}

TEST_F(DeviceTest, EmptyConfigReplyIsARefusal) {
  backend_.on(Request::get_config, [](auto& self, auto& got) { self.reply(got, {}); });
  make_device();
  ASSERT_TRUE(device_->negotiate({}));
  EXPECT_FALSE(device_->read_config(0, 60));
}

TEST_F(DeviceTest, ConfigChangeIsToldOnce) {
  backend_.protocol_features |= bit(protocol_feature::backend_req);
  backend_.on(Request::get_config, [](FakeBackend& self, Message& got) {
    EXPECT_TRUE(send_message(self.kept.front().get(), 2, 0, {}));
    self.reply(got, got.payload);
  });
  make_device();
  ASSERT_TRUE(device_->negotiate({}));
  EXPECT_FALSE(device_->take_config_changed());
  ASSERT_TRUE(device_->read_config(0, 8));
  std::ignore = device_->connection().serve_channel();
  EXPECT_TRUE(device_->take_config_changed());
  EXPECT_FALSE(device_->take_config_changed());
}

/// Answers GET_INFLIGHT_FD with a fresh region.
void give_inflight(FakeBackend& self, Message& got) {
  const UniqueFd fd(::memfd_create("inflight", MFD_CLOEXEC));
  auto description = read_once<InflightDescription>(got.payload.data());
  description.mmap_size_bytes = 4096;
  const int number = fd.get();
  self.reply(got, bytes_of(description), std::span(&number, 1));
}

TEST_F(DeviceTest, ReconnectGivesTheKeptInflightRegionAndTheUsedIndexToTheSuccessor) {
  backend_.protocol_features |= bit(protocol_feature::inflight_shmfd);
  backend_.on(Request::get_inflight_fd, give_inflight);
  start_device();
  SplitDriverRing& ring = device_->queue(0).ring().split();
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(ring.add(header, {}, i));
  device_->queue(0).submit();
  const std::uint16_t used = 1;  // the first was finished before the crash
  std::memcpy(ring.device_area().data() + 2, &used, sizeof used);
  backend_.stop();

  FakeBackend successor;
  successor.protocol_features = backend_.protocol_features;
  ASSERT_TRUE(device_->reconnect(connect(successor)));
  successor.stop();
  EXPECT_FALSE(successor.saw(Request::get_inflight_fd));
  ASSERT_TRUE(successor.saw(Request::set_inflight_fd));
  EXPECT_EQ(successor.find(Request::set_inflight_fd)->fds, 1u);
  const auto* base = successor.find(Request::set_vring_base);
  EXPECT_EQ(read_once<VringState>(base->payload.data()).value, 1u);
  EXPECT_EQ(ring.outstanding(), 3u);
}

TEST_F(DeviceTest, ReconnectWithoutInflightWantsQueuesPolledAndOffersAgain) {
  start_device();
  SplitDriverRing& ring = device_->queue(0).ring().split();
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(ring.add(header, {}, i));
  device_->queue(0).submit();
  const std::uint16_t used = 1;
  std::memcpy(ring.device_area().data() + 2, &used, sizeof used);
  backend_.stop();

  FakeBackend early;
  EXPECT_FALSE(device_->reconnect(connect(early)));
  Completion completion;
  ASSERT_EQ(ring.poll(completion), Poll::done);
  FakeBackend successor;
  ASSERT_TRUE(device_->reconnect(connect(successor)));
  EXPECT_EQ(ring.outstanding(), 2u);
  EXPECT_TRUE(device_->running());
  successor.stop();
  early.stop();
}

TEST_F(DeviceTest, ReconnectRefusesASuccessorWithFewerFeatures) {
  start_device();
  backend_.stop();
  FakeBackend successor;
  successor.features &= ~bit(feature::event_idx);
  EXPECT_FALSE(device_->reconnect(connect(successor)));
}

TEST_F(DeviceTest, WaitNoticesThatTheBackendIsGone) {
  start_device();
  backend_.stop();
  EXPECT_EQ(device_->wait(0, 1000ms), Wake::lost);
}

TEST_F(DeviceTest, WaitEndsWithTheTime) {
  start_device();
  EXPECT_EQ(device_->wait(0, 5ms), Wake::timeout);
}

}  // namespace
}  // namespace vhost::frontend
