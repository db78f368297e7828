#include "libvhost/memory/inflight.hpp"

#include <algorithm>

namespace vhost {

InflightSection::InflightSection(std::shared_ptr<const Mapping> region,
                                 std::span<std::byte> section, std::uint16_t queue_size)
    : region_(std::move(region)),
      header_(reinterpret_cast<InflightHeader*>(section.data())),
      entries_(reinterpret_cast<InflightEntry*>(section.data() + sizeof(InflightHeader))),
      queue_size_(queue_size) {
  batch_.reserve(queue_size);
}

Result<void> InflightSection::check(const InflightHeader& header) const {
  if (header.version != inflight_version) {
    return fail(Fault::front_end,
                "the inflight region is of version " + std::to_string(header.version) + ", not 1");
  }
  if (header.desc_num != queue_size_) {
    return fail(Fault::front_end, "the inflight region is for a ring of " +
                                      std::to_string(header.desc_num) + " descriptors, not " +
                                      std::to_string(queue_size_));
  }
  return {};
}

/// The predecessor died between showing a batch in the used ring and unmarking it.
void InflightSection::undo_last_batch(const InflightHeader& header, std::uint16_t used_idx) {
  const auto shown = static_cast<std::uint16_t>(used_idx - header.used_idx);
  std::uint16_t head = header.last_batch_head;
  for (std::uint16_t i = 0; i < std::min(shown, queue_size_) && head < queue_size_; ++i) {
    const auto entry = read_once<InflightEntry>(&entries_[head]);
    entries_[head].inflight = 0;
    head = entry.next;
  }
}

Result<std::optional<std::vector<std::uint16_t>>> InflightSection::recover(std::uint16_t used_idx) {
  if (entries_ == nullptr) return std::nullopt;

  const auto header = read_once<InflightHeader>(header_);
  if (header.version == 0) {
    // A new region may meet a ring that has been running (after a migration, or a change of
    // driver): its used index counts from there, or a later recovery would undo a batch that
    // never was.
    *header_ = {0, 0, queue_size_, 0, used_idx};
    std::atomic_signal_fence(std::memory_order_release);
    header_->version = inflight_version;
    return std::nullopt;
  }
  if (const auto checked = check(header); !checked) return std::unexpected(checked.error());
  if (header.used_idx != used_idx) undo_last_batch(header, used_idx);
  header_->used_idx = used_idx;

  std::vector<std::pair<std::uint64_t, std::uint16_t>> marked;
  for (std::uint16_t head = 0; head < queue_size_; ++head) {
    const auto entry = read_once<InflightEntry>(&entries_[head]);
    if (entry.inflight == 1) marked.emplace_back(entry.counter, head);
  }
  std::ranges::sort(marked);
  std::vector<std::uint16_t> owed;
  for (const auto& [counter, head] : marked) owed.push_back(head);
  if (!marked.empty()) counter_ = marked.back().first + 1;
  last_batch_head_ = header.last_batch_head;
  return owed;
}

Result<InflightRegion> make_inflight_region(std::uint16_t queues, std::uint16_t queue_size) {
  const std::uint64_t size = inflight_region_bytes(queues, queue_size);
  auto file = make_sealed_memory("vhost-inflight", size);
  if (!file) return std::unexpected(file.error());
  return InflightRegion{std::move(*file), {size, 0, queues, queue_size, 0}};
}

}  // namespace vhost
