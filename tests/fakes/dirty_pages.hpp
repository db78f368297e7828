#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <set>

#include "libvhost/memory/dirty_log.hpp"

namespace vhost::fakes {

/// A dirty log as its front-end sees it: byte by byte.
class DirtyPages {
 public:
  explicit DirtyPages(std::uint64_t bytes, std::uint64_t offset = 0)
      : file_(::memfd_create("log", MFD_CLOEXEC)), bytes_(bytes), offset_(offset) {
    if (::ftruncate(file_.get(), static_cast<off_t>(offset + bytes)) != 0) std::abort();
    void* const raw =
        ::mmap(nullptr, offset + bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    if (raw == MAP_FAILED) std::abort();
    view_ = static_cast<std::uint8_t*>(raw);
  }
  DirtyPages(const DirtyPages&) = delete;
  DirtyPages& operator=(const DirtyPages&) = delete;
  ~DirtyPages() { ::munmap(view_, offset_ + bytes_); }

  /// As a back-end maps it.
  [[nodiscard]] std::shared_ptr<DirtyLog> map() const {
    auto log = DirtyLog::map(file_.get(), offset_, bytes_);
    if (!log) std::abort();
    return *log;
  }

  /// The marked pages, by number; they are not marked any more.
  std::set<std::uint64_t> take() {
    std::set<std::uint64_t> pages;
    for (std::uint64_t i = 0; i < bytes_; ++i) {
      const std::uint8_t byte = std::exchange(view_[offset_ + i], std::uint8_t{0});
      for (unsigned bit = 0; byte != 0 && bit < 8; ++bit) {
        if ((byte >> bit & 1) != 0) pages.insert(i * 8 + bit);
      }
    }
    return pages;
  }
  /// Whether nothing was written before the log, which shares the file.
  [[nodiscard]] bool untouched_before() const {
    for (std::uint64_t i = 0; i < offset_; ++i) {
      if (view_[i] != 0) return false;
    }
    return true;
  }
  [[nodiscard]] const UniqueFd& file() const { return file_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  UniqueFd file_;
  std::uint64_t bytes_;
  std::uint64_t offset_;
  std::uint8_t* view_ = nullptr;
};

}  // namespace vhost::fakes
