#pragma once
#include <cstddef>
#include <cstdint>

#include "libvhost/wire/bytes.hpp"

/*
 * The bytes of a virtqueue, for both ends of it. A split one (VIRTIO 2.7) is
 *
 *   descriptor table   size x SplitDesc                       the driver writes
 *   available ring     flags, idx, ring[size], used_event     the driver writes
 *   used ring          flags, idx, elem[size], avail_event    the device writes
 *
 * where the two event fields are there only if EVENT_IDX was negotiated. A packed one (2.8) is
 *
 *   descriptor ring    size x PackedDesc                      both write
 *   driver event       EventSuppression                       the driver writes
 *   device event       EventSuppression                       the device writes
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

/// The ring sizes that VIRTIO allows: 1 to 32768; of split rings (2.7) the powers of two.
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

// ---------------------------------------------------------------- packed

inline constexpr std::uint16_t desc_available = 1 << 7;
inline constexpr std::uint16_t desc_used = 1 << 15;

struct PackedDesc {
  std::uint64_t addr;
  std::uint32_t length;
  std::uint16_t id;
  std::uint16_t flags;

  static constexpr std::size_t tail_at = 8;
  static constexpr std::size_t flags_at = 14;
};
static_assert(Wire<PackedDesc> && sizeof(PackedDesc) == 16);

/// SET_VRING_BASE for a ring that nobody has used: both positions at 0 of the first lap.
inline constexpr std::uint32_t new_packed_base = 0x80008000;

/// The second half of a descriptor: all that a used one says, and all that has to be seen at once.
struct PackedTail {
  std::uint32_t length;
  std::uint16_t id;
  std::uint16_t flags;

  /// As one number, in the bytes' order.
  [[nodiscard]] static constexpr PackedTail of(std::uint64_t bits) {
    return {static_cast<std::uint32_t>(bits), static_cast<std::uint16_t>(bits >> 32),
            static_cast<std::uint16_t>(bits >> 48)};
  }
  [[nodiscard]] constexpr std::uint64_t bits() const {
    return length | std::uint64_t{id} << 32 | std::uint64_t{flags} << 48;
  }
};
static_assert(Wire<PackedTail> && sizeof(PackedTail) == 8);

inline constexpr std::uint16_t event_always = 0;
inline constexpr std::uint16_t event_never = 1;
inline constexpr std::uint16_t event_at_position = 2;  ///< only where EVENT_IDX was negotiated

/// When one side wants to hear of the other (VIRTIO 2.8.14).
struct EventSuppression {
  std::uint16_t position;  ///< PackedPosition::bits()
  std::uint16_t flags;
};
static_assert(Wire<EventSuppression> && sizeof(EventSuppression) == 4);

/// A place in a descriptor ring, and whether the lap that comes to it is one in which a set bit
/// stands for "now" (VIRTIO 2.8.1: the wrap counter).
struct PackedPosition {
  std::uint16_t index = 0;
  bool wrap = true;

  [[nodiscard]] bool operator==(const PackedPosition&) const = default;

  [[nodiscard]] static constexpr PackedPosition of(std::uint16_t bits) {
    return {static_cast<std::uint16_t>(bits & 0x7fff), (bits & 0x8000) != 0};
  }
  [[nodiscard]] constexpr std::uint16_t bits() const {
    return static_cast<std::uint16_t>(index | (wrap ? 0x8000u : 0u));
  }

  /// `slots` are at most `size`.
  constexpr void advance(std::uint32_t slots, std::uint32_t size) {
    std::uint32_t next = index + slots;
    if (next >= size) {
      next -= size;
      wrap = !wrap;
    }
    index = static_cast<std::uint16_t>(next);
  }
  constexpr void go_back(std::uint32_t slots, std::uint32_t size) {
    std::uint32_t before = index;
    if (before < slots) {
      before += size;
      wrap = !wrap;
    }
    index = static_cast<std::uint16_t>(before - slots);
  }
  /// How far this is ahead of `other`: all positions come round after twice the ring.
  [[nodiscard]] constexpr std::uint32_t ahead_of(PackedPosition other, std::uint32_t size) const {
    const std::uint32_t here = index + (wrap ? 0 : size);
    const std::uint32_t there = other.index + (other.wrap ? 0 : size);
    return here >= there ? here - there : here + 2 * size - there;
  }

  /// What the flags of a descriptor here are of, `available` and `used` alone.
  [[nodiscard]] constexpr std::uint16_t available_flags() const {
    return wrap ? desc_available : desc_used;
  }
  [[nodiscard]] constexpr std::uint16_t used_flags() const {
    return wrap ? desc_available | desc_used : 0;
  }
  [[nodiscard]] constexpr bool is_available(std::uint16_t flags) const {
    return (flags & (desc_available | desc_used)) == available_flags();
  }
  /// As the driver tells that a descriptor is used. It stays so until the next lap's is.
  [[nodiscard]] constexpr bool is_used(std::uint16_t flags) const {
    return ((flags & desc_used) != 0) == wrap;
  }
};

}  // namespace vhost
