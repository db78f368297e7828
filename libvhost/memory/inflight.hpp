#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "libvhost/memory/mapping.hpp"
#include "libvhost/memory/packed_inflight.hpp"
#include "libvhost/wire/protocol.hpp"

/*
 * Which requests a back-end that died still owes the driver (vhost-user, "Inflight I/O tracking").
 *
 * The front-end keeps a shared region for us over our death. One section a ring:
 *
 *   header   { features, version, desc_num, last_batch_head, used_idx }   16 bytes
 *   entries  { inflight, padding, next, counter } per descriptor          16 bytes each
 *
 * A head that is taken from the available ring is marked before anything is done for it. Heads
 * that are given back are chained into a batch through `next`; the batch is unmarked only after
 * the used ring's index covers it. A death between the two is recognised by used_idx being behind
 * the ring's own index, and undone.
 *
 * No other thread looks at a section while we live, so this order has to hold for the compiler
 * only, on every CPU: a kill takes effect between two instructions of ours. The stores in front of
 * it reach memory, in whatever order, before the kernel closes our socket, and those behind it are
 * never made. What a successor finds is a beginning of our program's order.
 *
 * The region is the front-end's and believed in nothing: it is only written, except by recover(),
 * which copies what it reads and checks it. Thread: the owner of the ring.
 */
namespace vhost {

inline constexpr std::uint16_t inflight_version = 1;

struct InflightHeader {
  std::uint64_t features;
  std::uint16_t version;
  std::uint16_t desc_num;
  std::uint16_t last_batch_head;
  std::uint16_t used_idx;
};
static_assert(Wire<InflightHeader> && sizeof(InflightHeader) == 16);

struct InflightEntry {
  std::uint8_t inflight;
  std::uint8_t padding[5];
  std::uint16_t next;
  std::uint64_t counter;
};
static_assert(Wire<InflightEntry> && sizeof(InflightEntry) == 16);

/// Bytes of one ring's section: a multiple of 64, so that no two rings share a cache line.
[[nodiscard]] constexpr std::uint64_t inflight_section_bytes(std::uint16_t queue_size) {
  return (sizeof(InflightHeader) + queue_size * sizeof(InflightEntry) + 63) / 64 * 64;
}

/// One ring's section of the region. Without a region all of it does nothing.
class InflightSection {
 public:
  InflightSection() = default;
  /// `section` must hold `queue_size` entries and outlives this through `region`.
  InflightSection(std::shared_ptr<const Mapping> region, std::span<std::byte> section,
                  std::uint16_t queue_size);

  /// Settles what a predecessor left, given the used ring's index now: returns the heads that
  /// are still owed, oldest first. Nothing: there was none. A new section is made ready.
  [[nodiscard]] Result<std::optional<std::vector<std::uint16_t>>> recover(std::uint16_t used_idx);

  /// `head` was taken. Call before anything is done for it.
  void take(std::uint16_t head) {
    if (entries_ == nullptr) return;
    entries_[head].counter = counter_++;
    std::atomic_signal_fence(std::memory_order_release);
    entries_[head].inflight = 1;
    std::atomic_signal_fence(std::memory_order_release);
  }
  /// `head` was taken, but nothing was done for it: it is as if it had not been.
  void put_back(std::uint16_t head) {
    if (entries_ == nullptr) return;
    entries_[head].inflight = 0;
    std::atomic_signal_fence(std::memory_order_release);
  }
  /// `head` is about to be given back. Call before the used ring's index shows it.
  void give_back(std::uint16_t head) {
    if (entries_ == nullptr) return;
    entries_[head].next = last_batch_head_;
    std::atomic_signal_fence(std::memory_order_release);
    header_->last_batch_head = last_batch_head_ = head;
    batch_.push_back(head);
  }
  /// The used ring's index now is `used_idx` and covers all that was given back.
  void commit(std::uint16_t used_idx) {
    if (entries_ == nullptr) return;
    std::atomic_signal_fence(std::memory_order_release);
    for (const std::uint16_t head : batch_) entries_[head].inflight = 0;
    batch_.clear();
    std::atomic_signal_fence(std::memory_order_release);
    header_->used_idx = used_idx;
  }

  /// The region's file was truncated: what is written here is lost.
  [[nodiscard]] bool lost() const { return region_ && region_->lost(); }

 private:
  [[nodiscard]] Result<void> check(const InflightHeader& header) const;
  void undo_last_batch(const InflightHeader& header, std::uint16_t used_idx);

  std::shared_ptr<const Mapping> region_;
  InflightHeader* header_ = nullptr;  // shared with the front-end: written, not believed
  InflightEntry* entries_ = nullptr;  // likewise
  std::uint16_t queue_size_ = 0;
  std::uint16_t last_batch_head_ = 0;
  std::uint64_t counter_ = 1;
  std::vector<std::uint16_t> batch_;  // heads given back since the last commit
};

/// Bytes behind the sections of a region of ours that belong to the device: what it must know
/// again after a crash and no front-end would tell it.
inline constexpr std::size_t keepsake_bytes = 64;

struct Keepsake {
  std::shared_ptr<const Mapping> region;
  std::span<std::byte, keepsake_bytes> bytes;  ///< zero if new; else whatever the front-end left
};

/// Bytes of a region that serves rings of either layout: a packed ring's section is the longer.
[[nodiscard]] constexpr std::uint64_t inflight_region_bytes(std::uint16_t queues,
                                                            std::uint16_t queue_size) {
  return queues * packed_inflight_section_bytes(queue_size) + keepsake_bytes;
}

/// A new region for `queues` rings of `queue_size` descriptors, and how to announce it.
struct InflightRegion {
  UniqueFd file;
  InflightDescription description;
};
[[nodiscard]] Result<InflightRegion> make_inflight_region(std::uint16_t queues,
                                                          std::uint16_t queue_size);

}  // namespace vhost
