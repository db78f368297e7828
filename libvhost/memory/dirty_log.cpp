#include "libvhost/memory/dirty_log.hpp"

#include <algorithm>
#include <atomic>
#include <bit>

namespace vhost {

Result<std::shared_ptr<DirtyLog>> DirtyLog::map(int fd, std::uint64_t offset_bytes,
                                                std::uint64_t size_bytes) {
  if (offset_bytes % sizeof(std::uint64_t) != 0) {
    return fail(Fault::front_end, "a dirty log that begins at " + std::to_string(offset_bytes) +
                                      ", which is no multiple of 8");
  }
  auto mapping = Mapping::map(fd, offset_bytes, size_bytes);
  if (!mapping) return std::unexpected(mapping.error());
  return std::shared_ptr<DirtyLog>(new DirtyLog(std::move(*mapping)));
}

void DirtyLog::set(std::uint64_t word, std::uint64_t mask) {
  // Bit n of the log is bit n modulo 8 of byte n / 8, whatever the byte order here. The last word
  // may reach beyond the log, never beyond its last page; no bit is set there.
  if constexpr (std::endian::native == std::endian::big) mask = std::byteswap(mask);
  auto* const bits = reinterpret_cast<std::uint64_t*>(map_.bytes().data()) + word;
  std::atomic_ref(*bits).fetch_or(mask, std::memory_order_release);
}

void DirtyMarks::add(std::uint64_t guest_physical, std::uint64_t bytes) {
  if (log_ == nullptr || bytes == 0) return;
  constexpr std::uint64_t in_word = DirtyLog::word_pages;
  const std::uint64_t end = log_->pages();
  // A ring's piece is shorter than 2^32 bytes: where the sum wraps, `page` is behind the end.
  const std::uint64_t last = (guest_physical + (bytes - 1)) / DirtyLog::page_bytes;
  std::uint64_t page = guest_physical / DirtyLog::page_bytes;
  while (page <= last && page < end) {
    const std::uint64_t first = page % in_word;
    const std::uint64_t count = std::min({in_word - first, last - page + 1, end - page});
    const std::uint64_t word = page / in_word;
    if (word != word_) {
      flush();
      word_ = word;
    }
    mask_ |= (~std::uint64_t{0} >> (in_word - count)) << first;
    page += count;
  }
}

}  // namespace vhost
