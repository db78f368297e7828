#pragma once
#include <cstdint>
#include <memory>

#include "libvhost/memory/mapping.hpp"

namespace vhost {

/// Which pages of the guest's memory were written, for a front-end that migrates the guest
/// (vhost-user, "Migration"): one bit for each 4 KiB, which it reads and clears meanwhile.
///
/// A page is marked after it was written: marked before, its old content could be sent, its bit
/// cleared, and the write be lost. A bit is set even where it is seen set: the front-end may be
/// about to clear it, and to read the page as it was before the write is visible. Setting it comes
/// before the clearing, which then has seen the write, or after, and then the page is sent again.
/// Thread: any.
class DirtyLog {
 public:
  static constexpr std::uint64_t page_bytes = 4096;
  static constexpr std::uint64_t word_pages = 64;

  /// Refuses what Mapping::map() does, and a log that does not begin at a multiple of 8.
  [[nodiscard]] static Result<std::shared_ptr<DirtyLog>> map(int fd, std::uint64_t offset_bytes,
                                                             std::uint64_t size_bytes);

  /// The pages that it has bits for, from the guest's address 0 on.
  [[nodiscard]] std::uint64_t pages() const { return map_.bytes().size() * 8; }
  /// Whether all bytes before this guest address have a bit.
  [[nodiscard]] bool reaches(std::uint64_t end) const {
    return end == 0 || (end - 1) / page_bytes < pages();
  }
  /// Marks pages: bit n of `mask` is page `word` * 64 + n, which there must be.
  void set(std::uint64_t word, std::uint64_t mask);
  [[nodiscard]] bool lost() const { return map_.lost(); }

 private:
  explicit DirtyLog(Mapping map) : map_(std::move(map)) {}

  Mapping map_;
};

/// Marks that a ring has to make, gathered: neighbouring pages are one write to the log. All that
/// is added must have been written already.
class DirtyMarks {
 public:
  /// Null: what is added goes nowhere.
  void move_to(DirtyLog* log) {
    flush();
    log_ = log;
    pages_ = log == nullptr ? 0 : log->pages();
  }

  /// The `bytes` at `guest_physical` were written. What lies behind the log's end is ignored.
  void add(std::uint64_t guest_physical, std::uint64_t bytes) {
    if (bytes == 0) return;
    const std::uint64_t first = guest_physical / DirtyLog::page_bytes;
    // A ring's piece is shorter than 2^32 bytes: where the sum wraps, `last` is far below `first`.
    const std::uint64_t last = (guest_physical + (bytes - 1)) / DirtyLog::page_bytes;
    // As nearly always: a buffer is short, and lies near the one before it.
    if (first / in_word == word_ && last / in_word == word_ && last < pages_) {
      mask_ |= run(first % in_word, last - first + 1);
    } else {
      add_words(first, last);
    }
  }
  /// After this the front-end can see all of them.
  void flush() {
    if (mask_ != 0) log_->set(word_, mask_);
    mask_ = 0;
  }

 private:
  static constexpr std::uint64_t in_word = DirtyLog::word_pages;

  /// `count` bits, at least one, from `first` on.
  [[nodiscard]] static std::uint64_t run(std::uint64_t first, std::uint64_t count) {
    return (~std::uint64_t{0} >> (in_word - count)) << first;
  }
  void add_words(std::uint64_t first, std::uint64_t last);

  DirtyLog* log_ = nullptr;
  std::uint64_t pages_ = 0;  // that it has bits for
  std::uint64_t word_ = 0;
  std::uint64_t mask_ = 0;  // 0: nothing is waiting
};

}  // namespace vhost
