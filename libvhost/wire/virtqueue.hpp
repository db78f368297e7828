#pragma once
#include <cstddef>
#include <cstdint>

#include "libvhost/wire/bytes.hpp"

/*
 * The bytes of a split virtqueue (VIRTIO 2.7), for both ends of it.
 *
 *   descriptor table   size x SplitDesc                       the driver writes
 *   available ring     flags, idx, ring[size], used_event     the driver writes
 *   used ring          flags, idx, elem[size], avail_event    the device writes
 *
 * The two event fields are there only where EVENT_IDX was negotiated.
 */
namespace vhost {

inline constexpr std::uint16_t desc_next = 1;
inline constexpr std::uint16_t desc_write = 2;  ///< by the device
inline constexpr std::uint16_t desc_indirect = 4;

struct SplitDesc {
  std::uint64_t addr;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};
static_assert(Wire<SplitDesc> && sizeof(SplitDesc) == 16);

struct UsedElem {
  std::uint32_t id;
  std::uint32_t length;
};
static_assert(Wire<UsedElem> && sizeof(UsedElem) == 8);

inline constexpr std::uint16_t avail_no_interrupt = 1;  ///< in the available ring's flags
inline constexpr std::uint16_t used_no_notify = 1;      ///< in the used ring's flags

/// The ring sizes that VIRTIO allows (2.7): 1 to 32768, and a power of two.
inline constexpr std::uint32_t max_ring_size = 32768;

/// Where things lie in the three areas, in bytes, for a ring of `size` descriptors.
struct SplitLayout {
  std::uint16_t size;

  static constexpr std::size_t flags_at = 0;  // in both rings
  static constexpr std::size_t idx_at = 2;    // in both rings
  static constexpr std::size_t entries_at = 4;

  [[nodiscard]] constexpr std::size_t descriptors_bytes() const { return size * sizeof(SplitDesc); }
  [[nodiscard]] constexpr std::size_t used_event_at() const { return entries_at + size * 2u; }
  [[nodiscard]] constexpr std::size_t available_bytes(bool event_idx) const {
    return used_event_at() + (event_idx ? 2 : 0);
  }
  [[nodiscard]] constexpr std::size_t avail_event_at() const {
    return entries_at + size * sizeof(UsedElem);
  }
  [[nodiscard]] constexpr std::size_t used_bytes(bool event_idx) const {
    return avail_event_at() + (event_idx ? 2 : 0);
  }
};

/// True if stepping the index from `before` to `now` passed `event` (VIRTIO 2.7.7.2 and 2.7.10).
/// All three wrap at 2^16, so the distances are compared, never the values.
[[nodiscard]] constexpr bool passed_event(std::uint16_t event, std::uint16_t now,
                                          std::uint16_t before) {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - before);
}

}  // namespace vhost
