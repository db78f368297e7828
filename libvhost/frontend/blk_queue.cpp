#include "libvhost/frontend/blk_queue.hpp"

namespace vhost::frontend {

BlkQueue::BlkQueue(SharedMemory& memory, Queue& queue, std::uint16_t slots)
    : memory_(&memory), queue_(&queue), slots_(slots) {
  free_.reserve(slots);
  for (std::uint16_t slot = slots; slot > 0; --slot) {
    free_.push_back(static_cast<std::uint16_t>(slot - 1));
  }
}

Result<BlkQueue> BlkQueue::create(SharedMemory& memory, Queue& queue, std::uint16_t slots) {
  BlkQueue made(memory, queue, slots);
  auto lines = memory.allocate(slots * line_bytes, line_bytes);
  if (!lines) return std::unexpected(lines.error());
  made.lines_ = *lines;
  return made;
}

BlkQueue::BlkQueue(BlkQueue&& other) noexcept = default;

BlkQueue::~BlkQueue() {
  if (!slots_.empty() && lines_.data != nullptr) memory_->release(lines_);
}

bool BlkQueue::submit(const BlkRequest& request) {
  const auto slot = fill(request, true);
  if (slot) queue_->ring().offer_raw(slots_[*slot].head);
  return slot.has_value();
}

std::optional<std::uint16_t> BlkQueue::prepare(const BlkRequest& request) {
  return fill(request, false);
}

/// Writes header, range and status of a free slot, and places its chain.
std::optional<std::uint16_t> BlkQueue::fill(const BlkRequest& request, bool once) {
  if (free_.empty()) return std::nullopt;
  const std::uint16_t slot = free_.back();
  const std::size_t line = std::size_t{slot} * line_bytes;
  const BlkHeader header{static_cast<std::uint32_t>(request.type), 0, request.sector};
  const bool ranged = request.type == BlkType::discard || request.type == BlkType::write_zeroes;
  const BlkRange range{request.sector, request.sectors, request.unmap ? blk_range_unmap : 0};
  std::memcpy(lines_.data + line, &header, sizeof header);
  std::memcpy(lines_.data + line + range_at, &range, sizeof range);
  lines_.data[line + status_at] = static_cast<std::byte>(BlkStatus::untouched);

  readable_.assign(1, lines_.segment(line, sizeof header));
  if (ranged) readable_.push_back(lines_.segment(line + range_at, sizeof range));
  writable_.clear();
  auto& data = request.type == BlkType::write ? readable_ : writable_;
  if (!ranged) data.insert(data.end(), request.data.begin(), request.data.end());
  writable_.push_back(lines_.segment(line + status_at, 1));

  AnyDriverRing& ring = queue_->ring();
  const auto head = ring.place(readable_, writable_, slot, once ? Placing::once : Placing::kept);
  if (!head) return std::nullopt;
  free_.pop_back();
  slots_[slot] = {request.cookie, *head, once, true};
  return slot;
}

bool BlkQueue::drop(std::uint16_t slot) {
  if (slot >= slots_.size() || !slots_[slot].used || slots_[slot].once ||
      !queue_->ring().remove(slots_[slot].head)) {
    return false;
  }
  free_slot(slot);
  return true;
}

void BlkQueue::forget() {
  for (std::uint16_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].used && slots_[slot].once) free_slot(slot);
  }
}

}  // namespace vhost::frontend
