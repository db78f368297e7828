#include "backends/blk/image.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/blk/scratch.hpp"

namespace blk {
namespace {

using namespace testing_tools;
using testing::AllOf;
using testing::HasSubstr;

constexpr off_t mib = 1 << 20;

class BlkImage : public testing::Test {
 protected:
  /// What the refusal says; empty if there is none.
  static std::string refusal(const std::string& path, bool read_only = false) {
    const auto image = open_to(read_only, path, CacheMode::none);
    if (image) return {};
    EXPECT_EQ(image.error().fault, vhost::Fault::operator_);
    EXPECT_EQ(image.error().what.find('\n'), std::string::npos);
    EXPECT_TRUE(image.error().what.starts_with("--blk-file"));
    return image.error().what;
  }
  static std::size_t open_descriptors() {
    return static_cast<std::size_t>(
        std::ranges::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                              std::filesystem::directory_iterator()));
  }

  ScratchFolder folder_;
};

TEST_F(BlkImage, TakesItsSizeFromTheFile) {
  const auto image = open_to_write(folder_.file("a", mib));
  ASSERT_TRUE(image) << image.error().what;
  EXPECT_EQ(image->disk.size_bytes, 1U << 20);
  EXPECT_FALSE(image->is_device);
  EXPECT_FALSE(image->disk.read_only);
}

TEST_F(BlkImage, TakesOneSectorAndNothingSmaller) {
  EXPECT_EQ(refusal(folder_.file("one", 512)), "");
  EXPECT_THAT(refusal(folder_.file("none", 0)), AllOf(HasSubstr("empty"), HasSubstr("truncate")));
}

TEST_F(BlkImage, RefusesAPartialSectorAndSaysHowToRoundItUp) {
  for (const off_t size : {1, 511, 513, 1023}) {
    EXPECT_THAT(refusal(folder_.file("a", size)),
                AllOf(HasSubstr("no multiple of 512"), HasSubstr("truncate -s %512")));
  }
}

TEST_F(BlkImage, SaysHowToMakeAMissingFile) {
  EXPECT_THAT(refusal(folder_.path() + "/gone"),
              AllOf(HasSubstr("no such file"), HasSubstr("truncate -s 10G " + folder_.path())));
  EXPECT_THAT(refusal(folder_.file("a", mib) + "/b"), HasSubstr("check the path"));
  EXPECT_THAT(refusal(""), HasSubstr("path is empty"));
}

TEST_F(BlkImage, RefusesWhatIsNoImage) {
  EXPECT_THAT(refusal(folder_.path()), HasSubstr("is a directory"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("character device"));
}

TEST_F(BlkImage, RefusesAFifoWithoutWaitingForItsOtherEnd) {
  const std::string fifo = folder_.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0666), 0);
  EXPECT_THAT(refusal(fifo), HasSubstr("FIFO"));
  EXPECT_THAT(refusal(fifo, true), HasSubstr("FIFO"));
}

TEST_F(BlkImage, OffersReadOnlyForWhatMayOnlyBeRead) {
  const std::string path = folder_.file("a", mib);
  ::chmod(path.c_str(), 0444);
  const OrdinaryUser user;
  EXPECT_THAT(refusal(path), AllOf(HasSubstr("not written"), HasSubstr("--read-only")));
  EXPECT_EQ(refusal(path, true), "");
}

TEST_F(BlkImage, AsksForAccessToWhatMayNotBeRead) {
  const std::string path = folder_.file("a", mib);
  ::chmod(path.c_str(), 0);
  const OrdinaryUser user;
  EXPECT_THAT(refusal(path), HasSubstr("no permission to read"));
  EXPECT_THAT(refusal(path, true), HasSubstr("no permission to read"));
}

TEST_F(BlkImage, AsksForAccessToAFolderThatMayNotBeEntered) {
  const std::string path = folder_.file("a", mib);
  ::chmod(folder_.path().c_str(), 0);
  {
    const OrdinaryUser user;
    EXPECT_THAT(refusal(path), HasSubstr("no permission to enter"));
  }
  ::chmod(folder_.path().c_str(), 0755);
}

