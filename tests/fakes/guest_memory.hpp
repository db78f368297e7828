#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "libvhost/memory/memory_map.hpp"

namespace vhost::fakes {

/// A guest's memory as its front-end shares it: one memfd a region, with a view of our own.
///
/// The first two regions are adjacent in guest addresses and nowhere else, so that a buffer may
/// cross from one to the other; the third stands alone.
class GuestMemory {
 public:
  static constexpr std::uint64_t low = 0x10000;
  static constexpr std::uint64_t low_bytes = 2 << 20;
  static constexpr std::uint64_t high = low + low_bytes;
  static constexpr std::uint64_t high_bytes = 64 << 10;
  static constexpr std::uint64_t far = std::uint64_t{1} << 32;
  static constexpr std::uint64_t far_bytes = 64 << 10;
  static constexpr std::uint64_t frontend_low = 0x7f0000000000;

  GuestMemory() {
    add({low, low_bytes, frontend_low, 0});
    add({high, high_bytes, 0x7e0000000000, 0});
    add({far, far_bytes, 0x7d0000000000, 0});
  }
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  virtual ~GuestMemory() {
    for (const View& view : views_) ::munmap(view.bytes, view.size);
  }

  void add(const MemoryRegion& region) {
    const std::uint64_t size = region.mmap_offset_bytes + region.size_bytes;
    UniqueFd fd(::memfd_create("guest", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) std::abort();
    void* const raw = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (raw == MAP_FAILED) std::abort();
    views_.push_back({static_cast<std::byte*>(raw), size});
    regions_.push_back(region);
    fds_.push_back(std::move(fd));
  }

  [[nodiscard]] const std::vector<MemoryRegion>& regions() const { return regions_; }
  [[nodiscard]] const std::vector<UniqueFd>& fds() const { return fds_; }

  /// What the device maps of it: all regions, or those with the given numbers.
  [[nodiscard]] std::shared_ptr<const MemoryMap> map() const { return map({0, 1, 2}); }
  [[nodiscard]] virtual std::shared_ptr<const MemoryMap> map(
      std::initializer_list<std::size_t> which, const MemoryMap& previous = {}) const {
    std::vector<MemoryRegion> regions;
    std::vector<UniqueFd> fds;
    for (const std::size_t i : which) {
      regions.push_back(regions_[i]);
      fds.emplace_back(::dup(fds_[i].get()));
    }
    auto made = MemoryMap::of(regions, fds, previous);
    if (!made) std::abort();
    return std::make_shared<const MemoryMap>(std::move(*made));
  }

  /// The driver's own view of one guest address.
  [[nodiscard]] std::byte* at(std::uint64_t guest) const { return view(guest).data(); }
  template <class T>
  void store(std::uint64_t guest, const T& value) const {
    for (auto bytes = std::as_bytes(std::span(&value, 1)); !bytes.empty();) {
      const auto there = view(guest).first(std::min(view(guest).size(), bytes.size()));
      std::memcpy(there.data(), bytes.data(), there.size());
      bytes = bytes.subspan(there.size());
      guest += there.size();
    }
  }
  template <class T>
  [[nodiscard]] T load(std::uint64_t guest) const {
    T value;
    for (auto bytes = std::as_writable_bytes(std::span(&value, 1)); !bytes.empty();) {
      const auto there = view(guest).first(std::min(view(guest).size(), bytes.size()));
      std::memcpy(bytes.data(), there.data(), there.size());
      bytes = bytes.subspan(there.size());
      guest += there.size();
    }
    return value;
  }
  /// Where in the guest's memory is what its driver calls `guest`.
  [[nodiscard]] virtual std::uint64_t physical(std::uint64_t guest) const { return guest; }
  /// The front-end's own address of what is at `guest`; what a ring area there is called.
  [[nodiscard]] virtual std::uint64_t frontend(std::uint64_t guest) const {
    for (const MemoryRegion& region : regions_) {
      const std::uint64_t offset = guest - region.guest_address;
      if (offset < region.size_bytes) return region.frontend_address + offset;
    }
    std::abort();
  }

 protected:
  /// From one guest address to the end of its region.
  [[nodiscard]] virtual std::span<std::byte> view(std::uint64_t guest) const {
    for (std::size_t i = 0; i < regions_.size(); ++i) {
      const std::uint64_t offset = guest - regions_[i].guest_address;
      if (offset >= regions_[i].size_bytes) continue;
      return {views_[i].bytes + regions_[i].mmap_offset_bytes + offset,
              regions_[i].size_bytes - offset};
    }
    std::abort();
  }

 private:
  struct View {
    std::byte* bytes;
    std::size_t size;
  };
  std::vector<MemoryRegion> regions_;
  std::vector<UniqueFd> fds_;
  std::vector<View> views_;
};

}  // namespace vhost::fakes
