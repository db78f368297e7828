#include "libvhost/memory/dirty_log.hpp"

#include <algorithm>

namespace vhost {

void DirtyLog::mark(std::uint64_t guest_physical, std::uint64_t bytes) {
  const std::uint64_t pages = map_.bytes().size() * 8;
  const std::uint64_t first = guest_physical / page_bytes;
  if (bytes == 0 || first >= pages) return;
  // The length is at most 2^32 - 1, so this wraps only where `first` is far behind the end.
  const std::uint64_t last = std::min((guest_physical + bytes - 1) / page_bytes, pages - 1);
  for (std::uint64_t page = first; page <= last; ++page) {
    auto* const byte = reinterpret_cast<std::uint8_t*>(map_.bytes().data() + page / 8);
    const auto mask = static_cast<std::uint8_t>(1U << page % 8);
    // Always: a bit that is seen set may be cleared before the write it stands for is visible.
    std::atomic_ref(*byte).fetch_or(mask, std::memory_order_release);
  }
}

}  // namespace vhost
