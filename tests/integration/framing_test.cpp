// A request is the bytes of its chain; where one descriptor ends and the next begins means nothing
// (VIRTIO 1.3, 2.7.4).
#include <cstring>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using vhost::frontend::BlkHeader;

/// One buffer with header, data and status one behind another: any cut of it is a request.
class Framing : public Served {
 protected:
  static constexpr std::uint32_t data_bytes = 4096;
  static constexpr std::uint32_t header_bytes = sizeof(BlkHeader);

  void SetUp() override {
    serve();
    disk.emplace(socket);
    room = disk->allocate(header_bytes + data_bytes + 1, 4096);
  }
  void header(BlkType type, std::uint64_t at) {
    const BlkHeader made{static_cast<std::uint32_t>(type), 0, at};
    std::memcpy(room.data, &made, sizeof made);
  }
  [[nodiscard]] std::span<std::byte> data() const {
    return room.bytes().subspan(header_bytes, data_bytes);
  }
  /// The bytes from `offset` on, cut into pieces of these lengths.
  [[nodiscard]] std::vector<Segment> cut(std::size_t offset,
                                         std::initializer_list<std::uint32_t> lengths) const {
    std::vector<Segment> pieces;
    for (const std::uint32_t length : lengths) {
      pieces.push_back(room.segment(offset, length));
      offset += length;
    }
    return pieces;
  }
  BlkStatus write(std::uint64_t seed, std::initializer_list<std::uint32_t> readable) {
    header(BlkType::write, 8);
    fill(data(), seed);
    return disk->perform(cut(0, readable), cut(header_bytes + data_bytes, {1}));
  }
  BlkStatus read(std::initializer_list<std::uint32_t> header_cut,
                 std::initializer_list<std::uint32_t> writable) {
    header(BlkType::read, 8);
    fill(data(), 0);
    return disk->perform(cut(0, header_cut), cut(header_bytes, writable));
  }

  std::optional<Guest> disk;
  Buffer room;
};

TEST_F(Framing, TheHeaderMayBeCutAnywhere) {
  std::uint64_t seed = 1;
  for (std::uint32_t first = 1; first < header_bytes; ++first) {
    ASSERT_EQ(write(++seed, {first, header_bytes - first, data_bytes}), BlkStatus::ok) << first;
    EXPECT_TRUE(image_holds(8, seed, data_bytes)) << first;
  }
  EXPECT_EQ(write(100, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, data_bytes}),
            BlkStatus::ok);
  EXPECT_TRUE(image_holds(8, 100, data_bytes));
}

TEST_F(Framing, HeaderAndDataMayShareADescriptor) {
  EXPECT_EQ(write(7, {header_bytes + data_bytes}), BlkStatus::ok);
  EXPECT_TRUE(image_holds(8, 7, data_bytes));
  EXPECT_EQ(write(8, {header_bytes + 100, data_bytes - 100}), BlkStatus::ok);
  EXPECT_TRUE(image_holds(8, 8, data_bytes));
}

TEST_F(Framing, TheStatusMayShareADescriptorWithData) {
  ASSERT_EQ(write(9, {header_bytes, data_bytes}), BlkStatus::ok);
  EXPECT_EQ(read({header_bytes}, {data_bytes + 1}), BlkStatus::ok);
  EXPECT_TRUE(holds(data(), 9));
  EXPECT_EQ(disk->used_length(), data_bytes + 1);
  EXPECT_EQ(read({1, 15}, {1000, data_bytes - 1000 + 1}), BlkStatus::ok);
  EXPECT_TRUE(holds(data(), 9));
}

TEST_F(Framing, DataMayBeCutIntoAnyPieces) {
  ASSERT_EQ(write(10, {header_bytes, 1, 2, 3, data_bytes - 6}), BlkStatus::ok);
  EXPECT_TRUE(image_holds(8, 10, data_bytes));
  EXPECT_EQ(read({header_bytes}, {511, 1, 513, data_bytes - 1025, 1}), BlkStatus::ok);
  EXPECT_TRUE(holds(data(), 10));
}

TEST_F(Framing, PiecesOfNoBytesAreNothing) {
  ASSERT_EQ(write(11, {0, header_bytes, 0, data_bytes, 0}), BlkStatus::ok);
  EXPECT_EQ(read({header_bytes, 0}, {0, data_bytes, 0, 1, 0}), BlkStatus::ok);
  EXPECT_TRUE(holds(data(), 11));
}

