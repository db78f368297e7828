#include "libvhost/frontend/driver_ring.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace vhost::frontend {
namespace {

constexpr std::size_t legacy_alignment = 4096;

}  // namespace

VringAddr RingAreas::addresses(std::uint32_t index) const {
  const auto address = [](const Buffer& area) {
    return reinterpret_cast<std::uint64_t>(area.data);
  };
  return {index, 0, address(descriptors_), address(device_), address(driver_), 0};
}

SplitDriverRing::SplitDriverRing(SharedMemory& memory, RingOptions options)
    : memory_(&memory),
      slots_(options.size),
      size_(options.size),
      mask_(static_cast<std::uint16_t>(options.size - 1)),
      indirect_(options.indirect),
      event_idx_(options.event_idx),
      free_count_(options.size) {
  for (std::uint32_t i = 0; i < size_; ++i) slots_[i].next = static_cast<std::uint16_t>(i + 1);
}

Result<SplitDriverRing> SplitDriverRing::create(SharedMemory& memory, RingOptions options) {
  if (!std::has_single_bit(options.size) || options.size > max_ring_size) {
    return fail(Fault::operator_, "a ring size is a power of two from 1 to 32768, not " +
                                      std::to_string(options.size));
  }
  SplitDriverRing ring(memory, options);
  if (auto areas = ring.allocate_areas(options); !areas) return std::unexpected(areas.error());
  ring.reset();
  return ring;
}

SplitDriverRing::SplitDriverRing(SplitDriverRing&& other) noexcept = default;

SplitDriverRing::~SplitDriverRing() {
  if (slots_.empty()) return;  // moved from
  for (const Buffer& area : {whole_, descriptors_, driver_, device_, tables_}) {
    if (area.data != nullptr) memory_->release(area);
  }
}

/// The three areas and the indirect tables. Always with room for the event fields, so that a test
/// may turn them on where they were not negotiated.
Result<void> SplitDriverRing::allocate_areas(const RingOptions& options) {
  const auto take = [&](Buffer& area, std::size_t bytes, std::size_t alignment) -> Result<void> {
    auto got = memory_->allocate(bytes, alignment);
    if (!got) return std::unexpected(got.error());
    area = *got;
    return {};
  };
  const SplitLayout at = layout();
  if (options.legacy) {
    // VIRTIO 1.3, 2.7.2: one piece, the used ring on a page of its own. A guest's SET_VRING_ADDR
    // still names three addresses.
    const std::size_t front = at.descriptors_bytes() + at.available_bytes(true);
    const std::size_t used_at =
        (front + legacy_alignment - 1) / legacy_alignment * legacy_alignment;
    auto got = take(whole_, used_at + at.used_bytes(true), legacy_alignment);
    if (!got) return got;
    const auto part = [&](std::size_t offset, std::size_t bytes) {
      return Buffer{whole_.data + offset, bytes, whole_.guest_address + offset};
    };
    descriptors_ = part(0, at.descriptors_bytes());
    driver_ = part(at.descriptors_bytes(), at.available_bytes(true));
    device_ = part(used_at, at.used_bytes(true));
  } else {
    // A cache line is more than VIRTIO asks for, and keeps the two sides off each other's lines.
    if (auto got = take(descriptors_, at.descriptors_bytes(), 64); !got) return got;
    if (auto got = take(driver_, at.available_bytes(true), 64); !got) return got;
    if (auto got = take(device_, at.used_bytes(true), 64); !got) return got;
  }
  if (indirect_ == 0) return {};
  return take(tables_, std::size_t{size_} * indirect_ * sizeof(SplitDesc), 64);
}

std::byte* SplitDriverRing::indirect_table(std::uint16_t head) const {
  return tables_.data + std::size_t{head} * indirect_ * sizeof(SplitDesc);
}

void SplitDriverRing::write_descriptor(std::byte* table, std::size_t index,
                                       const SplitDesc& descriptor) {
  std::memcpy(table + index * sizeof descriptor, &descriptor, sizeof descriptor);
}

/// Takes `count` descriptors, which are there, from the free list; the first is the head.
std::uint16_t SplitDriverRing::reserve(std::uint16_t count, std::uint64_t cookie) {
  const std::uint16_t head = free_head_;
  for (std::uint16_t i = 0; i < count; ++i) free_head_ = slots_[free_head_].next;
  free_count_ = static_cast<std::uint16_t>(free_count_ - count);
  Slot& slot = slots_[head];
  slot.cookie = cookie;
  slot.descriptors = count;
  slot.offered = 0;
  slot.placed = true;
  slot.once = false;
  return head;
}

std::optional<std::uint16_t> SplitDriverRing::place(std::span<const Segment> readable,
                                                    std::span<const Segment> writable,
                                                    std::uint64_t cookie, Placing placing) {
  const std::size_t total = readable.size() + writable.size();
  const bool indirect = total > 1 && total <= indirect_;
  const std::size_t needed = indirect ? 1 : total;
  if (total == 0 || needed > free_count_) return std::nullopt;

  const std::uint16_t head = reserve(static_cast<std::uint16_t>(needed), cookie);
  slots_[head].once = placing == Placing::once;
  std::byte* table = indirect ? indirect_table(head) : descriptors_.data;
  std::uint16_t at = indirect ? std::uint16_t{0} : head;
  for (std::size_t i = 0; i < total; ++i) {
    const bool write = i >= readable.size();
    const Segment& segment = write ? writable[i - readable.size()] : readable[i];
    const bool last = i + 1 == total;
    const auto next = indirect ? static_cast<std::uint16_t>(at + 1) : slots_[at].next;
    const auto flags =
        static_cast<std::uint16_t>((write ? desc_write : 0) | (last ? 0 : desc_next));
    write_descriptor(
        table, at,
        {segment.guest_address, segment.length_bytes, flags, last ? std::uint16_t{0} : next});
    at = next;
  }
  if (indirect) {
    const auto offset = static_cast<std::uint64_t>(table - tables_.data);
    write_descriptor(descriptors_.data, head,
                     {tables_.guest_address + offset,
                      static_cast<std::uint32_t>(total * sizeof(SplitDesc)), desc_indirect, 0});
  }
  return head;
}

