#include "libvhost/frontend/packed_driver_ring.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace vhost::frontend {

PackedDriverRing::PackedDriverRing(SharedMemory& memory, RingOptions options)
    : memory_(&memory),
      slots_(options.size),
      size_(options.size),
      indirect_(options.indirect),
      event_idx_(options.event_idx),
      free_count_(options.size) {
  for (std::uint32_t i = 0; i < size_; ++i) slots_[i].next = static_cast<std::uint16_t>(i + 1);
}

Result<PackedDriverRing> PackedDriverRing::create(SharedMemory& memory, RingOptions options) {
  if (options.size == 0 || options.size > max_ring_size) {
    return fail(Fault::operator_,
                "a packed ring's size is 1 to 32768, not " + std::to_string(options.size));
  }
  PackedDriverRing ring(memory, options);
  if (auto areas = ring.allocate_areas(); !areas) return std::unexpected(areas.error());
  ring.reset();
  return ring;
}

PackedDriverRing::PackedDriverRing(PackedDriverRing&& other) noexcept = default;

PackedDriverRing::~PackedDriverRing() {
  if (slots_.empty()) return;  // moved from
  for (const Buffer& area : {descriptors_, driver_, device_, tables_}) {
    if (area.data != nullptr) memory_->release(area);
  }
}

Result<void> PackedDriverRing::allocate_areas() {
  const auto take = [&](Buffer& area, std::size_t bytes) -> Result<void> {
    auto got = memory_->allocate(bytes, 64);  // the two sides keep off each other's cache lines
    if (!got) return std::unexpected(got.error());
    area = *got;
    return {};
  };
  if (auto got = take(descriptors_, size_ * sizeof(PackedDesc)); !got) return got;
  if (auto got = take(driver_, 64); !got) return got;
  if (auto got = take(device_, 64); !got) return got;
  if (indirect_ == 0) return {};
  return take(tables_, std::size_t{size_} * indirect_ * sizeof(PackedDesc));
}

std::optional<std::uint16_t> PackedDriverRing::place(std::span<const Segment> readable,
                                                     std::span<const Segment> writable,
                                                     std::uint64_t cookie, Placing placing) {
  const std::size_t total = readable.size() + writable.size();
  const bool indirect = total > 1 && total <= indirect_;
  const std::size_t needed = indirect ? 1 : total;
  if (total == 0 || needed > free_count_) return std::nullopt;

  const std::uint16_t head = free_head_;
  chain_.clear();
  for (const Segment& segment : readable) {
    chain_.push_back({segment.guest_address, segment.length_bytes, head, 0});
  }
  for (const Segment& segment : writable) {
    chain_.push_back({segment.guest_address, segment.length_bytes, head, desc_write});
  }
  if (indirect) write_table(head);
  for (std::size_t i = 0; i + 1 < chain_.size(); ++i) chain_[i].flags |= desc_next;
  return keep_chain(cookie, placing);
}

/// Takes the descriptors of `chain_` into our books, where there is room for them.
std::uint16_t PackedDriverRing::keep_chain(std::uint64_t cookie, Placing placing) {
  const std::uint16_t head = free_head_;
  for (const PackedDesc& descriptor : chain_) {
    slots_[free_head_].descriptor = descriptor;
    free_head_ = slots_[free_head_].next;
  }
  free_count_ = static_cast<std::uint16_t>(free_count_ - chain_.size());
  Slot& slot = slots_[head];
  slot.cookie = cookie;
  slot.descriptors = static_cast<std::uint16_t>(chain_.size());
  slot.offered = false;
  slot.placed = true;
  slot.once = placing == Placing::once;
  return head;
}

std::optional<std::uint16_t> PackedDriverRing::place_raw(std::span<const PackedDesc> descriptors,
                                                         std::uint64_t cookie) {
  if (descriptors.empty() || descriptors.size() > free_count_) return std::nullopt;
  chain_.assign(descriptors.begin(), descriptors.end());
  for (PackedDesc& descriptor : chain_) {
    descriptor.id = static_cast<std::uint16_t>(descriptor.id + free_head_);
  }
  return keep_chain(cookie, Placing::once);
}

