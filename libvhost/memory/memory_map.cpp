#include "libvhost/memory/memory_map.hpp"

#include <sys/stat.h>

#include <algorithm>

#include "libvhost/memory/iotlb.hpp"

namespace vhost {
namespace {

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return a < b + b_size && b < a + a_size;  // no sum wraps: checked when a region is added
}

bool same_place(const MemoryRegion& a, const MemoryRegion& b) {
  return a.guest_address == b.guest_address && a.size_bytes == b.size_bytes &&
         a.frontend_address == b.frontend_address;
}

bool same(const MemoryMap::Region& known, const MemoryRegion& region, const struct stat& file) {
  return same_place(known.description, region) && known.device == file.st_dev &&
         known.inode == file.st_ino &&
         known.description.mmap_offset_bytes == region.mmap_offset_bytes;
}

}  // namespace

Result<void> MemoryMap::check(const MemoryRegion& region) const {
  if (regions_.size() == max_regions) {
    return fail(Fault::front_end, "more than " + std::to_string(max_regions) + " memory regions");
  }
  const std::uint64_t size = region.size_bytes;
  if (size == 0 || region.guest_address + size < size || region.frontend_address + size < size) {
    return fail(Fault::front_end, "a memory region of " + std::to_string(size) +
                                      " bytes that is empty or wraps its address space");
  }
  for (const Region& known : regions_) {
    const MemoryRegion& other = known.description;
    if (overlap(region.guest_address, size, other.guest_address, other.size_bytes) ||
        overlap(region.frontend_address, size, other.frontend_address, other.size_bytes)) {
      return fail(Fault::front_end, "a memory region overlaps another");
    }
  }
  return {};
}

Result<void> MemoryMap::add(const MemoryRegion& region, int fd, const MemoryMap& previous) {
  if (auto checked = check(region); !checked) return checked;
  struct stat file{};
  if (::fstat(fd, &file) != 0) return fail_errno(Fault::front_end, "a memory region has no file");

  std::shared_ptr<const Mapping> mapping;
  for (const Region& known : previous.regions_) {
    if (same(known, region, file)) mapping = known.mapping;
  }
  if (!mapping) {
    auto fresh = Mapping::map(fd, region.mmap_offset_bytes, region.size_bytes);
    if (!fresh) return std::unexpected(fresh.error());
    mapping = std::make_shared<const Mapping>(std::move(*fresh));
  }
  const auto behind = std::ranges::upper_bound(ranges_, region.guest_address, {}, &Range::start);
  ranges_.insert(behind, {region.guest_address, mapping->bytes()});
  regions_.push_back({region, file.st_dev, file.st_ino, std::move(mapping), 1});
  return {};
}

Result<MemoryMap> MemoryMap::with(const MemoryRegion& region, int fd) const {
  MemoryMap map = *this;
  struct stat file{};
  const auto known = std::ranges::find_if(map.regions_, [&](const Region& candidate) {
    return ::fstat(fd, &file) == 0 && same(candidate, region, file);
  });
  if (known != map.regions_.end()) {
    ++known->times;
    return map;
  }
  if (const auto added = map.add(region, fd, {}); !added) return std::unexpected(added.error());
  return map;
}

Result<MemoryMap> MemoryMap::without(const MemoryRegion& region) const {
  MemoryMap map = *this;
  const auto found = std::ranges::find_if(map.regions_, [&](const Region& candidate) {
    return same_place(candidate.description, region);
  });
  if (found == map.regions_.end()) {
    return fail(Fault::front_end, "there is no such memory region to remove");
  }
  if (--found->times > 0) return map;
  std::erase_if(map.ranges_, [&](const Range& r) { return r.start == region.guest_address; });
  map.regions_.erase(found);
  return map;
}

Result<MemoryMap> MemoryMap::of(std::span<const MemoryRegion> regions,
                                std::span<const UniqueFd> fds, const MemoryMap& previous) {
  MemoryMap map;
  map.log_ = previous.log_;
  map.iotlb_ = previous.iotlb_;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    if (const auto added = map.add(regions[i], fds[i].get(), previous); !added) {
      return std::unexpected(added.error());
    }
  }
  return map;
}

MemoryMap MemoryMap::logged_in(std::shared_ptr<DirtyLog> log) const {
  MemoryMap map = *this;
  map.log_ = std::move(log);
  return map;
}

MemoryMap MemoryMap::translated_by(std::shared_ptr<Iotlb> iotlb) const {
  MemoryMap map = *this;
  map.iotlb_ = std::move(iotlb);
  return map;
}

bool MemoryMap::search(const std::byte* byte, Hint& hint) const {
  const auto found =
      std::ranges::find_if(ranges_, [byte](const Range& range) { return range.holds(byte); });
  if (found == ranges_.end()) return false;
  hint = *found;
  return true;
}

std::span<std::byte> MemoryMap::search(GuestAddress address, std::uint64_t length,
                                       Hint& hint) const {
  if (ranges_.empty()) return {};
  // The last range that starts at the address or below it, if there is one, by halves. Which half
  // nobody can predict for random buffers, so it is computed and not jumped to.
  const Range* range = ranges_.data();
  for (std::size_t left = ranges_.size(); left > 1;) {
    const std::size_t half = left / 2;
    range += range[half].start <= std::to_underlying(address) ? half : 0;
    left -= half;
  }
  const auto bytes = prefix_in(range->start, range->bytes, address, length);
  if (!bytes.empty()) hint = *range;
  return bytes;
}

bool MemoryMap::copy_from(GuestAddress address, std::span<std::byte> to, Hint& hint) const {
  while (!to.empty()) {
    const auto piece = prefix(address, to.size(), hint);
    if (piece.empty()) return false;
    std::memcpy(to.data(), piece.data(), piece.size());
    address = address + piece.size();
    to = to.subspan(piece.size());
  }
  return true;
}

std::span<std::byte> MemoryMap::at(FrontendAddress address, std::uint64_t length) const {
  const auto bytes = prefix_at(address, length);
  return bytes.size() == length ? bytes : std::span<std::byte>();
}

std::span<std::byte> MemoryMap::prefix_at(FrontendAddress address, std::uint64_t length) const {
  for (const Region& region : regions_) {
    const auto bytes = prefix_in(region.description.frontend_address, region.mapping->bytes(),
                                 GuestAddress{std::to_underlying(address)}, length);
    if (!bytes.empty()) return bytes;
  }
  return {};
}

std::uint64_t MemoryMap::end() const {
  std::uint64_t end = 0;
  for (const Range& range : ranges_) end = std::max(end, range.start + range.bytes.size());
  return end;
}

bool MemoryMap::keeps_all_of(const MemoryMap& older) const {
  return std::ranges::all_of(older.regions_, [&](const Region& was) {
    return std::ranges::any_of(regions_,
                               [&](const Region& is) { return is.mapping == was.mapping; });
  });
}

bool MemoryMap::lost() const {
  return std::ranges::any_of(regions_, [](const Region& r) { return r.mapping->lost(); }) ||
         (iotlb_ && iotlb_->lost());
}

}  // namespace vhost
