#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "backends/blk/disk.hpp"
#include "backends/blk/virtio_blk.hpp"

/*
 * The configuration space of one disk (VIRTIO 1.3, 5.2.4) and the feature bits that go with it.
 *
 * Front-ends ask for pieces: QEMU for the first 57 bytes, SPDK for 256. Any offset and length is
 * answered; what lies beyond the structure reads as zero.
 *
 * One byte can be written, `writeback`, and only by a driver that negotiated CONFIG_WCE.
 *
 * Thread: the control thread. A worker is told the outcome of durable_writes().
 */
namespace blk {

/// Segments a driver may put in one request. 126 because a driver without indirect descriptors
/// puts header, data and status in the ring itself, and QEMU's rings have 128 entries unless told
/// otherwise: with more, such a driver would make a request that no ring can hold. (Requests with
/// more segments are served all the same: Windows sends them.)
inline constexpr std::uint32_t advertised_seg_max = 126;

/// Bytes of one segment. Any size is served; what is advertised has to please drivers. It is never
/// 0: drivers believe it. And 126 segments of it are fewer than 2^16 sectors: SeaBIOS 1.16 keeps
/// that product in 16 bits, and reads 0 sectors at a time for ever where it comes out as 0.
inline constexpr std::uint32_t advertised_size_max = 256U << 10;
static_assert(advertised_seg_max * advertised_size_max / sector_bytes < 65536);

/// The virtio-blk bits this disk offers (5.2.3); transport and ring bits are the session's.
/// `queues` is the number of request queues, at least 1.
[[nodiscard]] std::uint64_t features(const Disk& disk, std::uint16_t queues);

class ConfigSpace {
 public:
  ConfigSpace(const Disk& disk, std::uint16_t queues);

  /// Fills all of `out` from `offset_bytes` on.
  void read(std::uint32_t offset_bytes, std::span<std::byte> out) const;

  /// A driver's write, with the features it has acknowledged. False, and nothing changed, unless
  /// it is a 0 or 1 to `writeback` under CONFIG_WCE.
  [[nodiscard]] bool write(std::uint32_t offset_bytes, std::span<const std::byte> in,
                           std::uint64_t acked);

  /// A driver has acknowledged features. One that can set `writeback` and cannot flush finds it 0
  /// until it sets it (5.2.5.2); otherwise it stays what it was, for QEMU shows drivers a copy of
  /// its own over a reset.
  void start_driver(std::uint64_t acked);

  [[nodiscard]] bool writeback() const { return writeback_; }
  void set_writeback(bool on) { writeback_ = on; }
  /// `writeback` is again what the disk was opened with.
  void forget_writeback() { set_writeback(write_cache_); }

  /// True if a write must be on stable storage when it completes: the driver turned the write
  /// cache off, or cannot flush it, or it never was on (5.2.6.2). The caller adds
  /// ignores_flush(): an unsafe disk is never durable.
  [[nodiscard]] bool durable_writes(std::uint64_t acked) const;

  /// After a resize; the caller notifies the driver.
  void set_capacity(std::uint64_t sectors) { config_.capacity = sectors; }

 private:
  Config config_{};
  bool write_cache_;               // as the disk was opened
  bool writeback_ = write_cache_;  // as drivers have set it since
  bool held_off_ = false;          // reads as 0 whatever was set: this driver cannot flush
};

}  // namespace blk
