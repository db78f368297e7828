#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/protocol.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * The memory a driver shares with a back-end: the "guest memory" of a guest that is a program.
 *
 * It is made of regions. Each is a memfd, mapped here and announced to the back-end with the guest
 * address that descriptors use for it. Buffers are cut out of the regions by a first-fit allocator
 * whose books lie outside the shared pages, where the back-end cannot write: it can spoil what is
 * in a buffer, never where buffers are. Memory is bounded by the regions: when they are full,
 * allocate() fails, and the caller gives something back or adds a region.
 *
 * Adding or removing a region here tells nobody: Device::add_region() and remove_region() do both.
 *
 * Thread: one at a time for allocation and regions; buffers belong to whoever asked for them.
 */
namespace vhost::frontend {

enum class PageSize : std::uint8_t { base, huge_2m, huge_1g };

/// Bytes by the address the device knows them under: what a descriptor says.
struct Segment {
  std::uint64_t guest_address = 0;
  std::uint32_t length_bytes = 0;
};

/// A piece of shared memory that was allocated. A plain handle: SharedMemory owns the bytes.
struct Buffer {
  std::byte* data = nullptr;
  std::size_t size_bytes = 0;
  std::uint64_t guest_address = 0;

  [[nodiscard]] std::span<std::byte> bytes() const { return {data, size_bytes}; }
  /// A part of the buffer as a descriptor names it. The caller keeps within the buffer.
  [[nodiscard]] Segment segment(std::size_t offset_bytes, std::uint32_t length_bytes) const {
    return {guest_address + offset_bytes, length_bytes};
  }
  [[nodiscard]] Segment segment() const {
    return {guest_address, static_cast<std::uint32_t>(size_bytes)};
  }
};

struct RegionOptions {
  PageSize pages = PageSize::base;
  /// Where the device sees the region; by default behind the highest region, aligned to 1 GiB.
  std::optional<std::uint64_t> guest_address{};
  /// The region starts this far into its file (a multiple of the page size), as QEMU's do.
  std::uint64_t mmap_offset_bytes = 0;
};

/// One shared file, mapped. Its address never changes.
class Region {
 public:
  /// `size_bytes` is rounded up to whole pages.
  [[nodiscard]] static Result<std::unique_ptr<Region>> create(std::size_t size_bytes,
                                                              RegionOptions options);
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::uint64_t guest_address() const { return wire_.guest_address; }
  /// As the memory messages describe it.
  [[nodiscard]] const MemoryRegion& wire() const { return wire_; }

  [[nodiscard]] std::optional<Buffer> allocate(std::size_t size_bytes, std::size_t alignment);
  /// False if this region holds no such buffer.
  bool release(const Buffer& buffer);
  [[nodiscard]] bool unused() const { return taken_.empty(); }

 private:
  Region(UniqueFd fd, std::span<std::byte> bytes, const RegionOptions& options);

  UniqueFd fd_;
  std::span<std::byte> bytes_;
  MemoryRegion wire_{};
  std::map<std::size_t, std::size_t> free_;   // offset -> bytes, never adjacent
  std::map<std::size_t, std::size_t> taken_;  // offset -> bytes
};

class SharedMemory {
 public:
  /// Adds a region and says which: the id stays valid until the region is removed. The id is a
  /// small number that is used again.
  [[nodiscard]] Result<std::size_t> add_region(std::size_t size_bytes, RegionOptions options = {});
  /// Refused while a buffer of the region is allocated.
  [[nodiscard]] Result<void> remove_region(std::size_t id);

  /// A zero-filled buffer from the first region with room. `alignment` is a power of two, of both
  /// the pointer and the guest address. Where nothing is free: an error, and nothing changed.
  [[nodiscard]] Result<Buffer> allocate(std::size_t size_bytes, std::size_t alignment = 16);
  /// As allocate(), in one region alone.
  [[nodiscard]] Result<Buffer> allocate_in(std::size_t id, std::size_t size_bytes,
                                           std::size_t alignment = 16);
  /// Gives a buffer back. One that is not allocated is ignored.
  void release(const Buffer& buffer);

  /// The regions by id; a removed one is null.
  [[nodiscard]] std::span<const std::unique_ptr<Region>> regions() const { return regions_; }

 private:
  [[nodiscard]] std::uint64_t default_address() const;
  [[nodiscard]] bool overlaps(const MemoryRegion& wire) const;

  std::vector<std::unique_ptr<Region>> regions_;
};

}  // namespace vhost::frontend
