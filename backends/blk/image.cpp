#include "backends/blk/image.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "backends/blk/block_sysfs.hpp"
#include "backends/blk/image_probe.hpp"

namespace blk {
namespace {

using vhost::Result;
using vhost::UniqueFd;

/// O_NONBLOCK, so that what turns out to be no image cannot make us wait; cleared again, for
/// io_uring would answer EAGAIN where it should wait.
constexpr int open_flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

std::unexpected<vhost::Error> refuse(const std::string& path, std::string_view sentence) {
  return vhost::fail(vhost::Fault::operator_, "--blk-file " + path + ": " + std::string(sentence));
}

/// Why the path cannot be reached at all, or nothing to be opened is there.
std::unexpected<vhost::Error> refuse_missing(const std::string& path, int error) {
  switch (error) {
    case ENOENT: return refuse(path, "no such file; create it, e.g. with truncate -s 10G " + path);
    case EACCES:
      return refuse(path, "no permission to enter its folder; let this user in, or move the image");
    default:
      return refuse(
          path, std::string("cannot be reached (") + std::strerror(error) + "); check the path");
  }
}

/// Why open() said no to what is a file or a block device. For one that may be read but not
/// written, the cure is to serve it so.
std::unexpected<vhost::Error> refuse_open(const std::string& path, bool read_only, int error) {
  const bool denied = error == EACCES || error == EPERM;
  if (error == EROFS) {
    return refuse(path, "its file system is mounted read-only; remount it, or use --read-only");
  }
  if (denied && !read_only && UniqueFd(::open(path.c_str(), O_RDONLY | open_flags))) {
    return refuse(path, "may be read but not written; make it writable, or use --read-only");
  }
  if (denied) return refuse(path, "no permission to read it; give this user access to it");
  return refuse(path,
                std::string("cannot be opened (") + std::strerror(error) + "); check the image");
}

/// Nothing if it is a file or a block device.
std::string_view wrong_kind(mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return {};
  if (S_ISDIR(mode)) return "is a directory; name an image file in it or a block device";
  if (S_ISCHR(mode)) return "is a character device; name a file or a block device";
  if (S_ISFIFO(mode)) return "is a FIFO; name a file or a block device";
  if (S_ISSOCK(mode)) return "is a socket; name a file or a block device";
  return "is neither a file nor a block device; name one of these";
}

bool set_blocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0;
}

Result<UniqueFd> open_one(const ImageOptions& options, int extra_flags) {
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  UniqueFd fd(::open(options.path.c_str(), access | open_flags | extra_flags));
  if (!fd) return refuse_open(options.path, options.read_only, errno);
  if (!set_blocking(fd.get())) return refuse_open(options.path, options.read_only, errno);
  return fd;
}

/// Opens `file`, direct if the cache mode asks for it and the file system agrees.
Result<void> open_file(Image& image, const ImageOptions& options) {
  if (uses_direct_io(options.cache)) {
    if (auto fd = open_one(options, O_DIRECT)) {
      image.file = std::move(*fd);
      image.direct = true;
      return {};
    }
  }
  auto fd = open_one(options, 0);
  if (!fd) return std::unexpected(fd.error());
  image.file = std::move(*fd);
  return {};
}

Result<std::uint64_t> measure(const Image& image, const struct stat& status) {
  auto size_bytes = static_cast<std::uint64_t>(status.st_size);
  if (image.is_device && ::ioctl(image.file.get(), BLKGETSIZE64, &size_bytes) != 0) {
    return refuse(image.path, std::string("the device does not tell its size (") +
                                  std::strerror(errno) + "); check the device");
  }
  if (size_bytes == 0) {
    return refuse(image.path,
                  image.is_device
                      ? std::string("the device is empty; insert or set up its medium")
                      : "is empty; give it a size, e.g. with truncate -s 10G " + image.path);
  }
  if (size_bytes % sector_bytes != 0) {
    return refuse(image.path,
                  "its size of " + std::to_string(size_bytes) +
                      " bytes is no multiple of 512; round it up with truncate -s %512 " +
                      image.path);
  }
  return size_bytes;
}

Result<void> check_device(const Image& image, const struct stat& status) {
  int locked = 0;
  if (!image.read_only && ::ioctl(image.file.get(), BLKROGET, &locked) == 0 && locked != 0) {
    return refuse(image.path, "may be read but not written; make it writable, or use --read-only");
  }
  // Nothing keeps this claim: it only tells of somebody else's.
  if (!image.read_only && !UniqueFd(::open(image.path.c_str(), O_RDONLY | O_EXCL | open_flags)) &&
      errno == EBUSY) {
    return refuse(image.path,
                  "is in use by this host (mounted, or part of a volume); unmount it, "
                  "or use --read-only");
  }
  if (sysfs_disk_text(status.st_rdev, "queue/zoned").value_or("none") == "host-managed") {
    return refuse(image.path, "is a zoned device, which has no random writes; name another");
  }
  return {};
}

/// The second descriptor, where direct I/O cannot do what a guest may ask for.
Result<void> open_buffered(Image& image, const ImageOptions& options, const struct stat& status) {
  if (image.offset_alignment <= sector_bytes) return {};
  auto fd = open_one(options, 0);
  if (!fd) return std::unexpected(fd.error());
  struct stat second{};
  if (::fstat(fd->get(), &second) != 0 || second.st_dev != status.st_dev ||
      second.st_ino != status.st_ino) {
    return refuse(image.path, "was replaced while it was opened; try again");
  }
  image.buffered = std::move(*fd);
  return {};
}

/// A guest may write anything to its first bytes, so this can be a note and no refusal.
bool looks_like_qcow2(const Image& image) {
  alignas(4096) std::array<char, 4096> start{};
  return ::pread(image.file.get(), start.data(), start.size(), 0) >= 4 &&
         std::memcmp(start.data(), "QFI\xfb", 4) == 0;
}

}  // namespace

