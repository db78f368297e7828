// Messages that are wrong in form, number, order or size.
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "tests/integration/hostile.hpp"

namespace integration {
namespace {

using vhost::VringAddr;
using vhost::VringState;

std::uint32_t number(Request request) {
  return static_cast<std::uint32_t>(request);
}

/// The payload that a request has when it is right, in bytes.
std::size_t right_size(std::uint32_t request) {
  switch (static_cast<Request>(request)) {
    case Request::set_vring_addr: return 40;
    case Request::add_mem_reg:
    case Request::rem_mem_reg:
    case Request::set_mem_table: return 40;
    case Request::get_config:
    case Request::set_config: return 12 + 57;
    case Request::get_inflight_fd:
    case Request::set_inflight_fd: return 24;
    default: return 8;
  }
}

class HostileProtocol : public Hostile {
 protected:
  /// Every request of these sizes and descriptor counts, each on a connection of its own.
  void try_all(std::size_t descriptors) {
    const UniqueFd file = shared_file(mebi);
    const std::vector<int> fds(descriptors, file.get());
    for (std::uint32_t request = 0; request < 46; ++request) {
      const std::size_t right = right_size(request);
      for (const std::size_t size : {std::size_t{0}, right - 1, right, right + 1}) {
        auto connection = acquaintance();
        std::vector<std::byte> payload(size, std::byte{0});
        const std::uint32_t flags = size % 2 == 0 ? vhost::header_need_reply : 0;
        (void)connection.send_raw(request, flags, payload, fds);
        EXPECT_TRUE(answers_or_closes(connection)) << request << " of " << size << " bytes";
      }
    }
  }
};

TEST_F(HostileProtocol, NoRequestOfAnySizeHarms) {
  try_all(0);
}
TEST_F(HostileProtocol, NoRequestWithOneDescriptorHarms) {
  try_all(1);
}
TEST_F(HostileProtocol, NoRequestWithEightDescriptorsHarms) {
  try_all(8);
}
TEST_F(HostileProtocol, NoRequestWithSixteenDescriptorsHarms) {
  try_all(16);
}
TEST_F(HostileProtocol, NoRequestWithTheMostDescriptorsHarms) {
  try_all(253);
}

TEST_F(HostileProtocol, HundredsOfMessagesWithEightDescriptorsLeaveNone) {
  const UniqueFd file = shared_file(4096);
  const std::vector<int> fds(8, file.get());
  for (int round = 0; round < 50; ++round) {
    auto connection = stranger();
    for (int i = 0; i < 20; ++i) {
      (void)connection.send_raw(number(Request::set_mem_table), 0, std::array<std::byte, 8>{}, fds);
    }
  }
}

TEST_F(HostileProtocol, APayloadLargerThanAnyIsNotAwaited) {
  for (const std::uint32_t size : {4097U, 65536U, 0x7fffffffU, 0xffffffffU}) {
    auto connection = stranger();
    const vhost::Header header{number(Request::set_mem_table), vhost::header_version, size};
    must(connection.send_bytes(bytes_of(header)));
    EXPECT_TRUE(connection.closed_within(milliseconds(2000) * slowness)) << size;
  }
}

TEST_F(HostileProtocol, AMessageMayComeByteByByte) {
  auto connection = stranger();
  const vhost::Header header{number(Request::get_features), vhost::header_version, 0};
  for (const std::byte& byte : bytes_of(header)) {
    must(connection.send_bytes(std::span(&byte, 1)));
    ::usleep(200);
  }
  EXPECT_TRUE(connection.receive());
}

TEST_F(HostileProtocol, AMessageMayEndAnywhere) {
  std::vector<std::byte> message(12 + 40, std::byte{0});
  const vhost::Header header{number(Request::set_vring_addr), vhost::header_version, 40};
  std::memcpy(message.data(), &header, sizeof header);
  for (std::size_t bytes = 0; bytes < message.size(); ++bytes) {
    auto connection = stranger();
    if (bytes > 0) must(connection.send_bytes(std::span(message).first(bytes)));
  }
}

TEST_F(HostileProtocol, HalfAMessageHoldsUpNeitherStatisticsNorTheEnd) {
  auto connection = stranger();
  must(connection.send_bytes(std::array<std::byte, 5>{std::byte{1}}));
  const auto first = read_stats(stats).at("uptime_ms");
  EXPECT_TRUE(eventually([&] { return read_stats(stats).at("uptime_ms") != first; }));
  EXPECT_EQ(daemon->terminate(), good_end);
  restart();
}

TEST_F(HostileProtocol, WrongVersionsAndRepliesEndTheConnectionOrAreRefused) {
  for (std::uint32_t flags = 0; flags < 16; ++flags) {
    auto connection = stranger();
    const vhost::Header header{number(Request::get_features), flags, 0};
    must(connection.send_bytes(bytes_of(header)));
    EXPECT_TRUE(answers_or_closes(connection)) << flags;
  }
}

TEST_F(HostileProtocol, IndicesBeyondTheLastRingAreRefused) {
  auto connection = acquaintance();
  for (const std::uint32_t index : {0U, 3U, 4U, 5U, 255U, 256U, 65535U, 65536U, 0xffffffffU}) {
    const bool exists = index < queues;
    const VringState state{index, 1};
    EXPECT_EQ(accepts(connection, Request::set_vring_num, state), exists) << index;
    EXPECT_EQ(accepts(connection, Request::set_vring_base, state), exists) << index;
    EXPECT_EQ(accepts(connection, Request::set_vring_enable, state), exists) << index;
    EXPECT_EQ(accepts(connection, Request::set_vring_addr, VringAddr{index, 0, 0, 0, 0, 0}), exists)
        << index;
    const UniqueFd fd = event();
    for (const auto request :
         {Request::set_vring_kick, Request::set_vring_call, Request::set_vring_err}) {
      const int one = fd.get();
      EXPECT_EQ(accepts(connection, request, std::uint64_t{index}, std::span(&one, 1)), exists)
          << index;
    }
  }
}

TEST_F(HostileProtocol, GetVringBaseOfNoRingEndsTheConnectionOnly) {
  for (const std::uint32_t index : {4U, 256U, 65536U, 0xffffffffU}) {
    auto connection = acquaintance();
    EXPECT_FALSE(
        connection.ask_for<VringState>(Request::get_vring_base, bytes_of(VringState{index, 0})));
  }
}

TEST_F(HostileProtocol, SizesThatNoPackedRingHasAreRefused) {
  auto connection = acquaintance(0);
  for (const std::uint32_t size : {0U, 32769U, 65535U, 65536U, 1U << 31, 0xffffffffU}) {
    EXPECT_FALSE(accepts(connection, Request::set_vring_num, VringState{0, size})) << size;
  }
  for (const std::uint32_t size : {1U, 3U, 32767U, 32768U}) {
    EXPECT_TRUE(accepts(connection, Request::set_vring_num, VringState{0, size})) << size;
  }
}

TEST_F(HostileProtocol, RingSizesThatAreNoneAreRefused) {
  auto connection = acquaintance();
  for (const std::uint32_t size : {0U, 3U, 32769U, 65535U, 65536U, 1U << 31, 0xffffffffU}) {
    EXPECT_FALSE(accepts(connection, Request::set_vring_num, VringState{0, size})) << size;
  }
  for (const std::uint32_t size : {1U, 2U, 32768U}) {
    EXPECT_TRUE(accepts(connection, Request::set_vring_num, VringState{0, size})) << size;
  }
  for (std::uint32_t i = 0; i < 5000; ++i) {
    const VringState state{0, 1U << (i % 16)};
    must(connection.send_raw(number(Request::set_vring_num), 0, bytes_of(state)));
    if (i % 100 == 99) {
      ASSERT_TRUE(answers_or_closes(connection));
    }
  }
}

TEST_F(HostileProtocol, ASizeDoesNotChangeUnderARunningRing) {
  auto disk = guest();
  auto& connection = disk->device().connection();
  EXPECT_FALSE(accepts(connection, Request::set_vring_num, VringState{0, 256}));
  EXPECT_FALSE(accepts(connection, Request::set_vring_base, VringState{0, 5}));
  EXPECT_FALSE(accepts(connection, Request::set_vring_addr, VringAddr{0, 0, 0, 0, 0, 0}));
  disk.write(0, 1, 4096);
  EXPECT_TRUE(disk.reads(0, 1, 4096));
}

TEST_F(HostileProtocol, FeaturesThatWereNotOfferedAreRefused) {
  auto connection = acquaintance();
  const auto offered = must(connection.ask_for<std::uint64_t>(Request::get_features));
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t one = vhost::bit(bit);
    EXPECT_EQ(accepts(connection, Request::set_features, one | vhost::bit(30)),
              ((one | vhost::bit(30)) & ~offered) == 0)
        << bit;
  }
}

TEST_F(HostileProtocol, AConfigurationSpaceBeyondItsEndIsRefused) {
  auto disk = guest();
  auto& device = disk->device();
  EXPECT_TRUE(device.read_config(0, 256));
  EXPECT_FALSE(device.read_config(0, 257));
  EXPECT_FALSE(device.read_config(0, 0));
  const auto beyond = device.read_config(0xffffff00, 256);
  if (beyond) {
    EXPECT_EQ(*beyond, std::vector<std::byte>(256));
  }
}

TEST_F(HostileProtocol, AnInflightRegionForMoreThanThereIsIsRefusedAndCostsNothing) {
  auto connection = acquaintance();
  const std::size_t before = daemon->resident_bytes();
  for (const auto& [rings, size] : {std::pair<std::uint16_t, std::uint16_t>{65535, 65535},
                                    {65535, 128},
                                    {4, 65535},
                                    {0, 128},
                                    {5, 128},
                                    {4, 0}}) {
    const vhost::InflightDescription wanted{0, 0, rings, size, 0};
    const auto reply = connection.ask(Request::get_inflight_fd, bytes_of(wanted));
    ASSERT_TRUE(reply);
    EXPECT_TRUE(reply->fds.empty()) << rings << " of " << size;
  }
  for (int i = 0; i < 1000; ++i) {
    const vhost::InflightDescription wanted{0, 0, queues, 32768, 0};
    const auto reply = connection.ask(Request::get_inflight_fd, bytes_of(wanted));
    ASSERT_TRUE(reply && reply->fds.size() == 1);
  }
  if (!sanitized) {
    EXPECT_LT(daemon->resident_bytes(), before + 16 * mebi);
  }
}

TEST_F(HostileProtocol, AFloodOfConnectionsIsSurvived) {
  for (int i = 0; i < 1000; ++i) {
    auto connection = stranger();
    if (i % 3 == 0) {
      for (int k = 0; k < 10; ++k) {
        (void)connection.send_raw(number(Request::get_features), 0, {});
      }
    }
  }
}

TEST_F(HostileProtocol, ConnectionsThatEndWithRequestsInFlightLeaveNothing) {
  for (std::uint32_t i = 0; i < 40; ++i) {
    auto disk = guest();
    Load load(disk, {.blocks = 64, .block_bytes = 64 * kibi, .depth = 32, .seed = i + 1});
    load.submit();
    if (i % 2 == 0) {
      // Without a word: the socket closes under the running rings.
      Connection& connection = disk->device().connection();
      ASSERT_EQ(::shutdown(connection.fd(), SHUT_RDWR), 0);
    }
  }
}

TEST_F(HostileProtocol, AQuestionIsAnsweredSoonWithFourThousandRequestsInFlight) {
  BlkOptions options = with_queues(4, 1024);
  options.queue.ring.indirect = 4;
  auto disk = guest(options);
  std::vector<std::unique_ptr<Load>> loads;
  for (std::size_t i = 0; i < 4; ++i) {
    loads.push_back(std::make_unique<Load>(
        disk, Load::Shape{.queue = i, .first_sector = i * 32768, .blocks = 1024, .depth = 1000}));
    loads.back()->submit();
  }
  std::vector<double> times;
  for (int i = 0; i < 21; ++i) {
    const auto began = std::chrono::steady_clock::now();
    (void)must(disk->device().connection().ask_for<std::uint64_t>(Request::get_features));
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began)
            .count());
    for (auto& load : loads) {
      while (load->reap()) {
      }
      load->submit();
    }
  }
  std::ranges::sort(times);
  EXPECT_LT(times[times.size() / 2], 50.0 * slowness);
  for (auto& load : loads) load->settle();
}

}  // namespace
}  // namespace integration
