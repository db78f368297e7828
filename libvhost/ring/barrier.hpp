#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>

/*
 * What orders our looks at shared memory and the other side's, which runs on another CPU.
 *
 * Why each order is needed where it stands is said at the head of the rings. x86 keeps all of them
 * by itself but the full barrier; other CPUs keep none:
 *
 *                 x86-64                 aarch64      riscv64
 *   acquire       a load                 ldar         a load; fence r,rw
 *   release       a store                stlr         fence rw,w; a store
 *   full_barrier  a locked instruction   dmb ish      fence rw,rw
 *
 * A test of every build looks for these instructions (tests/unit/ring/barriers.py).
 * The memory is ordinary and coherent between guest and host, so nothing stronger is wanted.
 */
namespace vhost {

#if defined(__SANITIZE_THREAD__)
#define VHOST_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VHOST_UNDER_TSAN 1
#endif
#endif

/// Orders our earlier stores before our later loads, as the other side sees them: the one order
/// that acquire and release do not give. Both sides of a ring store an index and then look
/// whether the other wants to be told; without this each could miss the other.
inline void full_barrier() {
#if defined(VHOST_UNDER_TSAN)
  // ThreadSanitizer does not model fences: an exchange on one variable orders as well.
  static std::atomic<int> dummy;
  dummy.fetch_add(0, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

/// A u16 in shared memory, at an even address. Loads see what was written before a store_release.
[[nodiscard]] inline std::uint16_t load_acquire(const std::byte* shared) {
  auto* value = reinterpret_cast<std::uint16_t*>(const_cast<std::byte*>(shared));
  return std::atomic_ref(*value).load(std::memory_order_acquire);
}
[[nodiscard]] inline std::uint16_t load_relaxed(const std::byte* shared) {
  auto* value = reinterpret_cast<std::uint16_t*>(const_cast<std::byte*>(shared));
  return std::atomic_ref(*value).load(std::memory_order_relaxed);
}
inline void store_release(std::byte* shared, std::uint16_t value) {
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(shared))
      .store(value, std::memory_order_release);
}
inline void store_relaxed(std::byte* shared, std::uint16_t value) {
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(shared))
      .store(value, std::memory_order_relaxed);
}

/// A u32 in shared memory, at an address that 4 divides: both halves at once.
[[nodiscard]] inline std::uint32_t load_relaxed_u32(const std::byte* shared) {
  auto* value = reinterpret_cast<std::uint32_t*>(const_cast<std::byte*>(shared));
  return std::atomic_ref(*value).load(std::memory_order_relaxed);
}
inline void store_relaxed_u32(std::byte* shared, std::uint32_t value) {
  std::atomic_ref(*reinterpret_cast<std::uint32_t*>(shared))
      .store(value, std::memory_order_relaxed);
}

/// A u64 in shared memory, at an address that 8 divides: all of it at once. On both sides of a
/// hand-over, or on none: a part of it is another number to ThreadSanitizer.
[[nodiscard]] inline std::uint64_t load_acquire_u64(const std::byte* shared) {
  auto* value = reinterpret_cast<std::uint64_t*>(const_cast<std::byte*>(shared));
  return std::atomic_ref(*value).load(std::memory_order_acquire);
}
inline void store_release_u64(std::byte* shared, std::uint64_t value) {
  std::atomic_ref(*reinterpret_cast<std::uint64_t*>(shared))
      .store(value, std::memory_order_release);
}
inline void store_relaxed_u64(std::byte* shared, std::uint64_t value) {
  std::atomic_ref(*reinterpret_cast<std::uint64_t*>(shared))
      .store(value, std::memory_order_relaxed);
}

}  // namespace vhost
