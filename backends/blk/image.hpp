#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backends/blk/cache_mode.hpp"
#include "backends/blk/disk.hpp"
#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * A raw disk image: a file or a block device, opened and measured.
 *
 * Everything is asked of the kernel once, at open(): size, alignment, what can be punched out or
 * zeroed. Nothing is opened later and the path is not looked at again, so the daemon can lock
 * itself up afterwards.
 *
 * O_DIRECT and odd requests. A guest may send any 512 bytes, direct I/O may want more. Where it
 * does, `buffered` is a second descriptor for just those requests: the page cache reads and writes
 * the block around them. (Memory that is not aligned is the worker's to bounce.) A buffered write
 * dirties its whole page, so the worker must not have a direct write to the same page in flight
 * beside it: one of the two would be lost.
 *
 * A file always has logical blocks of 512 bytes, whatever direct I/O wants: partition tables and
 * some file systems are written in logical blocks, and the same image must mean the same to its
 * guest under every cache mode and on every host. The larger unit is told as the physical block. A
 * device has the logical blocks it says.
 *
 * Mistakes are the operator's: one sentence with option and cure. What is only worse than asked
 * for is a note.
 */
namespace blk {

struct ImageOptions {
  std::string path;
  bool read_only = false;
  CacheMode cache = CacheMode::none;
};

struct Image {
  /// Opens and measures. Every error is Fault::operator_ and leaves nothing open. Takes no lock:
  /// see image_lock.hpp.
  [[nodiscard]] static vhost::Result<Image> open(const ImageOptions& options);

  /// The size of the file or device now, in bytes; refuses what open() would refuse.
  [[nodiscard]] vhost::Result<std::uint64_t> size_now() const;

  std::string path;
  bool is_device = false;
  bool read_only = false;
  CacheMode cache = CacheMode::none;

  vhost::UniqueFd file;      ///< for I/O; close-on-exec, blocking
  vhost::UniqueFd buffered;  ///< for requests `offset_alignment` forbids; empty if there are none

  bool direct = false;                    ///< `file` is O_DIRECT: the two alignments hold
  std::uint32_t memory_alignment = 1;     ///< bytes, a power of two
  std::uint32_t offset_alignment = 1;     ///< bytes, a power of two; of offset and length
  std::uint32_t fallocate_alignment = 1;  ///< bytes; a range that is not so is EINVAL

  /// FALLOC_FL_PUNCH_HOLE works. It also zeroes.
  bool punch_hole_supported = false;
  /// FALLOC_FL_ZERO_RANGE is expected to work. It can fail with EOPNOTSUPP all the same (a file of
  /// ext3's layout on ext4): the worker then writes zeroes, as it does where this is false.
  bool zero_range_supported = false;

  /// What the guest sees; all but the serial.
  Disk disk;

  /// One sentence each, for the log: where less was had than was asked for.
  std::vector<std::string> notes;
};

}  // namespace blk
