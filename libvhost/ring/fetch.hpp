#pragma once
#include <cstddef>

namespace vhost {

inline constexpr std::size_t cache_line = 64;

/// Has a cache line brought here, to be read soon.
inline void fetch(const void* at) {
  __builtin_prefetch(at);
}

/// The same, to be written: the line becomes ours alone at once. Fetched to be read, the first
/// store would have to ask its owner again.
inline void fetch_to_write(const void* at) {
#if defined(__x86_64__)
  // As the compiler would write it, if it knew that every 64-bit CPU takes it, some as a no-op.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(at)));
#else
  __builtin_prefetch(at, 1);
#endif
}

}  // namespace vhost
