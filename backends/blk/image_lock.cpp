#include "backends/blk/image_lock.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "common/log.hpp"

namespace blk {
namespace {

/// QEMU's BLK_PERM_*, by bit number: which byte of a group stands for it.
enum Permission : off_t { consistent_read = 0, write = 1 };

/// The bytes of QEMU's RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE.
constexpr off_t used_base = 100;
constexpr off_t forbidden_base = 200;

enum class Attempt : unsigned char { locked, writer, reader, failed };

struct flock byte_range(off_t start, off_t length, short type) {
  struct flock range{};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = length;
  return range;
}

bool hold(int fd, off_t byte) {
  struct flock range = byte_range(byte, 1, F_RDLCK);
  return ::fcntl(fd, F_OFD_SETLK, &range) == 0;
}

void release(int fd) {
  struct flock range = byte_range(used_base, forbidden_base + 8 - used_base, F_UNLCK);
  (void)::fcntl(fd, F_OFD_SETLK, &range);
}

/// Does another description hold a lock on this byte? Yes, if it cannot be told.
bool held_elsewhere(int fd, off_t byte) {
  struct flock range = byte_range(byte, 1, F_WRLCK);
  return ::fcntl(fd, F_OFD_GETLK, &range) != 0 || range.l_type != F_UNLCK;
}

/// As a disk of QEMU's: nobody else writes. (To resize, QEMU's tools want to write too.)
bool hold_all(int fd, bool read_only) {
  return hold(fd, used_base + consistent_read) && (read_only || hold(fd, used_base + write)) &&
         hold(fd, forbidden_base + write);
}

Attempt check(int fd, bool read_only) {
  if (held_elsewhere(fd, used_base + write) ||
      held_elsewhere(fd, forbidden_base + consistent_read)) {
    return Attempt::writer;
  }
  if (!read_only && held_elsewhere(fd, forbidden_base + write)) return Attempt::reader;
  return Attempt::locked;
}

/// Checks with the description that does most, then locks the second: each would find the other.
/// errno says why if it is `failed`.
Attempt try_lock(const Image& image) {
  const int fd = image.file.get();
  const int second = image.buffered.get();
  const auto give_way = [&](Attempt why) {
    const int error = errno;
    release(fd);
    if (second >= 0) release(second);
    errno = error;
    return why;
  };
  // Only a foreign write lock refuses a read lock. QEMU takes none: it is somebody's who wants the
  // image alone.
  const auto refused = [&] {
    return give_way(errno == EAGAIN || errno == EACCES ? Attempt::writer : Attempt::failed);
  };
  if (!hold_all(fd, image.read_only)) return refused();
  if (const Attempt found = check(fd, image.read_only); found != Attempt::locked) {
    return give_way(found);
  }
  if (second >= 0 && !hold_all(second, image.read_only)) return refused();
  return Attempt::locked;
}

std::unexpected<vhost::Error> refuse(const Image& image, Attempt why, int error) {
  const std::string subject = "--blk-file " + image.path + ": ";
  switch (why) {
    case Attempt::reader:
      return vhost::fail(vhost::Fault::host,
                         subject +
                             "another process has the image open and relies on it not to "
                             "change (QEMU, one of its tools, or another vhost-user-blk); "
                             "stop it, or use --read-only");
    case Attempt::failed:
      return vhost::fail(vhost::Fault::operator_,
                         subject + "cannot be locked (" + std::strerror(error) +
                             "); put it on a file system with locks, or mount that with them");
    default:
      return vhost::fail(vhost::Fault::host,
                         subject +
                             "another process has the image open for writing (QEMU, one of "
                             "its tools, or another vhost-user-blk); stop it first");
  }
}

}  // namespace

vhost::Result<void> lock_image(const Image& image, std::chrono::milliseconds patience) {
  using std::chrono::steady_clock, std::chrono::microseconds;
  const auto deadline = steady_clock::now() + patience;
  // Two that started at once must not stay in step.
  const microseconds stagger{::getpid() % 7 * 100};
  for (microseconds pause{1000};; pause = std::min(pause * 2, microseconds{50'000})) {
    const Attempt attempt = try_lock(image);
    const int error = errno;
    if (attempt == Attempt::locked) return {};
    if (attempt == Attempt::failed || steady_clock::now() >= deadline) {
      return refuse(image, attempt, error);
    }
    std::this_thread::sleep_for(pause + stagger);
  }
}

vhost::Result<void> take_over_image(const Image& image) {
  if (auto locked = lock_image(image); !locked) return locked;
  // Where that fails, there is no cache.
  (void)::posix_fadvise(image.file.get(), 0, 0, POSIX_FADV_DONTNEED);
  return {};
}

void hand_over_image(const Image& image) {
  const bool cached = !image.direct || image.buffered;
  if (cached && !image.read_only && ::fdatasync(image.file.get()) != 0) {
    common::log::warning("--blk-file {}: cannot be flushed ({})", image.path, std::strerror(errno));
  }
  unlock_image(image);
}

void unlock_image(const Image& image) {
  release(image.file.get());
  if (image.buffered) release(image.buffered.get());
}

}  // namespace blk
