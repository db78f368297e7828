#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "libvhost/ring/barrier.hpp"
#include "libvhost/ring/split_ring.hpp"
#include "libvhost/wire/virtqueue.hpp"
#include "tests/fakes/guest_memory.hpp"

/*
 * The guest's side of a virtqueue, for tests: an honest driver (add, take_used, the events), and
 * the raw writes of a dishonest one (descriptor, offer, avail_idx).
 *
 * A test of what every layout promises is written against the first half, which a driver of
 * another layout has under the same names; the second half is the split layout's own.
 */
namespace vhost::fakes {

struct Buffer {
  std::uint64_t address;
  std::uint32_t length;
  bool writable = false;
};

struct DriverOptions {
  std::uint16_t size = 8;
  bool event_idx = false;
  bool indirect = true;
  std::uint64_t at = GuestMemory::low;  ///< where its areas begin
};

class FakeSplitDriver {
 public:
  using Memory = GuestMemory;
  using DeviceRing = SplitRing;
  using Section = InflightSection;

  explicit FakeSplitDriver(GuestMemory& memory, DriverOptions options = {})
      : memory_(memory), options_(options), layout_{options.size}, chains_(options.size) {
    for (std::uint16_t i = options.size; i > 0; --i)
      free_.push_back(static_cast<std::uint16_t>(i - 1));
  }

  // ------------------------------------------------------------ an honest driver, any layout

  [[nodiscard]] RingSetup setup(std::uint32_t base = 0) const {
    return {options_.size,
            FrontendAddress{memory_.frontend(descriptors_at())},
            FrontendAddress{memory_.frontend(available_at())},
            FrontendAddress{memory_.frontend(used_at())},
            base,
            options_.event_idx,
            options_.indirect};
  }
  /// As a driver that has used this ring for a while, in whole turns: both indexes are `position`.
  void start_at(std::uint16_t position) {
    avail_ = position;
    taken_ = position;
    avail_idx(position);
    memory_.store(used_at() + SplitLayout::idx_at, position);
  }
  /// The same at the last position before they come round; the base that goes with it.
  std::uint32_t start_at_the_end() {
    start_at(65535);
    return 65535;
  }
  /// The base of a new ring once so many chains of one descriptor were popped, and pushed.
  [[nodiscard]] static std::uint32_t base_after(std::uint16_t popped,
                                                std::uint16_t /*pushed*/ = 0) {
    return popped;
  }
  /// What a front-end says after the device died.
  [[nodiscard]] std::uint32_t base_after_crash() const { return used_idx(); }
  [[nodiscard]] std::size_t free_descriptors() const { return free_.size(); }

  /// Offers a chain of these buffers; what comes back in used entries as its id.
  std::uint16_t add(std::span<const Buffer> buffers) {
    std::vector<std::uint16_t> taken(free_.end() - static_cast<std::ptrdiff_t>(buffers.size()),
                                     free_.end());
    free_.resize(free_.size() - buffers.size());
    std::ranges::reverse(taken);
    for (std::size_t i = 0; i < taken.size(); ++i) {
      const bool last = i + 1 == taken.size();
      descriptor(taken[i], desc_of(buffers[i], last ? 0 : taken[i + 1], last));
    }
    const std::uint16_t id = taken.front();
    chains_[id] = std::move(taken);
    offer(id);
    return id;
  }
  std::uint16_t add(std::initializer_list<Buffer> buffers) {
    return add(std::span(buffers.begin(), buffers.size()));
  }
  /// The same through an indirect table at `table`.
  std::uint16_t add_indirect(std::span<const Buffer> buffers, std::uint64_t table) {
    write_table(buffers, table);
    const std::uint16_t id = free_.back();
    free_.pop_back();
    chains_[id] = {id};
    descriptor(id, {table, static_cast<std::uint32_t>(buffers.size() * sizeof(SplitDesc)),
                    desc_indirect, 0});
    offer(id);
    return id;
  }
  /// The next chain that the device gave back; its descriptors are free again.
  std::optional<UsedElem> take_used() {
    if (taken_ == used_idx()) return std::nullopt;
    const UsedElem elem = used(taken_++);
    if (elem.id >= chains_.size()) std::abort();
    free_.insert(free_.end(), chains_[elem.id].rbegin(), chains_[elem.id].rend());
    chains_[elem.id].clear();
    return elem;
  }