std::optional<std::uint16_t> SplitDriverRing::place_raw(std::span<const SplitDesc> descriptors,
                                                        std::uint64_t cookie) {
  if (descriptors.empty() || descriptors.size() > free_count_) return std::nullopt;
  const std::uint16_t head = reserve(static_cast<std::uint16_t>(descriptors.size()), cookie);
  slots_[head].once = true;
  std::vector<std::uint16_t> where;
  for (std::uint16_t at = head; where.size() < descriptors.size(); at = slots_[at].next) {
    where.push_back(at);
  }
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    SplitDesc descriptor = descriptors[i];
    if (descriptor.next < where.size()) descriptor.next = where[descriptor.next];
    write_descriptor(descriptors_.data, where[i], descriptor);
  }
  return head;
}

bool SplitDriverRing::add(std::span<const Segment> readable, std::span<const Segment> writable,
                          std::uint64_t cookie) {
  const auto head = place(readable, writable, cookie, Placing::once);
  if (!head) return false;
  offer_raw(*head);
  return true;
}

bool SplitDriverRing::remove(std::uint16_t head) {
  if (head >= size_ || !slots_[head].placed || slots_[head].offered != 0) return false;
  free_chain(head);
  return true;
}

/// The links of a chain are those of the free list it was taken from: it goes back in one piece.
void SplitDriverRing::free_chain(std::uint16_t head) {
  std::uint16_t last = head;
  for (std::uint16_t i = 1; i < slots_[head].descriptors; ++i) last = slots_[last].next;
  slots_[last].next = free_head_;
  free_head_ = head;
  free_count_ = static_cast<std::uint16_t>(free_count_ + slots_[head].descriptors);
  slots_[head].placed = false;
}

Poll SplitDriverRing::broke(const char* reason) {
  broken_ = reason;
  seen_ = taken_;
  return Poll::broken;
}

/// Takes the used entry at our position, which the device says is there.
Poll SplitDriverRing::take(Completion& completion) {
  if (static_cast<std::uint16_t>(seen_ - taken_) > outstanding_) {
    return broke("the device's used index is ahead of what it was given");
  }
  const std::size_t at = SplitLayout::entries_at + (taken_ & mask_) * sizeof(UsedElem);
  const auto used = read_once<UsedElem>(device_.data + at);
  if (used.id >= size_) return broke("the device used a chain beyond the ring");
  const auto head = static_cast<std::uint16_t>(used.id);
  Slot& slot = slots_[head];
  if (slot.offered == 0) return broke("the device used a chain that it did not have");

  ++taken_;
  --slot.offered;
  --outstanding_;
  completion = {slot.cookie, used.length, head};
  if (slot.once && slot.offered == 0) free_chain(head);
  return Poll::done;
}

bool SplitDriverRing::arm_calls() {
  if (event_idx_) {
    available_u16(layout().used_event_at()).store(taken_, std::memory_order_relaxed);
  } else {
    available_u16(SplitLayout::flags_at).store(0, std::memory_order_relaxed);
  }
  full_barrier();  // the wish is visible before the last look
  return used_u16(SplitLayout::idx_at).load(std::memory_order_acquire) != taken_;
}

void SplitDriverRing::disarm_calls() {
  if (event_idx_) {
    // The entry just behind us: the one that is farthest ahead.
    const auto behind = static_cast<std::uint16_t>(taken_ - 1);
    available_u16(layout().used_event_at()).store(behind, std::memory_order_relaxed);
  } else {
    available_u16(SplitLayout::flags_at).store(avail_no_interrupt, std::memory_order_relaxed);
  }
}

std::vector<std::uint16_t> SplitDriverRing::outstanding_heads() const {
  std::vector<std::uint16_t> heads;
  for (std::uint32_t head = 0; head < size_; ++head) {
    if (slots_[head].offered != 0) heads.push_back(static_cast<std::uint16_t>(head));
  }
  std::ranges::sort(heads, {}, [&](std::uint16_t head) { return slots_[head].sequence; });
  return heads;
}

std::uint16_t SplitDriverRing::base_after_crash() const {
  return used_u16(SplitLayout::idx_at).load(std::memory_order_acquire);
}

void SplitDriverRing::offer_again() {
  const auto heads = outstanding_heads();
  offered_ = published_ = taken_;
  outstanding_ = 0;
  for (const std::uint16_t head : heads) {
    slots_[head].offered = 0;
    offer_raw(head);
  }
  published_ = offered_;
  available_u16(SplitLayout::idx_at).store(offered_, std::memory_order_release);
}

void SplitDriverRing::reset() {
  for (std::uint32_t head = 0; head < size_; ++head) {
    Slot& slot = slots_[head];
    const bool was_out = std::exchange(slot.offered, std::uint16_t{0}) != 0;
    if (was_out && slot.once) free_chain(static_cast<std::uint16_t>(head));
  }
  offered_ = published_ = seen_ = taken_ = 0;
  outstanding_ = 0;
  broken_ = nullptr;
  std::ranges::fill(driver_.bytes(), std::byte{});
  std::ranges::fill(device_.bytes(), std::byte{});
  disarm_calls();
}

}  // namespace vhost::frontend
