// Block requests at and beyond every limit: each gets the status that VIRTIO asks for, and a
// refused one changes nothing.
#include <algorithm>
#include <cstring>

#include "tests/integration/hostile.hpp"
#include "tests/integration/layout.hpp"

namespace integration {
namespace {

using vhost::frontend::BlkHeader;
using vhost::frontend::BlkRange;

class HostileRequest : public Hostile, public ::testing::WithParamInterface<bool> {
 protected:
  static constexpr std::uint64_t sectors = image_bytes / sector;
  static constexpr std::uint32_t in = 0, out = 1, flush = 4, discard = 11, write_zeroes = 13;

  void SetUp() override {
    Hostile::SetUp();
    disk.emplace(socket, GetParam() ? packed() : BlkOptions{});
    room = disk->allocate(256 * kibi);
    fill(room.bytes(), 99);
    disk->write(0, 1, 64 * kibi);
    disk->write(sectors - 128, 2, 64 * kibi);
  }
  void TearDown() override {
    EXPECT_TRUE(image_holds(0, 1, 64 * kibi) || changed_) << "a refused request changed the image";
    EXPECT_TRUE(image_holds(sectors - 128, 2, 64 * kibi) || changed_);
    disk.reset();
    Hostile::TearDown();
  }
  void may_change() { changed_ = true; }

  void header(std::uint32_t type, std::uint64_t at) {
    const BlkHeader made{type, 0, at};
    std::memcpy(room.data, &made, sizeof made);
  }
  /// A request with so many bytes of data, in the direction of its type.
  BlkStatus data(std::uint32_t type, std::uint64_t at, std::uint32_t bytes) {
    header(type, at);
    const Segment head = room.segment(0, 16);
    const Segment payload = room.segment(4096, bytes);
    const Segment status = room.segment(64, 1);
    const std::array read{payload, status};
    const std::array write{head, payload};
    return type == in ? disk->perform(std::span(&head, 1), read)
                      : disk->perform(write, std::span(&status, 1));
  }
  /// A request of these ranges; `extra` bytes more or fewer than they have.
  BlkStatus ranges(std::uint32_t type, const std::vector<BlkRange>& list, int extra = 0) {
    std::ranges::copy(std::as_bytes(std::span(list)), room.data + 4096);
    const auto bytes = static_cast<int>(list.size() * sizeof(BlkRange)) + extra;
    return data(type, 0, static_cast<std::uint32_t>(bytes));
  }

  std::optional<Guest> disk;
  Buffer room;