  void want_no_calls() { memory_.store(available_at(), avail_no_interrupt); }
  /// EVENT_IDX: call when the used index passes `position`.
  void used_event(std::uint16_t position) {
    store_relaxed(memory_.at(available_at() + layout_.used_event_at()), position);
  }
  /// Whether the device wants a kick for the entry that was added last.
  [[nodiscard]] bool must_kick() const {
    full_barrier();
    if (!options_.event_idx) return (used_flags() & used_no_notify) == 0;
    return passed_event(avail_event(), avail_, static_cast<std::uint16_t>(avail_ - 1));
  }

  // ------------------------------------------------------------ raw writes, split layout

  [[nodiscard]] std::uint64_t descriptors_at() const { return options_.at; }
  [[nodiscard]] std::uint64_t available_at() const {
    return descriptors_at() + layout_.descriptors_bytes();
  }
  [[nodiscard]] std::uint64_t used_at() const {
    return (available_at() + layout_.available_bytes(true) + 3) / 4 * 4;
  }

  void descriptor(std::uint16_t index, const SplitDesc& desc) const {
    memory_.store(descriptors_at() + index * sizeof(SplitDesc), desc);
  }
  void write_table(std::span<const Buffer> buffers, std::uint64_t table) const {
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const auto next = static_cast<std::uint16_t>(i + 1);
      memory_.store(table + i * sizeof(SplitDesc),
                    desc_of(buffers[i], next, i + 1 == buffers.size()));
    }
  }
  /// Puts a head into the available ring and shows it.
  void offer(std::uint16_t head) {
    avail_entry(avail_, head);
    avail_idx(++avail_);
  }
  void avail_entry(std::uint16_t position, std::uint16_t head) const {
    const std::size_t slot = position & (layout_.size - 1u);
    memory_.store(available_at() + SplitLayout::entries_at + slot * 2, head);
  }
  void avail_idx(std::uint16_t value) const {
    store_release(memory_.at(available_at() + SplitLayout::idx_at), value);
  }

  [[nodiscard]] std::uint16_t used_idx() const {
    return load_acquire(memory_.at(used_at() + SplitLayout::idx_at));
  }
  void used_idx(std::uint16_t value) const {
    store_release(memory_.at(used_at() + SplitLayout::idx_at), value);
  }
  [[nodiscard]] UsedElem used(std::uint16_t position) const {
    const std::size_t slot = position & (layout_.size - 1u);
    return memory_.load<UsedElem>(used_at() + SplitLayout::entries_at + slot * sizeof(UsedElem));
  }
  [[nodiscard]] std::uint16_t used_flags() const { return load_relaxed(memory_.at(used_at())); }
  [[nodiscard]] std::uint16_t avail_event() const {
    return load_relaxed(memory_.at(used_at() + layout_.avail_event_at()));
  }

 private:
  [[nodiscard]] static SplitDesc desc_of(const Buffer& buffer, std::uint16_t next, bool last) {
    const unsigned flags = (last ? 0u : desc_next) | (buffer.writable ? desc_write : 0u);
    return {buffer.address, buffer.length, static_cast<std::uint16_t>(flags), next};
  }

  GuestMemory& memory_;
  DriverOptions options_;
  SplitLayout layout_;
  std::vector<std::uint16_t> free_;
  std::vector<std::vector<std::uint16_t>> chains_;  // by head: the descriptors it holds
  std::uint16_t avail_ = 0;
  std::uint16_t taken_ = 0;
};

}  // namespace vhost::fakes
