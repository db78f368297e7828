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

/// Pages from `first` to `last`, wherever they lie.
void DirtyMarks::add_words(std::uint64_t first, std::uint64_t last) {
  for (std::uint64_t page = first; page <= last && page < pages_;) {
    const std::uint64_t bit = page % in_word;
    const std::uint64_t count = std::min({in_word - bit, last - page + 1, pages_ - page});
    const std::uint64_t word = page / in_word;
    if (word != word_) {
      flush();
      word_ = word;
    }
    mask_ |= run(bit, count);
    page += count;
  }
}

}  // namespace vhost
