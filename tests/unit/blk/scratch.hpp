#pragma once
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "backends/blk/image.hpp"
#include "libvhost/wire/unique_fd.hpp"

/// What tests of images need: folders, files and loop devices that go away by themselves.
namespace blk::testing_tools {

/// A folder of the test's own that everybody may enter.
class ScratchFolder {
 public:
  explicit ScratchFolder(const std::string& in = std::filesystem::temp_directory_path()) {
    path_ = in + "/vub-test-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "no folder in " << in;
    ::chmod(path_.c_str(), 0755);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name, off_t size_bytes) const {
    const std::string path = path_ + '/' + name;
    const vhost::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!fd || ::ftruncate(fd.get(), size_bytes) != 0) ADD_FAILURE() << "cannot make " << path;
    return path;
  }

 private:
  std::string path_;
};

/// A block device on a file; has no path() where the machine allows none.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file, std::uint32_t block_bytes = 512,
                      std::uint32_t flags = 0) {
    const vhost::UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const vhost::UniqueFd backing(::open(file.c_str(), O_RDWR | O_CLOEXEC));
    const int number = control ? ::ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
    if (number < 0) return;
    const std::string path = "/dev/loop" + std::to_string(number);
    vhost::UniqueFd device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(backing.get());
    config.block_size = block_bytes;
    config.info.lo_flags = flags;
    if (!device || ::ioctl(device.get(), LOOP_CONFIGURE, &config) != 0) return;
    device_ = std::move(device);
    path_ = path;
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice() {
    if (device_) ::ioctl(device_.get(), LOOP_CLR_FD);
  }

  [[nodiscard]] const std::optional<std::string>& path() const { return path_; }

 private:
  vhost::UniqueFd device_;
  std::optional<std::string> path_;
};

/// While it lives, the test is a user who may do what file modes say.
class OrdinaryUser {
 public:
  OrdinaryUser() : was_root_(::geteuid() == 0) {
    if (was_root_ && ::seteuid(65534) != 0) ADD_FAILURE() << "cannot become nobody";
  }
  OrdinaryUser(const OrdinaryUser&) = delete;
  OrdinaryUser& operator=(const OrdinaryUser&) = delete;
  ~OrdinaryUser() {
    if (was_root_ && ::seteuid(0) != 0) std::abort();
  }

 private:
  bool was_root_;
};

[[nodiscard]] inline vhost::Result<Image> open_to(bool read_only, const std::string& path,
                                                  CacheMode cache = CacheMode::writeback) {
  return Image::open({.path = path, .read_only = read_only, .cache = cache});
}
[[nodiscard]] inline vhost::Result<Image> open_to_write(const std::string& path,
                                                        CacheMode cache = CacheMode::writeback) {
  return open_to(false, path, cache);
}
[[nodiscard]] inline vhost::Result<Image> open_to_read(const std::string& path) {
  return open_to(true, path);
}

}  // namespace blk::testing_tools