Result<Image> Image::open(const ImageOptions& options) {
  if (options.path.empty()) {
    return vhost::fail(vhost::Fault::operator_,
                       "--blk-file: the path is empty; name an image file or a block device");
  }
  // Looked at before it is opened: to open a character device can already do something.
  struct stat status{};
  if (::stat(options.path.c_str(), &status) != 0) return refuse_missing(options.path, errno);
  if (const auto wrong = wrong_kind(status.st_mode); !wrong.empty()) {
    return refuse(options.path, wrong);
  }

  Image image;
  image.path = options.path;
  image.read_only = options.read_only;
  image.cache = options.cache;
  if (auto opened = open_file(image, options); !opened) return std::unexpected(opened.error());
  if (::fstat(image.file.get(), &status) != 0) return refuse_missing(options.path, errno);
  if (const auto wrong = wrong_kind(status.st_mode); !wrong.empty()) {
    return refuse(options.path, wrong);
  }
  image.is_device = S_ISBLK(status.st_mode);
  image.disk.read_only = options.read_only;
  image.disk.write_cache = write_cache(options.cache);

  const auto size_bytes = measure(image, status);
  if (!size_bytes) return std::unexpected(size_bytes.error());
  image.disk.size_bytes = *size_bytes;
  if (image.is_device) {
    if (auto fit = check_device(image, status); !fit) return std::unexpected(fit.error());
  }
  probe_alignment(image, status);
  probe_topology(image, status);
  probe_fallocate(image, status);
  if (auto second = open_buffered(image, options, status); !second) {
    return std::unexpected(second.error());
  }

  if (uses_direct_io(options.cache) && !image.direct) {
    image.notes.push_back("--cache " + std::string(name(options.cache)) + ": the file system of " +
                          options.path + " has no direct I/O; using the page cache");
  }
  if (looks_like_qcow2(image)) {
    image.notes.push_back("--blk-file " + options.path +
                          ": looks like a qcow2 image and is served as raw bytes; if its guest "
                          "should see the disk inside, convert it with qemu-img convert -O raw");
  }
  return image;
}

Result<std::uint64_t> Image::size_now() const {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) {
    return vhost::fail_errno(vhost::Fault::host, "cannot look at the image");
  }
  return measure(*this, status);
}

}  // namespace blk
