#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>

namespace net {

inline constexpr std::size_t cache_line = 64;

/// Has the first bytes of a piece, at most `bytes`, brought into the cache, to be read soon.
inline void fetch(const iovec& piece, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(piece.iov_base);
  const std::size_t end = std::min(piece.iov_len, bytes);
  for (std::size_t at = 0; at < end; at += cache_line) __builtin_prefetch(begin + at);
}

/// The same, to be written: the line becomes ours alone at once. Fetched to be read, the first
/// store would have to ask its owner again.
inline void fetch_to_write(const iovec& piece, std::size_t bytes) {
  auto* const begin = static_cast<std::byte*>(piece.iov_base);
  const std::size_t end = std::min(piece.iov_len, bytes);
  for (std::size_t at = 0; at < end; at += cache_line) {
#if defined(__x86_64__)
    // As the compiler would write it, if it knew that every 64-bit CPU takes it, some as a no-op.
    asm volatile("prefetchw %0" : : "m"(begin[at]));
#else
    __builtin_prefetch(begin + at, 1);
#endif
  }
}

}  // namespace net
