#include "libvhost/frontend/shared_memory.hpp"

#include <unistd.h>

#include <gtest/gtest.h>

namespace vhost::frontend {
namespace {

TEST(SharedMemory, AlignsPointerAndGuestAddress) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(65536));
  ASSERT_TRUE(memory.allocate(3, 1));
  const auto buffer = memory.allocate(100, 4096);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(buffer->guest_address % 4096, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data) % 4096, 0u);
}

TEST(SharedMemory, OutOfMemoryIsAnErrorAndChangesNothing) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(8192));
  EXPECT_FALSE(memory.allocate(8193));
  EXPECT_TRUE(memory.allocate(8192));
  EXPECT_FALSE(memory.allocate(1));
}

TEST(SharedMemory, ReleasedNeighboursGrowTogether) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(4096));
  const auto a = memory.allocate(1024);
  const auto b = memory.allocate(1024);
  const auto c = memory.allocate(2048);
  ASSERT_TRUE(a && b && c);
  memory.release(*a);
  memory.release(*c);
  memory.release(*b);
  EXPECT_TRUE(memory.allocate(4096));
}

TEST(SharedMemory, ReleasingTwiceDoesNothing) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(4096));
  const auto a = memory.allocate(4096);
  ASSERT_TRUE(a);
  memory.release(*a);
  memory.release(*a);
  ASSERT_TRUE(memory.allocate(4096));
  EXPECT_FALSE(memory.allocate(1));
}

TEST(SharedMemory, BuffersAreZeroFilledEachTime) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(4096));
  auto a = memory.allocate(64);
  ASSERT_TRUE(a);
  a->data[5] = std::byte{7};
  memory.release(*a);
  a = memory.allocate(64);
  ASSERT_TRUE(a);
  EXPECT_EQ(a->data[5], std::byte{0});
}

TEST(SharedMemory, RegionWithBuffersIsNotRemoved) {
  SharedMemory memory;
  const auto id = memory.add_region(4096);
  ASSERT_TRUE(id);
  const auto buffer = memory.allocate_in(*id, 16);
  ASSERT_TRUE(buffer);
  EXPECT_FALSE(memory.remove_region(*id));
  memory.release(*buffer);
  EXPECT_TRUE(memory.remove_region(*id));
  EXPECT_FALSE(memory.remove_region(*id));
  EXPECT_FALSE(memory.allocate(16));
}

TEST(SharedMemory, CallerChoosesGuestAddressAndFileOffset) {
  SharedMemory memory;
  const auto id =
      memory.add_region(4096, {.guest_address = 0xc0000, .mmap_offset_bytes = 0x100000});
  ASSERT_TRUE(id);
  const Region& region = *memory.regions()[*id];
  EXPECT_EQ(region.wire().guest_address, 0xc0000u);
  const auto buffer = memory.allocate(1);
  ASSERT_TRUE(buffer);
  *buffer->data = std::byte{0x5a};
  std::byte seen{};
  EXPECT_EQ(::pread(region.fd(), &seen, 1, 0x100000), 1);
  EXPECT_EQ(seen, std::byte{0x5a});
}

TEST(SharedMemory, OverlappingGuestAddressesAreRefused) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(8192, {.guest_address = 0x10000}));
  EXPECT_FALSE(memory.add_region(4096, {.guest_address = 0x11000}));
  EXPECT_TRUE(memory.add_region(4096, {.guest_address = 0x12000}));
}

TEST(SharedMemory, DefaultAddressesLeaveRoomAndNeverStartAtZero) {
  SharedMemory memory;
  ASSERT_TRUE(memory.add_region(4096));
  ASSERT_TRUE(memory.add_region(4096));
  EXPECT_GT(memory.regions()[0]->guest_address(), 0u);
  EXPECT_EQ(memory.regions()[1]->guest_address() % (1u << 30), 0u);
}

TEST(SharedMemory, HugePagesAreAnErrorWhereThereAreNone) {
  SharedMemory memory;
  const auto id = memory.add_region(4096, {.pages = PageSize::huge_2m});
  if (id) {
    EXPECT_EQ(memory.regions()[*id]->bytes().size(), std::size_t{2} << 20);
  } else {
    EXPECT_EQ(id.error().fault, Fault::host);
  }
}

}  // namespace
}  // namespace vhost::frontend
