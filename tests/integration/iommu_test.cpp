#include "tests/integration/iommu.hpp"

#include <cstring>
#include <fstream>
#include <random>
#include <thread>

/* A disk behind an IOMMU that takes translations back while requests are under way. */
namespace integration {
namespace {

class IommuTest : public TranslatedDisk {
 protected:
  static BlkOptions options() { return TranslatedDisk::options(2); }
  /// Runs `load` in a thread of its own; this one serves the channel, and calls `meanwhile`.
  template <class Meanwhile>
  static void beside(Guest& disk, Load& load, std::uint64_t requests, Meanwhile meanwhile) {
    std::atomic<bool> done = false;
    std::string error;
    std::jthread runner([&] {
      try {
        load.run(requests);
      } catch (const std::exception& thrown) {
        error = thrown.what();
      }
      done = true;
    });
    while (!done) {
      must(disk->device().connection().serve_channel());
      meanwhile();
    }
    EXPECT_EQ(error, "");
  }
};
INSTANTIATE_TEST_SUITE_P(Layouts, IommuTest, testing::Bool(), layout_name);

TEST_P(IommuTest, InvalidationsOfAnythingLeaveTheDataWhatItIs) {
  serve({"--workers", "2"});
  auto disk = guest(options());
  Load load(disk, {.queue = 1, .blocks = 128, .block_bytes = 16 * kibi, .depth = 32});
  const auto& region = *disk.memory().regions().front();
  std::mt19937 random(11);
  beside(disk, load, sanitized || emulated ? 500 : 5000, [&] {
    const std::uint64_t pages = region.bytes().size() / 4096;
    const std::uint64_t first = random() % pages;
    const bool all = random() % 16 == 0;  // the ring's areas as well
    must(disk->device().invalidate(all ? 0 : region.guest_address() + first * 4096,
                                   all ? UINT64_MAX : (1 + random() % 16) * 4096));
  });
  must(disk->device().invalidate(0, UINT64_MAX));
  beside(disk, load, 64, [] {});
  EXPECT_TRUE(daemon->running());
}

TEST_P(IommuTest, WithoutReplyAckTooTranslationsComeAndGo) {
  serve();
  BlkOptions plain = options();
  plain.wishes.protocol_features &= ~vhost::bit(vhost::protocol_feature::reply_ack);
  auto disk = guest(plain);
  Load load(disk, {.queue = 0, .blocks = 64, .depth = 8});
  beside(disk, load, 500, [&] { must(disk->device().invalidate(0, UINT64_MAX)); });
}

/// As long as we offer: 126 buffers of 256 KiB, no page of which is another's neighbour.
TEST_P(IommuTest, ALongestRequestMayBeScatteredPageByPage) {
  serve();
  auto disk = Guest(socket, options(), 48 * mebi);
  const Buffer data = disk.allocate(126 * 256 * kibi);
  const std::uint64_t pages = data.size_bytes / page;
  disk->device().on_miss([&](const vhost::IotlbMessage& miss) {
    auto known = disk->device().translation(miss);
    const std::uint64_t offset = miss.iova - data.guest_address;
    if (!known || offset >= data.size_bytes) return known;
    const std::uint64_t there = pages - 1 - offset / page;
    known->frontend_address += there * page - offset / page * page;
    return known;
  });
  for (std::uint64_t i = 0; i < pages; ++i) std::memcpy(data.data + i * page, &i, sizeof i);

  const Buffer header = disk.allocate(4096);
  const vhost::frontend::BlkHeader write{1, 0, 0};
  std::memcpy(header.data, &write, sizeof write);
  std::vector<Segment> readable{{header.guest_address, sizeof write}};
  for (std::uint64_t at = 0; at < data.size_bytes; at += 256 * kibi)
    readable.push_back({data.guest_address + at, 256 * kibi});
  const Segment status{header.guest_address + 512, 1};
  ASSERT_EQ(disk.perform(readable, std::span(&status, 1)), vhost::frontend::BlkStatus::ok);
  std::ifstream file(image, std::ios::binary);
  for (std::uint64_t i = 0; i < pages; ++i) {
    std::uint64_t found = 0;
    file.seekg(static_cast<std::streamoff>(i * page));
    file.read(reinterpret_cast<char*>(&found), sizeof found);
    ASSERT_EQ(found, pages - 1 - i);
  }
}

TEST_P(IommuTest, ARingWhoseMissesAreNotAnsweredBreaksAndTheOtherGoesOn) {
  serve();
  auto disk = guest(options());
  Load load(disk, {.queue = 1, .blocks = 64, .depth = 4});
  const auto lost = disk.allocate(4096);
  disk->device().on_miss([&](const vhost::IotlbMessage& miss) {
    const bool refused = miss.iova - lost.guest_address < lost.size_bytes;
    return refused ? std::nullopt : disk->device().translation(miss);
  });
  auto& ring = disk->device().queue(0);
  const Segment piece = lost.segment();
  ASSERT_TRUE(ring.ring().add(std::span(&piece, 1), {}, 0));
  ring.submit();
  EXPECT_EQ(disk->device().wait(0, long_wait), vhost::frontend::Wake::ring_error);
  beside(disk, load, 200, [] {});
}

}  // namespace
}  // namespace integration
