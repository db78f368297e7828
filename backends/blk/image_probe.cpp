#include "backends/blk/image_probe.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <limits>

#include "backends/blk/block_sysfs.hpp"

namespace blk {
namespace {

constexpr std::uint32_t sector = static_cast<std::uint32_t>(sector_bytes);
constexpr std::uint32_t page = 4096;

/// Per segment: a bound for how long one request may keep the storage busy. A multiple of every
/// granularity there is, so that a guest that cuts a long range keeps its parts aligned.
constexpr std::uint32_t fallocate_limit_bytes = 1U << 30;
constexpr std::uint32_t fallocate_limit_sectors = fallocate_limit_bytes / sector;
/// The same where zeroes have to be written.
constexpr std::uint32_t written_zeroes_limit_sectors = (16U << 20) / sector;

template <class T>
T ask(int fd, unsigned long request, T otherwise) {
  T answer{};
  return ::ioctl(fd, request, &answer) == 0 ? answer : otherwise;
}

/// What must be assumed where statx does not say: the logical block of the device beneath, for
/// older kernels want that of memory and offset alike; of a file on no device we know, a page.
std::uint32_t cautious_alignment(const Image& image, const struct stat& status) {
  if (image.is_device) {
    return static_cast<std::uint32_t>(std::max(ask(image.file.get(), BLKSSZGET, 512), 512));
  }
  const auto known = sysfs_disk_number(status.st_dev, "queue/logical_block_size");
  if (!known || *known < sector || *known > (1U << 20)) return page;
  return std::bit_ceil(static_cast<std::uint32_t>(*known));
}

/// tmpfs takes O_DIRECT or not, by the kernel's age, and has nothing but the page cache either way:
/// alignment would only cost.
bool lives_in_the_page_cache(int fd) {
  struct statfs system{};
  return ::fstatfs(fd, &system) == 0 &&
         (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}

void give_up_direct(Image& image) {
  const int flags = ::fcntl(image.file.get(), F_GETFL);
  (void)::fcntl(image.file.get(), F_SETFL, flags & ~O_DIRECT);
  image.direct = false;
  image.memory_alignment = 1;
  image.offset_alignment = 1;
}

/// A full disk knows the operation; only a file system that does not is taken at its word.
bool fallocate_works(int fd, int mode, off_t offset_bytes) {
  return ::fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset_bytes, page) == 0 || errno == ENOSPC ||
         errno == EDQUOT;
}

/// An unnamed file on the image's own file system; empty if none can be made there.
vhost::UniqueFd scratch_file(const Image& image, const struct stat& status) {
  std::error_code error;
  const auto real = std::filesystem::canonical(image.path, error);
  if (error) return {};
  vhost::UniqueFd scratch(
      ::open(real.parent_path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR));
  struct stat found{};
  if (!scratch || ::fstat(scratch.get(), &found) != 0) return {};
  if (found.st_dev != status.st_dev) return {};  // the image is a mount of its own
  return scratch;
}

void probe_file_fallocate(Image& image, const struct stat& status) {
  if (const vhost::UniqueFd scratch = scratch_file(image, status)) {
    image.punch_hole_supported = fallocate_works(scratch.get(), FALLOC_FL_PUNCH_HOLE, 0);
    image.zero_range_supported = fallocate_works(scratch.get(), FALLOC_FL_ZERO_RANGE, 0);
  } else {
    const auto behind = static_cast<off_t>((image.disk.size_bytes / page + 1) * page);
    image.punch_hole_supported = fallocate_works(image.file.get(), FALLOC_FL_PUNCH_HOLE, behind);
    image.zero_range_supported = image.punch_hole_supported;
  }
  image.disk.can_discard = image.punch_hole_supported;
  const auto block =
      static_cast<std::uint32_t>(std::clamp<blksize_t>(status.st_blksize, 512, page));
  image.disk.discard_granularity_bytes = std::bit_ceil(block);
}

/// On a device the kernel does PUNCH_HOLE with its write-zeroes command and refuses without one;
/// ZERO_RANGE it does by writing if it must. A punched range reads as zeroes.
void probe_device_fallocate(Image& image, const struct stat& status) {
  const auto number = [&](std::string_view name) {
    return sysfs_disk_number(status.st_rdev, name).value_or(0);
  };
  const bool discards = number("queue/discard_max_bytes") > 0;
  image.punch_hole_supported = number("queue/write_zeroes_max_bytes") > 0;
  image.zero_range_supported = true;
  image.fallocate_alignment = image.disk.logical_block_bytes;
  image.disk.can_discard = discards && image.punch_hole_supported;
  const std::uint64_t granularity = number("queue/discard_granularity");
  image.disk.discard_granularity_bytes = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
      granularity, image.disk.logical_block_bytes, fallocate_limit_bytes));
}

}  // namespace