TEST_F(Framing, ARangeMayBeCutInTwo) {
  ASSERT_EQ(write(12, {header_bytes, data_bytes}), BlkStatus::ok);
  header(BlkType::write_zeroes, 0);
  const vhost::frontend::BlkRange range{8, 8, 0};
  std::memcpy(data().data(), &range, sizeof range);
  EXPECT_EQ(disk->perform(cut(0, {16, 5, 11}), cut(header_bytes + data_bytes, {1})), BlkStatus::ok);
  EXPECT_EQ(read_file(image, 8 * sector, 8 * sector), std::vector<std::byte>(8 * sector));
}

TEST_F(Framing, TheIdFillsARoomOfAnySize) {
  for (const std::uint32_t size : {0U, 1U, 19U, 20U, 21U}) {
    header(BlkType::get_id, 0);
    std::ranges::fill(data(), std::byte{'x'});
    ASSERT_EQ(disk->perform(cut(0, {16}), cut(header_bytes, {size, 1})), BlkStatus::ok) << size;
    const auto given = std::min<std::uint32_t>(size, 20);
    EXPECT_EQ(disk->used_length(), size > 20 ? 20 : size + 1) << size;
    if (given > 0) {
      EXPECT_EQ(data()[0], std::byte{'v'}) << size;
    }
    EXPECT_EQ(data()[size + 1], std::byte{'x'}) << size;
  }
}

// Windows sends 515 pieces. A chain may be as long as its ring, or 1024 descriptors in any.
struct Pieces {
  std::uint32_t data;
  std::uint16_t ring;
};
class ManyPieces : public Framing, public ::testing::WithParamInterface<Pieces> {
 protected:
  void attach() {
    BlkOptions options = with_queues(1, GetParam().ring);
    options.queue.ring.indirect = 1100;
    disk.reset();
    disk.emplace(socket, options, 96 * mebi);
  }
};

TEST_P(ManyPieces, InOneIndirectTableAreOneRequest) {
  attach();
  const std::uint32_t pieces = GetParam().data;
  const Buffer big = disk->allocate(std::size_t{pieces} * 512, 512);
  std::vector<Segment> segments;
  for (std::uint32_t i = 0; i < pieces; ++i) segments.push_back(big.segment(i * 512, 512));
  for (const std::uint64_t seed : {1, 2, 3}) {
    fill(big.bytes(), seed);
    ASSERT_EQ(must((*disk)->perform({.type = BlkType::write, .sector = 8, .data = segments})),
              BlkStatus::ok);
    ASSERT_TRUE(image_holds(8, seed, big.size_bytes));
    fill(big.bytes(), 0);
    ASSERT_EQ(must((*disk)->perform({.type = BlkType::read, .sector = 8, .data = segments})),
              BlkStatus::ok);
    ASSERT_TRUE(holds(big.bytes(), seed));
  }
}

INSTANTIATE_TEST_SUITE_P(Counts, ManyPieces,
                         ::testing::Values(Pieces{126, 128}, Pieces{513, 128}, Pieces{1022, 128},
                                           Pieces{1023, 2048}, Pieces{1025, 2048}),
                         [](const auto& test) {
                           return std::to_string(test.param.data) + "InARingOf" +
                                  std::to_string(test.param.ring);
                         });

TEST_F(Framing, AChainLongerThanItsRingAndThan1024DescriptorsBreaksTheRing) {
  BlkOptions options;
  options.queue.ring.indirect = 1100;
  disk.reset();
  disk.emplace(socket, options);
  const std::vector<Segment> segments(1023, disk->allocate(512).segment());
  EXPECT_FALSE((*disk)->perform({.data = segments}));
}

TEST_F(Framing, ManyLongRequestsAtOnceAllComeBack) {
  BlkOptions options;
  options.queue.ring.indirect = 600;
  disk.reset();
  disk.emplace(socket, options);
  const Buffer big = disk->allocate(513 * 512, 512);
  std::vector<Segment> segments;
  for (std::uint32_t i = 0; i < 513; ++i) segments.push_back(big.segment(i * 512, 512));
  for (std::uint64_t cookie = 0; cookie < 40; ++cookie) {
    ASSERT_TRUE((*disk)->queue(0).submit({.data = segments, .cookie = cookie}));
  }
  (*disk)->queue(0).kick();
  vhost::frontend::BlkCompletion done;
  int back = 0;
  EXPECT_TRUE(eventually([&] {
    while ((*disk)->queue(0).poll(done) == vhost::frontend::Poll::done) {
      EXPECT_EQ(done.status, BlkStatus::ok);
      ++back;
    }
    return back == 40;
  }));
}

}  // namespace
}  // namespace integration
