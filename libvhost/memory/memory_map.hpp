#pragma once
#include <sys/types.h>

#include <memory>
#include <span>
#include <vector>

#include "libvhost/memory/address.hpp"
#include "libvhost/memory/mapping.hpp"
#include "libvhost/wire/protocol.hpp"

namespace vhost {

class DirtyLog;
class Iotlb;

/// The guest's memory as this process has mapped it, and what stands before it: an IOMMU, or a
/// front-end that wants to know what is written.
///
/// Immutable: a change makes a new map, which shares the mappings of the regions that stay, so
/// their bytes keep their place. Whoever still holds the old map keeps its regions mapped.
/// Thread: any, without locks.
class MemoryMap {
 public:
  /// As CONFIGURE_MEM_SLOTS allows it; what QEMU can use at most.
  static constexpr std::size_t max_regions = 509;

  struct Region {
    MemoryRegion description;
    dev_t device = 0;  // with `inode`: which file, to know it again in a new table
    ino_t inode = 0;
    std::shared_ptr<const Mapping> mapping;
    unsigned times = 1;  ///< that it was added; it goes when it was removed as often
  };

  /// Where the last look-up was, which a caller keeps: the next address is nearly always there too.
  /// It is good for one map, and as long as that lives.
  struct Hint {
    std::uint64_t start = 0;
    std::span<std::byte> bytes;

    /// Where the `length` bytes at `address` are; null if they do not all lie here.
    [[nodiscard]] std::byte* find(GuestAddress address, std::uint64_t length) const {
      const std::uint64_t offset = std::to_underlying(address) - start;  // wraps below it
      if (offset >= bytes.size() || length > bytes.size() - offset) return nullptr;
      return bytes.data() + offset;
    }
    [[nodiscard]] bool holds(const std::byte* byte) const {
      return byte >= bytes.data() && byte < bytes.data() + bytes.size();
    }
  };

  MemoryMap() = default;

  /// This map and one region more. Refuses an overlap in either address space, an address range
  /// that wraps, and more than max_regions. The very same region again is only counted: QEMU 7.2
  /// adds each region once for every pair of a network device's rings, and removes it as often.
  [[nodiscard]] Result<MemoryMap> with(const MemoryRegion& region, int fd) const;
  /// This map without the region that has these addresses and this size; if it was added more than
  /// once, with one time less of it.
  [[nodiscard]] Result<MemoryMap> without(const MemoryRegion& region) const;
  /// A map of just these regions. Those that `previous` has too keep their mapping.
  [[nodiscard]] static Result<MemoryMap> of(std::span<const MemoryRegion> regions,
                                            std::span<const UniqueFd> fds,
                                            const MemoryMap& previous);

  /// This map, with what is written to it marked in `log`; null: no longer.
  [[nodiscard]] MemoryMap logged_in(std::shared_ptr<DirtyLog> log) const;
  [[nodiscard]] const std::shared_ptr<DirtyLog>& log() const { return log_; }
  /// This map, with the addresses of descriptors and of ring areas translated; null: no longer.
  [[nodiscard]] MemoryMap translated_by(std::shared_ptr<Iotlb> iotlb) const;
  [[nodiscard]] const std::shared_ptr<Iotlb>& iotlb() const { return iotlb_; }

  /// The longest run of bytes, at most `length`, that starts at `address` and lies in one region.
  /// Empty if `address` is outside guest memory or `length` is 0.
  [[nodiscard]] std::span<std::byte> prefix(GuestAddress address, std::uint64_t length,
                                            Hint& hint) const {
    const auto bytes = prefix_in(hint.start, hint.bytes, address, length);
    if (!bytes.empty()) return bytes;
    return search(address, length, hint);
  }

  /// Copies bytes out of guest memory, across regions if it must. False: not all of it is there.
  [[nodiscard]] bool copy_from(GuestAddress address, std::span<std::byte> to, Hint& hint) const;

  /// All `length` bytes at an address of the front-end's; empty if no one region holds them.
  [[nodiscard]] std::span<std::byte> at(FrontendAddress address, std::uint64_t length) const;

  /// The longest run of bytes, at most `length`, that starts there and lies in one region.
  [[nodiscard]] std::span<std::byte> prefix_at(FrontendAddress address, std::uint64_t length) const;

  /// Where in the guest's memory a byte lies that this map has given out, for the dirty log; a
  /// place that no log reaches if it is not of this map.
  [[nodiscard]] std::uint64_t guest_physical(const std::byte* byte, Hint& hint) const {
    if (!hint.holds(byte) && !search(byte, hint)) return UINT64_MAX;
    return hint.start + static_cast<std::uint64_t>(byte - hint.bytes.data());
  }

  /// Behind the highest byte, in guest addresses.
  [[nodiscard]] std::uint64_t end() const;
  /// True if every mapping of `older` is in this map too: nothing has to be given up.
  [[nodiscard]] bool keeps_all_of(const MemoryMap& older) const;
  /// True if the file behind some region was truncated.
  [[nodiscard]] bool lost() const;
  [[nodiscard]] std::size_t size() const { return regions_.size(); }
  [[nodiscard]] std::span<const Region> regions() const { return regions_; }

 private:
  /// What the hot path needs of a region, and nothing more.
  using Range = Hint;

  [[nodiscard]] static std::span<std::byte> prefix_in(std::uint64_t start,
                                                      std::span<std::byte> bytes,
                                                      GuestAddress address, std::uint64_t length) {
    const std::uint64_t offset = std::to_underlying(address) - start;
    if (offset >= bytes.size()) return {};  // also when address < start: it wrapped
    const std::uint64_t rest = bytes.size() - offset;
    return bytes.subspan(offset, length < rest ? length : rest);
  }
  [[nodiscard]] std::span<std::byte> search(GuestAddress address, std::uint64_t length,
                                            Hint& hint) const;
  [[nodiscard]] bool search(const std::byte* byte, Hint& hint) const;
  [[nodiscard]] Result<void> add(const MemoryRegion& region, int fd, const MemoryMap& previous);
  [[nodiscard]] Result<void> check(const MemoryRegion& region) const;

  std::vector<Region> regions_;
  std::vector<Range> ranges_;  // of the same regions, by their guest addresses
  std::shared_ptr<DirtyLog> log_;
  std::shared_ptr<Iotlb> iotlb_;
};

}  // namespace vhost
