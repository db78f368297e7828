#pragma once
#include <array>
#include <string_view>
#include <utility>

namespace blk {

/// How writes reach the storage: the words and the meanings of QEMU's `cache=`.
enum class CacheMode : unsigned char {
  none,          ///< O_DIRECT; the guest sees a write cache and flushes it
  writeback,     ///< page cache; the guest sees a write cache and flushes it
  writethrough,  ///< page cache; a write is on stable storage when it completes
  directsync,    ///< O_DIRECT; a write is on stable storage when it completes
  unsafe,        ///< page cache; a flush is answered and not done: for throw-away guests
};

inline constexpr std::array<std::pair<std::string_view, CacheMode>, 5> cache_mode_names{{
    {"none", CacheMode::none},
    {"writeback", CacheMode::writeback},
    {"writethrough", CacheMode::writethrough},
    {"directsync", CacheMode::directsync},
    {"unsafe", CacheMode::unsafe},
}};

[[nodiscard]] constexpr bool uses_direct_io(CacheMode mode) {
  return mode == CacheMode::none || mode == CacheMode::directsync;
}

/// What `writeback` in the configuration space says before the guest changes it.
[[nodiscard]] constexpr bool write_cache(CacheMode mode) {
  return mode != CacheMode::writethrough && mode != CacheMode::directsync;
}

[[nodiscard]] constexpr bool ignores_flush(CacheMode mode) {
  return mode == CacheMode::unsafe;
}

[[nodiscard]] constexpr std::string_view name(CacheMode mode) {
  for (const auto& [text, value] : cache_mode_names) {
    if (value == mode) return text;
  }
  return "?";
}

}  // namespace blk
