#pragma once
#include <sys/mman.h>

#include <cstring>

#include "libvhost/memory/inflight.hpp"
#include "tests/integration/guest.hpp"

namespace integration {

/// The mark of one entry of an inflight section.
template <class Header, class Entry>
[[nodiscard]] std::size_t mark(const std::byte* section, std::uint16_t index) {
  Entry entry{};
  std::memcpy(&entry, section + sizeof(Header) + index * sizeof entry, sizeof entry);
  return entry.inflight;
}

/// Requests that the kept inflight region says were begun and not finished.
[[nodiscard]] inline std::size_t marked(Guest& disk) {
  const auto& described = disk->device().inflight();
  const bool packed = vhost::has(disk->device().features(), vhost::feature::ring_packed);
  const std::size_t bytes = described.mmap_size_bytes;
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, disk->device().inflight_fd(),
                              static_cast<off_t>(described.mmap_offset_bytes));
  if (mapped == MAP_FAILED) throw std::runtime_error("cannot map the inflight region");
  std::size_t count = 0;
  for (std::uint16_t queue = 0; queue < described.queues; ++queue) {
    const auto size = described.queue_size;
    const auto* section = static_cast<const std::byte*>(mapped) +
                          queue * (packed ? vhost::packed_inflight_section_bytes(size)
                                          : vhost::inflight_section_bytes(size));
    for (std::uint16_t index = 0; index < size; ++index) {
      count += packed
                   ? mark<vhost::PackedInflightHeader, vhost::PackedInflightEntry>(section, index)
                   : mark<vhost::InflightHeader, vhost::InflightEntry>(section, index);
    }
  }
  ::munmap(mapped, bytes);
  return count;
}

}  // namespace integration