/// The chain becomes one descriptor that names its table.
void PackedDriverRing::write_table(std::uint16_t head) {
  const std::span<const PackedDesc> entries = chain_;
  const std::size_t offset = std::size_t{head} * indirect_ * sizeof(PackedDesc);
  const auto bytes = static_cast<std::uint32_t>(entries.size_bytes());
  std::memcpy(tables_.data + offset, entries.data(), bytes);
  chain_.assign(1, {tables_.guest_address + offset, bytes, head, desc_indirect});
}

bool PackedDriverRing::remove(std::uint16_t head) {
  if (head >= size_ || !slots_[head].placed || slots_[head].offered) return false;
  free_chain(head);
  return true;
}

/// The links of a chain are those of the free list it was taken from: it goes back in one piece.
void PackedDriverRing::free_chain(std::uint16_t head) {
  std::uint16_t last = head;
  for (std::uint16_t i = 1; i < slots_[head].descriptors; ++i) last = slots_[last].next;
  slots_[last].next = free_head_;
  free_head_ = head;
  free_count_ = static_cast<std::uint16_t>(free_count_ + slots_[head].descriptors);
  slots_[head].placed = false;
}

bool PackedDriverRing::add(std::span<const Segment> readable, std::span<const Segment> writable,
                           std::uint64_t cookie) {
  const auto head = place(readable, writable, cookie, Placing::once);
  if (!head) return false;
  offer_raw(*head);
  return true;
}

Poll PackedDriverRing::broke(const char* reason) {
  broken_ = reason;
  return Poll::broken;
}

/// Takes this used descriptor, which was at our position.
Poll PackedDriverRing::take(PackedTail used, Completion& completion) {
  if (used.id >= size_) return broke("the device used a chain beyond the ring");
  Slot& slot = slots_[used.id];
  if (!slot.offered) return broke("the device used a chain that it did not have");
  slot.offered = false;
  --outstanding_;
  if (slot.descriptors == 1) {
    // A constant: the CPU need not wait for what it finds here to know where the next one is.
    taken_.advance(1, size_);
  } else {
    taken_.advance(slot.descriptors, size_);
  }
  completion = {slot.cookie, (used.flags & desc_write) != 0 ? used.length : 0, used.id};
  if (slot.once) free_chain(used.id);
  return Poll::done;
}

bool PackedDriverRing::arm_calls() {
  std::uint32_t wish = std::uint32_t{event_always} << 16;
  if (event_idx_) wish = taken_.bits() | std::uint32_t{event_at_position} << 16;
  event(driver_).store(wish, std::memory_order_relaxed);
  full_barrier();  // the wish is visible before the last look
  return !caught_up();
}

void PackedDriverRing::disarm_calls() {
  event(driver_).store(std::uint32_t{event_never} << 16, std::memory_order_relaxed);
}

std::vector<std::uint16_t> PackedDriverRing::outstanding_heads() const {
  std::vector<std::uint16_t> heads;
  for (std::uint32_t head = 0; head < size_; ++head) {
    if (slots_[head].offered) heads.push_back(static_cast<std::uint16_t>(head));
  }
  std::ranges::sort(heads, {}, [&](std::uint16_t head) { return slots_[head].sequence; });
  return heads;
}

void PackedDriverRing::offer_again() {
  const auto heads = outstanding_heads();
  next_ = taken_;
  outstanding_ = 0;
  hidden_tail_ = 0;
  for (const std::uint16_t head : heads) offer_raw(head);
  expose();
  published_ = next_;
}

void PackedDriverRing::reset() {
  for (std::uint32_t head = 0; head < size_; ++head) {
    Slot& slot = slots_[head];
    if (std::exchange(slot.offered, false) && slot.once) {
      free_chain(static_cast<std::uint16_t>(head));
    }
  }
  next_ = published_ = taken_ = {};
  outstanding_ = 0;
  hidden_tail_ = 0;
  broken_ = nullptr;
  std::ranges::fill(descriptors_.bytes(), std::byte{});
  std::ranges::fill(device_.bytes(), std::byte{});
  disarm_calls();
}

}  // namespace vhost::frontend
