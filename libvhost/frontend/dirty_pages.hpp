#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost::frontend {

/// A dirty log that a back-end marks: one bit for each 4 KiB of the memory it was given, by guest
/// address.
///
/// Thread: one at a time here, while the back-end's threads mark.
class DirtyPages {
 public:
  static constexpr std::uint64_t page_bytes = 4096;

  /// For all guest addresses below `end`.
  [[nodiscard]] static Result<DirtyPages> create(std::uint64_t end);
  DirtyPages(DirtyPages&& other) noexcept
      : fd_(std::move(other.fd_)), words_(std::exchange(other.words_, {})) {}
  DirtyPages& operator=(DirtyPages&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(words_, other.words_);
    return *this;
  }
  ~DirtyPages();

  /// The guest addresses of the pages that were marked since the last time, in order. Each must be
  /// read after this, not before.
  [[nodiscard]] std::vector<std::uint64_t> take();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::uint64_t size_bytes() const { return words_.size_bytes(); }

 private:
  DirtyPages(UniqueFd fd, std::span<std::uint64_t> words) : fd_(std::move(fd)), words_(words) {}

  UniqueFd fd_;
  std::span<std::uint64_t> words_;
};

}  // namespace vhost::frontend
