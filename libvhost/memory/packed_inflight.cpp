#include "libvhost/memory/packed_inflight.hpp"

#include <algorithm>
#include <cstddef>

#include "libvhost/memory/inflight.hpp"

namespace vhost {
namespace {

std::unexpected<Error> refuse(const std::string& what) {
  return fail(Fault::front_end, "the inflight region is " + what);
}

}  // namespace

PackedInflightSection::PackedInflightSection(std::shared_ptr<const Mapping> region,
                                             std::span<std::byte> section, std::uint16_t queue_size)
    : region_(std::move(region)),
      header_(reinterpret_cast<PackedInflightHeader*>(section.data())),
      entries_(
          reinterpret_cast<PackedInflightEntry*>(section.data() + sizeof(PackedInflightHeader))),
      queue_size_(queue_size),
      links_(queue_size),
      batch_(queue_size) {}

/// A kill can come between any two instructions, so what belongs together is one store.
void PackedInflightSection::store_positions(PackedPosition now, PackedPosition old) {
  const std::uint64_t both = std::uint64_t{now.index} | std::uint64_t{old.index} << 16 |
                             std::uint64_t{now.wrap} << 32 | std::uint64_t{old.wrap} << 40;
  auto* const at = reinterpret_cast<std::byte*>(header_) + offsetof(PackedInflightHeader, used_idx);
  std::atomic_ref(*reinterpret_cast<std::uint64_t*>(at)).store(both, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_release);
}

void PackedInflightSection::store_free_heads(std::uint16_t now, std::uint16_t old) {
  const std::uint32_t both = now | static_cast<std::uint32_t>(old) << 16;
  auto* const at =
      reinterpret_cast<std::byte*>(header_) + offsetof(PackedInflightHeader, free_head);
  std::atomic_ref(*reinterpret_cast<std::uint32_t*>(at)).store(both, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_release);
}

void PackedInflightSection::prepare(PackedPosition used) {
  if (entries_ == nullptr) return;
  // Copies: after each store to shared memory the compiler would read members anew.
  PackedInflightEntry* const entries = entries_;
  Link* const links = links_.data();
  std::uint16_t next = free_;
  for (const std::uint16_t first : batch()) {
    const std::uint16_t last = links[first].last;
    links[last].next = entries[last].next = next;
    next = first;
  }
  next_free_ = next;
  std::atomic_signal_fence(std::memory_order_release);
  store_free_heads(next_free_, free_);
  next_used_ = used;
  store_positions(next_used_, used_);
}

void PackedInflightSection::commit() {
  if (entries_ == nullptr) return;
  std::atomic_signal_fence(std::memory_order_release);
  PackedInflightEntry* const entries = entries_;
  for (const std::uint16_t first : batch()) entries[first].inflight = 0;
  batched_ = 0;
  free_ = next_free_;
  std::atomic_signal_fence(std::memory_order_release);
  store_free_heads(free_, free_);
  used_ = next_used_;
  store_positions(used_, used_);
}

PackedDesc PackedInflightSection::read(std::uint16_t& entry) const {
  const auto copy = read_once<PackedInflightEntry>(&entries_[entry]);
  entry = links_[entry].next;
  return {copy.addr, copy.length, copy.id, copy.flags};
}

Result<void> PackedInflightSection::check(const PackedInflightHeader& header) const {
  if (header.version != inflight_version) {
    return refuse("of version " + std::to_string(header.version) + ", not 1");
  }
  if (header.desc_num != queue_size_) {
    return refuse("for a ring of " + std::to_string(header.desc_num) + " descriptors, not " +
                  std::to_string(queue_size_));
  }
  return {};
}

/// The predecessor may have died in a batch: afterwards it is done, or it never was.
void PackedInflightSection::settle_last_batch(PackedInflightHeader& header, const FlagsAt& flags_at,
                                              std::uint16_t ring_size) {
  const PackedPosition old{header.old_used_idx, header.old_used_wrap_counter == 1};
  const PackedPosition now{header.used_idx, header.used_wrap_counter == 1};
  used_ = old;
  std::uint16_t free_head = header.old_free_head;
  if (now != old && old.index < ring_size && old.is_used(flags_at(old.index))) {
    std::uint16_t entry = header.free_head;
    for (std::uint16_t i = 0; i < queue_size_; ++i) {
      if (entry >= queue_size_ || entry == header.old_free_head) break;
      const auto copy = read_once<PackedInflightEntry>(&entries_[entry]);
      entries_[entry].inflight = 0;
      entry = copy.next;
    }
    used_ = now;
    free_head = header.free_head;
  }
  std::atomic_signal_fence(std::memory_order_release);
  store_free_heads(free_head, free_head);
  store_positions(used_, used_);
}

/// Follows a chain of this many entries through the section. False: it cannot be one.
bool PackedInflightSection::claim(std::uint16_t first, std::uint16_t slots,
                                  std::vector<bool>& claimed) {
  std::uint16_t entry = first;
  for (std::uint16_t i = 0; i < slots; ++i) {
    if (entry >= queue_size_ || claimed[entry]) return false;
    claimed[entry] = true;
    links_[first].last = entry;
    const auto copy = read_once<PackedInflightEntry>(&entries_[entry]);
    links_[entry].next = copy.next;
    entry = copy.next;
  }
  links_[first].slots = slots;
  return true;
}

/// All that is marked, oldest first; everything else becomes free.
Result<std::vector<PackedInflightSection::Owed>> PackedInflightSection::collect(
    std::uint16_t ring_size) {
  std::vector<std::pair<std::uint64_t, Owed>> marked;
  std::vector<bool> claimed(queue_size_);
  std::uint32_t slots = 0;
  for (std::uint16_t first = 0; first < queue_size_; ++first) {
    const auto entry = read_once<PackedInflightEntry>(&entries_[first]);
    if (entry.inflight != 1) continue;
    slots += entry.num;
    if (entry.num == 0 || slots > ring_size || !claim(first, entry.num, claimed)) {
      return refuse("in disorder: what it marks are no chains of this ring");
    }
    marked.push_back({entry.counter, {first, entry.id, entry.num}});
  }
  std::ranges::sort(marked, {}, [](const auto& chain) { return chain.first; });
  if (!marked.empty()) counter_ = marked.back().first + 1;
  make_free_list(claimed);
  std::vector<Owed> owed;
  owed.reserve(marked.size());
  for (const auto& [counter, chain] : marked) owed.push_back(chain);
  return owed;
}

void PackedInflightSection::make_free_list(const std::vector<bool>& claimed) {
  free_ = queue_size_;
  for (std::uint16_t entry = queue_size_; entry-- > 0;) {
    if (claimed[entry]) continue;
    links_[entry].next = entries_[entry].next = free_;
    free_ = entry;
  }
  store_free_heads(free_, free_);
}

Result<PackedInflightSection::Recovered> PackedInflightSection::recover(const Recovered& base,
                                                                        std::uint16_t ring_size,
                                                                        const FlagsAt& flags_at) {
  if (entries_ == nullptr) return base;
  auto header = read_once<PackedInflightHeader>(header_);
  if (header.version == 0) {
    *header_ = {0, 0, queue_size_, 0, 0, 0, 0, 0, 0, {}};
    make_free_list(std::vector<bool>(queue_size_));
    used_ = base.used;
    store_positions(used_, used_);
    header_->version = inflight_version;
    return base;
  }
  if (const auto checked = check(header); !checked) return std::unexpected(checked.error());
  settle_last_batch(header, flags_at, ring_size);

  auto owed = collect(ring_size);
  if (!owed) return std::unexpected(owed.error());
  Recovered recovered{used_, used_, std::move(*owed)};
  for (const Owed& chain : recovered.owed) recovered.available.advance(chain.slots, ring_size);
  return recovered;
}

}  // namespace vhost