void probe_alignment(Image& image, const struct stat& status) {
  if (!image.direct) return;
  if (!image.is_device && lives_in_the_page_cache(image.file.get())) return give_up_direct(image);
  const std::uint32_t cautious = cautious_alignment(image, status);
  image.memory_alignment = cautious;
  image.offset_alignment = cautious;
#ifdef STATX_DIOALIGN
  struct statx extended{};
  if (::statx(image.file.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0) {
    image.memory_alignment = extended.stx_dio_mem_align;
    image.offset_alignment = extended.stx_dio_offset_align;
  }
#endif
  if (image.memory_alignment == 0 || image.offset_alignment == 0) give_up_direct(image);
}

void probe_topology(Image& image, const struct stat& status) {
  Disk& disk = image.disk;
  const int fd = image.file.get();
  std::uint64_t physical = std::bit_ceil(
      static_cast<std::uint32_t>(std::clamp<blksize_t>(status.st_blksize, 512, page)));
  physical = std::max<std::uint64_t>(physical, image.offset_alignment);
  std::uint64_t min_io = physical;
  // The type is signed, and not as wide on every machine.
  const auto preferred = static_cast<std::uint64_t>(std::max<blksize_t>(status.st_blksize, 0));
  std::uint64_t opt_io = preferred > page ? preferred : 0;
  if (image.is_device) {
    disk.logical_block_bytes = static_cast<std::uint32_t>(std::max(ask(fd, BLKSSZGET, 512), 512));
    physical = std::bit_ceil(ask(fd, BLKPBSZGET, disk.logical_block_bytes));
    min_io = ask(fd, BLKIOMIN, disk.logical_block_bytes);
    opt_io = ask(fd, BLKIOOPT, 0U);
    const int offset = std::max(ask(fd, BLKALIGNOFF, 0), 0);  // -1: no alignment helps
    disk.alignment_offset = static_cast<std::uint8_t>(std::min<std::uint32_t>(
        static_cast<std::uint32_t>(offset) / disk.logical_block_bytes, 255));
  }
  const std::uint64_t block = disk.logical_block_bytes;
  const std::uint64_t per_physical = std::max<std::uint64_t>(physical / block, 1);
  disk.physical_block_exp = static_cast<std::uint8_t>(std::countr_zero(per_physical));
  disk.min_io_blocks =
      static_cast<std::uint16_t>(std::clamp<std::uint64_t>(min_io / block, 1, 0xffff));
  disk.opt_io_blocks = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(opt_io / block, std::numeric_limits<std::uint32_t>::max()));
}

void probe_fallocate(Image& image, const struct stat& status) {
  if (image.read_only) return;
  Disk& disk = image.disk;
  if (image.is_device) {
    probe_device_fallocate(image, status);
  } else {
    probe_file_fallocate(image, status);
  }
  if (disk.can_discard) disk.max_discard_sectors = fallocate_limit_sectors;
  disk.can_write_zeroes = true;  // by writing them, if need be
  disk.write_zeroes_may_unmap = image.punch_hole_supported;
  disk.max_write_zeroes_sectors =
      image.zero_range_supported ? fallocate_limit_sectors : written_zeroes_limit_sectors;
}

}  // namespace blk
