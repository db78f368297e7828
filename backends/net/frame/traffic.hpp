#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <string_view>

#include "common/counter.hpp"

/*
 * What is counted of frames. Directions are the guest's or the uplink's: from_guest and to_guest,
 * from_uplink and to_uplink; here, in and out of the daemon.
 */
namespace net {

/// Why a frame went no further. Each has a name in the stats file.
enum class Drop : std::uint8_t {
  // at the source
  too_short,         ///< shorter than an Ethernet header, or than the virtio-net header
  too_long,          ///< longer than 9216 bytes without, or 64 KiB with segmentation
  bad_checksum,      ///< a checksum request outside the frame's head, or not negotiated
  bad_segmentation,  ///< a segmentation request that makes no sense or was not negotiated
  disabled,          ///< the front-end has disabled the queue
  // in the switch
  spoofed,   ///< a source address that is not the port's
  vlan,      ///< a VLAN that the port is no member of
  storm,     ///< more flooded frames than a port may cause
  reserved,  ///< for the bridge itself (IEEE 802.1Q, 8.6.3): no bridge forwards it
  nowhere,   ///< no other port to go to
  // at the sink
  link_down,    ///< no driver, or its queue is stopped
  no_buffers,   ///< the driver offers no (or not enough) receive buffers
  bad_buffers,  ///< receive buffers that cannot take even the header, or not in one piece
  too_big,      ///< for the receive buffers, the MTU or what the sink takes
  full,         ///< the uplink's queue takes no more just now
  refused,      ///< the host's kernel or driver refused it
  count
};
inline constexpr std::size_t drops = static_cast<std::size_t>(Drop::count);
[[nodiscard]] std::string_view name(Drop drop);

/// Frames by length: up to and including the limit of each class, but not of the one before.
inline constexpr std::array<std::uint32_t, 8> size_class_limits{64,   127,  255,  511,
                                                                1023, 1518, 9216, 0xffff'ffff};

[[nodiscard]] constexpr std::size_t size_class(std::uint32_t length) {
  if (length <= 64) return 0;
  if (length < 1024) return static_cast<std::size_t>(std::bit_width(length)) - 6;
  return length <= 1518 ? 5 : length <= 9216 ? 6 : 7;
}

/// One queue in one direction. Written by one thread at a time.
struct Traffic {
  common::Counter frames;
  common::Counter bytes;
  std::array<common::Counter, size_class_limits.size()> size_classes;
  std::array<common::Counter, drops> dropped;
  common::Counter segmented;  ///< frames cut into pieces in software, here
  common::Counter summed;     ///< frames given their checksum in software, here
  common::Counter bursts;     ///< bursts with at least one frame

  void drop(Drop why, std::uint64_t frames_lost = 1) {
    dropped[static_cast<std::size_t>(why)].add(frames_lost);
  }
};

/// Adds to a Traffic once a burst what would be costly once a frame.
class Tally {
 public:
  void add(std::uint32_t length) {
    ++frames_;
    bytes_ += length;
    ++classes_[size_class(length)];
  }
  [[nodiscard]] bool empty() const { return frames_ == 0; }
  /// Moves what was counted to `traffic`.
  void flush(Traffic& traffic);

 private:
  std::uint32_t frames_ = 0;
  std::uint64_t bytes_ = 0;
  std::array<std::uint32_t, size_class_limits.size()> classes_{};
};

}  // namespace net
