#include "libvhost/memory/mapping.hpp"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <fstream>
#include <string>

#include "tests/unit/memory/shared_file.hpp"

namespace vhost::tests {
namespace {

/// The permissions of the page at `address`, from /proc/self/maps; empty if nothing is there.
std::string permissions_at(const std::byte* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto begin = std::stoull(line, nullptr, 16);
    const auto end = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    if (wanted >= begin && wanted < end) return line.substr(line.find(' ') + 1, 4);
  }
  return "";
}

TEST(Mapping, SharesTheFilesBytes) {
  const UniqueFd fd = shared_file(2 * page);
  const auto mapping = Mapping::map(fd.get(), 0, 2 * page);
  ASSERT_TRUE(mapping);
  ASSERT_EQ(mapping->bytes().size(), 2 * page);
  put(fd, 5000, 'x');
  EXPECT_EQ(mapping->bytes()[5000], std::byte{'x'});
  mapping->bytes()[1] = std::byte{'y'};
  char seen = 0;
  EXPECT_EQ(::pread(fd.get(), &seen, 1, 1), 1);
  EXPECT_EQ(seen, 'y');
  EXPECT_FALSE(mapping->lost());
}

TEST(Mapping, BeginsAtAnOffsetThatIsNoMultipleOfAPage) {
  const UniqueFd fd = shared_file(4 * page);
  put(fd, page + 100, 'x');
  put(fd, 2 * page + 199, 'z');
  const auto mapping = Mapping::map(fd.get(), page + 100, page + 100);
  ASSERT_TRUE(mapping);
  EXPECT_EQ(mapping->bytes().size(), page + 100);
  EXPECT_EQ(mapping->bytes().front(), std::byte{'x'});
  EXPECT_EQ(mapping->bytes().back(), std::byte{'z'});
}

TEST(Mapping, MayEndWithTheFile) {
  const UniqueFd fd = shared_file(page + 100);
  EXPECT_TRUE(Mapping::map(fd.get(), 0, page + 100));
  EXPECT_TRUE(Mapping::map(fd.get(), page, 100));
}

TEST(Mapping, RefusesWhatReachesBeyondTheFile) {
  const UniqueFd fd = shared_file(page + 100);
  EXPECT_FALSE(Mapping::map(fd.get(), 0, page + 101));
  EXPECT_FALSE(Mapping::map(fd.get(), page, 101));
  EXPECT_FALSE(Mapping::map(fd.get(), 2 * page, 1));
}

TEST(Mapping, RefusesSizesAndOffsetsThatOverflow) {
  const UniqueFd fd = shared_file(page);
  EXPECT_FALSE(Mapping::map(fd.get(), 0, 0));
  EXPECT_FALSE(Mapping::map(fd.get(), UINT64_MAX, 1));
  EXPECT_FALSE(Mapping::map(fd.get(), UINT64_MAX - 10, 11));
  EXPECT_FALSE(Mapping::map(fd.get(), 16, UINT64_MAX - 15));
  EXPECT_FALSE(Mapping::map(fd.get(), UINT64_MAX - page + 1, page));
}

TEST(Mapping, RefusesWhatIsNoFile) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd reader(pipe[0]);
  const UniqueFd writer(pipe[1]);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd folder(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd device(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  for (const UniqueFd* fd : {&reader, &writer, &event, &folder, &device, &socket}) {
    EXPECT_FALSE(Mapping::map(fd->get(), 0, page));
  }
  EXPECT_FALSE(Mapping::map(-1, 0, page));
}

TEST(Mapping, RefusesAFileThatCannotBeWritten) {
  const UniqueFd fd = shared_file(page);
  const UniqueFd reader(
      ::open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(Mapping::map(reader.get(), 0, page));
}

TEST(Mapping, LiesBetweenPagesWithoutAccess) {
  const UniqueFd fd = shared_file(2 * page);
  const auto mapping = Mapping::map(fd.get(), 0, 2 * page);
  ASSERT_TRUE(mapping);
  const std::byte* const begin = mapping->bytes().data();
  EXPECT_EQ(permissions_at(begin - 1), "---p");
  EXPECT_EQ(permissions_at(begin), "rw-s");
  EXPECT_EQ(permissions_at(begin + 2 * page - 1), "rw-s");
  EXPECT_EQ(permissions_at(begin + 2 * page), "---p");
}

TEST(Mapping, LeavesNothingMappedBehind) {
  const UniqueFd fd = shared_file(page);
  const std::byte* begin = nullptr;
  {
    const auto mapping = Mapping::map(fd.get(), 0, page);
    begin = mapping->bytes().data();
  }
  EXPECT_EQ(permissions_at(begin - 1), "");
  EXPECT_EQ(permissions_at(begin), "");
  EXPECT_EQ(permissions_at(begin + page), "");
}

TEST(Mapping, GivesItsPlaceBackEveryTime) {
  const UniqueFd fd = shared_file(page);
  for (int i = 0; i < 10'000; ++i) ASSERT_TRUE(Mapping::map(fd.get(), 0, page)) << i;
}

TEST(Mapping, MovesWithoutMapping) {
  const UniqueFd fd = shared_file(page);
  auto first = Mapping::map(fd.get(), 0, page);
  const auto* begin = first->bytes().data();
  Mapping second(std::move(*first));
  EXPECT_EQ(second.bytes().data(), begin);
  Mapping third;
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), begin);
  EXPECT_EQ(permissions_at(begin), "rw-s");
}

TEST(Mapping, ServesHugePages) {
  constexpr std::uint64_t huge = 2 << 20;
  int before = 0;
  std::ifstream("/proc/sys/vm/nr_hugepages") >> before;
  std::ofstream("/proc/sys/vm/nr_hugepages") << before + 4 << std::flush;
  const UniqueFd fd(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB));
  void* probe = MAP_FAILED;
  if (fd && ::ftruncate(fd.get(), 2 * huge) == 0) {
    probe = ::mmap(nullptr, 2 * huge, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  }
  const bool there = probe != MAP_FAILED;
  if (there) {
    ::munmap(probe, 2 * huge);
    {
      // 4 KiB of the second page and an offset that only small pages would allow.
      auto mapping = Mapping::map(fd.get(), huge + 0xc000, page);
      EXPECT_TRUE(mapping) << mapping.error().what;
      mapping->bytes()[0] = std::byte{1};
      EXPECT_EQ(permissions_at(mapping->bytes().data()), "rw-s");
      auto all = Mapping::map(fd.get(), 0, 2 * huge);
      EXPECT_EQ(all->bytes()[huge + 0xc000], std::byte{1});
      const auto* end = all->bytes().data() + 2 * huge;
      EXPECT_EQ(permissions_at(end), "---p");
    }
    EXPECT_FALSE(Mapping::map(fd.get(), huge, huge + 1));
  }
  std::ofstream("/proc/sys/vm/nr_hugepages") << before << std::flush;
  if (!there) GTEST_SKIP() << "this machine has no huge pages to give";
}

TEST(SealedMemory, CannotChangeItsSize) {
  const auto fd = make_sealed_memory("test", page);
  ASSERT_TRUE(fd);
  EXPECT_NE(::ftruncate(fd->get(), 0), 0);
  EXPECT_NE(::ftruncate(fd->get(), 2 * page), 0);
  EXPECT_NE(::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_TRUE(Mapping::map(fd->get(), 0, page));
}

}  // namespace
}  // namespace vhost::tests
