#include "libvhost/frontend/shared_memory.hpp"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

namespace vhost::frontend {
namespace {

constexpr std::uint64_t default_spacing_bytes = std::uint64_t{1} << 30;

std::uint64_t round_up(std::uint64_t value, std::uint64_t step) {
  return (value + step - 1) / step * step;
}

std::uint64_t page_bytes(PageSize pages) {
  switch (pages) {
    case PageSize::huge_2m: return std::uint64_t{2} << 20;
    case PageSize::huge_1g: return std::uint64_t{1} << 30;
    case PageSize::base: break;
  }
  return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

unsigned memfd_flags(PageSize pages) {
  switch (pages) {
    case PageSize::huge_2m: return MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB;
    case PageSize::huge_1g: return MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_1GB;
    case PageSize::base: break;
  }
  return MFD_CLOEXEC;
}

}  // namespace

Result<std::unique_ptr<Region>> Region::create(std::size_t size_bytes, RegionOptions options) {
  const std::uint64_t page = page_bytes(options.pages);
  const std::size_t size = round_up(size_bytes, page);
  if (size == 0 || options.mmap_offset_bytes % page != 0) {
    return fail(Fault::operator_, "a memory region needs a size, and an offset of whole pages");
  }
  UniqueFd fd(::memfd_create("vhost-frontend", memfd_flags(options.pages)));
  if (!fd) return fail_errno(Fault::host, "cannot make shared memory");
  if (::ftruncate(fd.get(), static_cast<off_t>(options.mmap_offset_bytes + size)) != 0) {
    return fail_errno(Fault::host, "cannot size shared memory");
  }
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(),
                        static_cast<off_t>(options.mmap_offset_bytes));
  if (mapped == MAP_FAILED) {
    return fail_errno(Fault::host, "cannot map " + std::to_string(size) + " bytes of memory" +
                                       (options.pages == PageSize::base ? "" : " in huge pages"));
  }
  return std::unique_ptr<Region>(
      new Region(std::move(fd), {static_cast<std::byte*>(mapped), size}, options));
}

Region::Region(UniqueFd fd, std::span<std::byte> bytes, const RegionOptions& options)
    : fd_(std::move(fd)), bytes_(bytes) {
  wire_.guest_address = options.guest_address.value_or(0);
  wire_.size_bytes = bytes.size();
  wire_.frontend_address = reinterpret_cast<std::uint64_t>(bytes.data());
  wire_.mmap_offset_bytes = options.mmap_offset_bytes;
  free_.emplace(0, bytes.size());
}

Region::~Region() {
  ::munmap(bytes_.data(), bytes_.size());
}

std::optional<Buffer> Region::allocate(std::size_t size_bytes, std::size_t alignment) {
  for (auto hole = free_.begin(); hole != free_.end(); ++hole) {
    const auto [start, room] = *hole;
    // Both addresses are to be aligned: a step of the guest's is a step of ours where the region
    // itself is aligned alike, and where it is not, nothing fits.
    const std::size_t lead =
        round_up(wire_.guest_address + start, alignment) - (wire_.guest_address + start);
    std::byte* data = bytes_.data() + start + lead;
    if (lead > room || room - lead < size_bytes ||
        reinterpret_cast<std::uintptr_t>(data) % alignment != 0) {
      continue;
    }
    free_.erase(hole);
    if (lead > 0) free_.emplace(start, lead);
    const std::size_t rest = room - lead - size_bytes;
    if (rest > 0) free_.emplace(start + lead + size_bytes, rest);
    taken_.emplace(start + lead, size_bytes);
    std::fill_n(data, size_bytes, std::byte{});
    return Buffer{data, size_bytes, wire_.guest_address + start + lead};
  }
  return std::nullopt;
}

bool Region::release(const Buffer& buffer) {
  const auto offset = static_cast<std::size_t>(buffer.guest_address - wire_.guest_address);
  const auto taken = taken_.find(offset);
  if (taken == taken_.end() || buffer.data != bytes_.data() + offset) return false;
  std::size_t size = taken->second;
  taken_.erase(taken);

  auto [hole, added] = free_.emplace(offset, size);
  if (const auto after = std::next(hole); after != free_.end() && offset + size == after->first) {
    hole->second += after->second;
    free_.erase(after);
  }
  if (hole != free_.begin()) {
    const auto before = std::prev(hole);
    if (before->first + before->second == offset) {
      before->second += hole->second;
      free_.erase(hole);
    }
  }
  return true;
}

Result<std::size_t> SharedMemory::add_region(std::size_t size_bytes, RegionOptions options) {
  if (!options.guest_address) options.guest_address = default_address();
  auto region = Region::create(size_bytes, options);
  if (!region) return std::unexpected(region.error());
  if (overlaps((*region)->wire())) {
    return fail(Fault::operator_, "the region overlaps another one in guest addresses");
  }
  const auto hole = std::find(regions_.begin(), regions_.end(), nullptr);
  const auto id = static_cast<std::size_t>(hole - regions_.begin());
  if (hole == regions_.end()) regions_.emplace_back();
  regions_[id] = std::move(*region);
  return id;
}

Result<void> SharedMemory::remove_region(std::size_t id) {
  if (id >= regions_.size() || !regions_[id]) return fail(Fault::operator_, "no such region");
  if (!regions_[id]->unused()) return fail(Fault::operator_, "the region holds buffers in use");
  regions_[id].reset();
  return {};
}

Result<Buffer> SharedMemory::allocate(std::size_t size_bytes, std::size_t alignment) {
  for (std::size_t id = 0; id < regions_.size(); ++id) {
    if (!regions_[id]) continue;
    if (auto buffer = allocate_in(id, size_bytes, alignment)) return buffer;
  }
  return fail(Fault::host, "no room for " + std::to_string(size_bytes) + " bytes in shared memory");
}

Result<Buffer> SharedMemory::allocate_in(std::size_t id, std::size_t size_bytes,
                                         std::size_t alignment) {
  if (id >= regions_.size() || !regions_[id]) return fail(Fault::operator_, "no such region");
  if (size_bytes == 0 || !std::has_single_bit(alignment)) {
    return fail(Fault::operator_, "a buffer needs a size, and a power of two as alignment");
  }
  if (auto buffer = regions_[id]->allocate(size_bytes, alignment)) return *buffer;
  return fail(Fault::host, "no room for " + std::to_string(size_bytes) + " bytes in region " +
                               std::to_string(id));
}

void SharedMemory::release(const Buffer& buffer) {
  for (const auto& region : regions_) {
    if (region && region->release(buffer)) return;
  }
}

std::uint64_t SharedMemory::default_address() const {
  std::uint64_t end = default_spacing_bytes;  // address 0 stays free: a null is never a buffer
  for (const auto& region : regions_) {
    if (!region) continue;
    const std::uint64_t region_end = region->guest_address() + region->bytes().size();
    end = std::max(end, round_up(region_end, default_spacing_bytes));
  }
  return end;
}

bool SharedMemory::overlaps(const MemoryRegion& wire) const {
  return std::ranges::any_of(regions_, [&](const auto& other) {
    return other && wire.guest_address < other->wire().guest_address + other->wire().size_bytes &&
           other->wire().guest_address < wire.guest_address + wire.size_bytes;
  });
}

}  // namespace vhost::frontend
