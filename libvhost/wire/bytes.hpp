#pragma once
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

namespace vhost {

/// A structure whose bytes are the wire format: every bit counts, no padding.
template <class T>
concept Wire = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

static_assert(std::endian::native == std::endian::little,
              "rings are little-endian (VIRTIO 2.1) and read without a conversion");

/// Copies one wire structure out of memory that somebody else may be rewriting now.
///
/// The copy alone is not enough: GCC 12 at -O2 checks such a copy against the memory and then
/// loads the memory again to use it. The fence (for the compiler alone, no instruction) makes the
/// value that was checked the value that is used.
template <Wire T>
[[nodiscard]] T read_once(const void* shared) {
  T copy;
  std::memcpy(&copy, shared, sizeof copy);
  std::atomic_signal_fence(std::memory_order_acq_rel);
  return copy;
}

template <Wire T>
[[nodiscard]] T read_once(std::span<const std::byte, sizeof(T)> shared) {
  return read_once<T>(static_cast<const void*>(shared.data()));
}

/// The bytes of one wire structure, to be sent.
template <Wire T>
[[nodiscard]] std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace vhost