 private:
  bool changed_ = false;
};
INSTANTIATE_TEST_SUITE_P(Rings, HostileRequest, ::testing::Bool(), layout_name);

TEST_P(HostileRequest, SectorsBeyondTheEndAreErrors) {
  for (const std::uint32_t type : {in, out}) {
    for (const std::uint64_t at :
         {sectors, sectors + 1, std::uint64_t{1} << 55, (std::uint64_t{1} << 55) - 1,
          std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
      EXPECT_EQ(data(type, at, 4096), BlkStatus::io_error) << type << " at " << at;
    }
    EXPECT_EQ(data(type, sectors - 7, 4096), BlkStatus::io_error) << "straddles the end";
  }
  EXPECT_EQ(data(in, sectors - 8, 4096), BlkStatus::ok);
  may_change();
  EXPECT_EQ(data(out, sectors - 8, 4096), BlkStatus::ok);
}

TEST_P(HostileRequest, LengthsThatAreNoSectorsAreErrors) {
  for (const std::uint32_t type : {in, out}) {
    for (const std::uint32_t bytes : {1U, 15U, 511U, 513U, 4095U}) {
      EXPECT_EQ(data(type, 0, bytes), BlkStatus::io_error) << type << " of " << bytes;
    }
  }
}

TEST_P(HostileRequest, AHeaderThatIsShortIsAnError) {
  header(in, 0);
  const Segment status = room.segment(64, 1);
  for (const std::uint32_t bytes : {1U, 8U, 15U}) {
    const Segment head = room.segment(0, bytes);
    EXPECT_EQ(disk->perform(std::span(&head, 1), std::span(&status, 1)), BlkStatus::io_error);
  }
  EXPECT_EQ(disk->perform({}, std::span(&status, 1)), BlkStatus::io_error);
}

TEST_P(HostileRequest, ARequestWithoutStatusComesBackUndone) {
  header(out, 0);
  const std::array pieces{room.segment(0, 16), room.segment(4096, 4096)};
  EXPECT_EQ(disk->perform(pieces, {}), BlkStatus::untouched);
  EXPECT_EQ(disk->used_length(), 0U);
}

TEST_P(HostileRequest, TypesThatAreNotOfferedAreUnsupported) {
  for (const std::uint32_t type : {2U, 3U, 6U, 7U, 9U, 10U, 12U, 14U, 15U, 16U, 0x100U, 0x80000000U,
                                   0x80000001U, 0xffffffffU}) {
    EXPECT_EQ(data(type, 0, 512), BlkStatus::unsupported) << type;
  }
}

TEST_P(HostileRequest, RangesAreCountedFromOneToThirtyTwo) {
  for (const std::uint32_t type : {discard, write_zeroes}) {
    EXPECT_EQ(ranges(type, {}), BlkStatus::io_error);
    EXPECT_EQ(ranges(type, std::vector<BlkRange>(33, {0, 8, 0})), BlkStatus::io_error);
    EXPECT_EQ(ranges(type, {{0, 8, 0}}, -1), BlkStatus::io_error);
    EXPECT_EQ(ranges(type, {{0, 8, 0}}, 1), BlkStatus::io_error);
    EXPECT_EQ(ranges(type, std::vector<BlkRange>(32, {4096, 8, 0})), BlkStatus::ok);
  }
}

TEST_P(HostileRequest, RangesBeyondTheEndAreErrors) {
  for (const std::uint32_t type : {discard, write_zeroes}) {
    for (const BlkRange& range :
         {BlkRange{sectors, 1, 0}, BlkRange{sectors - 7, 8, 0}, BlkRange{~std::uint64_t{0}, 8, 0},
          BlkRange{~std::uint64_t{0} - 6, 8, 0}, BlkRange{std::uint64_t{1} << 55, 8, 0},
          BlkRange{0, 0xffffffff, 0}, BlkRange{0, 1U << 23, 0}, BlkRange{0, (1U << 23) + 8, 0}}) {
      EXPECT_EQ(ranges(type, {range}), BlkStatus::io_error) << range.sector << ' ' << range.sectors;
      EXPECT_EQ(ranges(type, {{4096, 8, 0}, range}), BlkStatus::io_error) << "as the second";
    }
  }
}

TEST_P(HostileRequest, FlagsThatAreUnknownAreUnsupported) {
  for (const std::uint32_t flags : {2U, 4U, 0x80000000U, 0xffffffffU}) {
    EXPECT_EQ(ranges(discard, {{0, 8, flags}}), BlkStatus::unsupported) << flags;
    EXPECT_EQ(ranges(write_zeroes, {{0, 8, flags}}), BlkStatus::unsupported) << flags;
  }
  EXPECT_EQ(ranges(discard, {{0, 8, 1}}), BlkStatus::unsupported) << "unmap is not for a discard";
}

TEST_P(HostileRequest, AFlushWithDataIsAFlush) {
  EXPECT_EQ(data(flush, ~std::uint64_t{0}, 4096), BlkStatus::ok);
}

TEST_P(HostileRequest, AReadIntoItsOwnHeaderAndStatusHarmsOnlyItsDriver) {
  header(in, 0);
  const Segment head = room.segment(0, 16);
  const std::array writable{room.segment(0, 4096), room.segment(0, 1)};
  (void)disk->perform(std::span(&head, 1), writable);
  const std::array over_itself{room.segment(0, 512), room.segment(0, 512), room.segment(0, 1)};
  (void)disk->perform(std::span(&head, 1), over_itself);
}

TEST_P(HostileRequest, NothingBeyondTheRoomIsWritten) {
  header(in, 0);
  std::memset(room.data + 4096, 0x5a, 8192);
  const Segment head = room.segment(0, 16);
  const std::array writable{room.segment(4096, 512), room.segment(64, 1)};
  EXPECT_EQ(disk->perform(std::span(&head, 1), writable), BlkStatus::ok);
  EXPECT_EQ(disk->used_length(), 513U);
  for (std::size_t i = 512; i < 8192; ++i) ASSERT_EQ(room.data[4096 + i], std::byte{0x5a}) << i;
}

}  // namespace
}  // namespace integration