TEST_F(BlkImage, OffersReadOnlyOnAReadOnlyFileSystem) {
  const std::string path = folder_.file("a", mib);
  const pid_t child = ::fork();
  if (child == 0) {  // a mount name space of its own
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount(folder_.path().c_str(), folder_.path().c_str(), "", MS_BIND, nullptr) != 0 ||
        ::mount("", folder_.path().c_str(), "", MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
      ::_exit(77);
    }
    const auto writable = open_to_write(path);
    const bool said =
        !writable && writable.error().what.find("mounted read-only") != std::string::npos;
    ::_exit(said && open_to_read(path) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no mount name spaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(BlkImage, LeavesNothingOpenWhenItRefuses) {
  const std::string empty = folder_.file("empty", 0);
  const std::string odd = folder_.file("odd", 513);
  const std::size_t before = open_descriptors();
  EXPECT_NE(refusal(empty), "");
  EXPECT_NE(refusal(odd), "");
  EXPECT_NE(refusal(folder_.path()), "");
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(BlkImage, KeepsOneDescriptorUnlessDirectIoWantsMoreThanASector) {
  const std::string path = folder_.file("a", mib);
  const std::size_t before = open_descriptors();
  for (const CacheMode cache : {CacheMode::none, CacheMode::writeback}) {
    const auto image = open_to_write(path, cache);
    ASSERT_TRUE(image);
    const bool needs_second = image->offset_alignment > 512;
    EXPECT_EQ(bool{image->buffered}, needs_second);
    EXPECT_EQ(open_descriptors(), before + (needs_second ? 2 : 1));
  }
}

TEST_F(BlkImage, DescriptorsBlockAndAreClosedOnExec) {
  const auto image = open_to_write(folder_.file("a", mib), CacheMode::none);
  ASSERT_TRUE(image);
  EXPECT_EQ(::fcntl(image->file.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(image->file.get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(BlkImage, CacheModeDecidesOnDirectIoAndTheWriteCache) {
  const std::string path = folder_.file("a", mib);
  for (const auto& [text, cache] : cache_mode_names) {
    const auto image = open_to_write(path, cache);
    ASSERT_TRUE(image) << text;
    const bool flagged = (::fcntl(image->file.get(), F_GETFL) & O_DIRECT) != 0;
    EXPECT_EQ(image->direct, flagged) << text;
    EXPECT_TRUE(image->direct == uses_direct_io(cache) || !image->notes.empty()) << text;
    EXPECT_EQ(image->disk.write_cache, write_cache(cache)) << text;
  }
}

TEST_F(BlkImage, BufferedImageAsksForNoAlignment) {
  const auto image = open_to_write(folder_.file("a", mib), CacheMode::writeback);
  ASSERT_TRUE(image);
  EXPECT_EQ(image->memory_alignment, 1u);
  EXPECT_EQ(image->offset_alignment, 1u);
}

TEST_F(BlkImage, AlignedDirectReadsAreTakenByTheKernel) {
  const auto image = open_to_write(folder_.file("a", mib), CacheMode::none);
  ASSERT_TRUE(image);
  if (!image->direct) GTEST_SKIP() << "no direct I/O here";
  EXPECT_TRUE(std::has_single_bit(image->memory_alignment));
  EXPECT_TRUE(std::has_single_bit(image->offset_alignment));
  ASSERT_LE(image->memory_alignment, 4096u);
  alignas(4096) static char memory[16384];
  EXPECT_EQ(::pwrite(image->file.get(), memory + image->memory_alignment, image->offset_alignment,
                     image->offset_alignment),
            image->offset_alignment);
}

TEST_F(BlkImage, FileHasSectorsOf512BytesUnderEveryCacheMode) {
  const std::string path = folder_.file("a", mib);
  for (const auto& [text, cache] : cache_mode_names) {
    const auto image = open_to_write(path, cache);
    ASSERT_TRUE(image);
    EXPECT_EQ(image->disk.logical_block_bytes, 512u) << text;
    EXPECT_EQ(image->disk.min_io_blocks, 1 << image->disk.physical_block_exp) << text;
  }
}

TEST_F(BlkImage, ProbingLeavesNoTraceInTheFile) {
  const std::string path = folder_.file("a", mib);
  struct stat before{}, after{};
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  ASSERT_TRUE(open_to_write(path, CacheMode::none));
  ASSERT_EQ(::stat(path.c_str(), &after), 0);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(BlkImage, SaysWhatFallocateCanDoHere) {
  const auto image = open_to_write(folder_.file("a", mib));
  ASSERT_TRUE(image);
  const int fd = image->file.get();
  const bool punches = ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
  const bool zeroes = ::fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
  EXPECT_EQ(image->punch_hole_supported, punches);
  EXPECT_EQ(image->zero_range_supported, zeroes);
  EXPECT_EQ(image->disk.can_discard, punches);
  EXPECT_EQ(image->disk.write_zeroes_may_unmap, punches);
  EXPECT_TRUE(image->disk.can_write_zeroes);
}

TEST_F(BlkImage, UsesThePageCacheWhereThereIsNothingElseAndNotesIt) {
  if (!std::filesystem::exists("/dev/shm")) GTEST_SKIP() << "no tmpfs here";
  const ScratchFolder memory("/dev/shm");
  const auto image = open_to_write(memory.file("a", mib), CacheMode::none);
  ASSERT_TRUE(image) << image.error().what;
  EXPECT_FALSE(image->direct);
  EXPECT_EQ(::fcntl(image->file.get(), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(image->memory_alignment, 1u);
  EXPECT_FALSE(image->buffered);
  ASSERT_EQ(image->notes.size(), 1u);
  EXPECT_THAT(image->notes[0], AllOf(HasSubstr("--cache none"), HasSubstr("no direct I/O")));
}

TEST_F(BlkImage, ServesWriteZeroesByWritingOnATmpfs) {
  if (!std::filesystem::exists("/dev/shm")) GTEST_SKIP() << "no tmpfs here";
  const ScratchFolder memory("/dev/shm");
  const auto image = open_to_write(memory.file("a", mib), CacheMode::none);
  ASSERT_TRUE(image) << image.error().what;
  EXPECT_TRUE(image->punch_hole_supported);
  EXPECT_FALSE(image->zero_range_supported);
  EXPECT_TRUE(image->disk.can_write_zeroes);
  EXPECT_GT(image->disk.max_write_zeroes_sectors, 0u);
  EXPECT_LT(image->disk.max_write_zeroes_sectors, image->disk.max_discard_sectors);
}

TEST_F(BlkImage, ReadOnlyImageCannotBeChanged) {
  const auto image = open_to_read(folder_.file("a", mib));
  ASSERT_TRUE(image);
  EXPECT_TRUE(image->disk.read_only);
  EXPECT_FALSE(image->disk.can_discard);
  EXPECT_FALSE(image->disk.can_write_zeroes);
  EXPECT_EQ(::fcntl(image->file.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
}

TEST_F(BlkImage, NotesAQcow2FileAndServesIt) {
  const std::string path = folder_.file("a", mib);
  {
    const vhost::UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), "QFI\xfb", 4, 0), 4);
  }
  const auto image = open_to_write(path);
  ASSERT_TRUE(image);
  ASSERT_EQ(image->notes.size(), 1u);
  EXPECT_THAT(image->notes[0], AllOf(HasSubstr("qcow2"), HasSubstr("convert")));
}

TEST_F(BlkImage, PlainImageHasNothingToNote) {
  const auto image = open_to_write(folder_.file("a", mib));
  ASSERT_TRUE(image);
  EXPECT_TRUE(image->notes.empty());
}

TEST_F(BlkImage, TakesSizeAndBlocksFromADevice) {
  const LoopDevice loop(folder_.file("a", mib), 512);
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  const auto image = open_to_write(*loop.path(), CacheMode::none);
  ASSERT_TRUE(image) << image.error().what;
  EXPECT_TRUE(image->is_device);
  EXPECT_EQ(image->disk.size_bytes, 1U << 20);
  EXPECT_EQ(image->disk.logical_block_bytes, 512u);
  EXPECT_FALSE(image->buffered);
}

TEST_F(BlkImage, DeviceOfLargeBlocksGetsADescriptorForSmallRequests) {
  const LoopDevice loop(folder_.file("a", mib), 4096);
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  const auto image = open_to_write(*loop.path(), CacheMode::none);
  ASSERT_TRUE(image) << image.error().what;
  EXPECT_EQ(image->disk.logical_block_bytes, 4096u);
  EXPECT_EQ(image->offset_alignment, 4096u);
  EXPECT_EQ(image->fallocate_alignment, 4096u);
  ASSERT_TRUE(image->buffered);
  EXPECT_EQ(::fcntl(image->buffered.get(), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(::fcntl(image->buffered.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(::pwrite(image->buffered.get(), "x", 1, 512), 1);
}

TEST_F(BlkImage, DeviceCanDoWhatItSaysAndZeroesAnyway) {
  const LoopDevice loop(folder_.file("a", mib), 512);
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  const auto image = open_to_write(*loop.path(), CacheMode::none);
  ASSERT_TRUE(image);
  const int fd = image->file.get();
  EXPECT_EQ(image->punch_hole_supported,
            ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
  EXPECT_EQ(::fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  EXPECT_TRUE(image->zero_range_supported);
  EXPECT_GE(image->disk.discard_granularity_bytes, 512u);
}

TEST_F(BlkImage, DeviceThatTheHostUsesIsOnlyRead) {
  const LoopDevice loop(folder_.file("a", mib));
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  const vhost::UniqueFd mounted(::open(loop.path()->c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  ASSERT_TRUE(mounted);
  EXPECT_THAT(refusal(*loop.path()), AllOf(HasSubstr("in use by this host"), HasSubstr("unmount")));
  EXPECT_EQ(refusal(*loop.path(), true), "");
}

TEST_F(BlkImage, TwoMayOpenOneDeviceAndLeaveTheRestToTheLock) {
  const LoopDevice loop(folder_.file("a", mib));
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  const auto first = open_to_write(*loop.path());
  EXPECT_TRUE(first);
  EXPECT_EQ(refusal(*loop.path()), "");
}

TEST_F(BlkImage, OffersReadOnlyForAReadOnlyDevice) {
  const LoopDevice loop(folder_.file("a", mib), 512, LO_FLAGS_READ_ONLY);
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  EXPECT_THAT(refusal(*loop.path()), HasSubstr("--read-only"));
  EXPECT_EQ(refusal(*loop.path(), true), "");
}

}  // namespace
}  // namespace blk
