#pragma once
#include <cstdlib>
#include <optional>
#include <vector>

#include "libvhost/ring/packed_ring.hpp"
#include "tests/fakes/fake_driver.hpp"

namespace vhost::fakes {

/// The driver's side of a packed virtqueue, as FakeSplitDriver is that of a split one.
class FakePackedDriver {
 public:
  using Memory = GuestMemory;
  using DeviceRing = PackedRing;
  using Section = PackedInflightSection;

  explicit FakePackedDriver(GuestMemory& memory, DriverOptions options = {})
      : memory_(memory), options_(options), free_slots_(options.size), chains_(options.size) {
    for (std::uint16_t i = options.size; i > 0; --i) {
      free_ids_.push_back(static_cast<std::uint16_t>(i - 1));
    }
  }

  // ------------------------------------------------------------ an honest driver, any layout

  [[nodiscard]] RingSetup setup(std::uint32_t base = new_packed_base) const {
    return {options_.size,
            FrontendAddress{memory_.frontend(descriptors_at())},
            FrontendAddress{memory_.frontend(driver_event_at())},
            FrontendAddress{memory_.frontend(device_event_at())},
            base,
            options_.event_idx,
            options_.indirect,
            true};
  }
  /// As a driver that has used this ring for a while: both positions are this one.
  std::uint32_t start_at(PackedPosition position) {
    next_ = taken_ = position;
    return position.bits() | std::uint32_t{position.bits()} << 16;
  }
  std::uint32_t start_at_the_end() {
    return start_at({static_cast<std::uint16_t>(options_.size - 1), true});
  }
  /// The base of a new ring once so many chains of one descriptor were popped, and pushed.
  [[nodiscard]] std::uint32_t base_after(std::uint16_t popped, std::uint16_t pushed = 0) const {
    PackedPosition available;
    PackedPosition used;
    available.advance(popped, options_.size);
    used.advance(pushed, options_.size);
    return available.bits() | std::uint32_t{used.bits()} << 16;
  }
  /// What a front-end says after the device died: it does not know how far it was.
  [[nodiscard]] static std::uint32_t base_after_crash() { return new_packed_base; }
  [[nodiscard]] std::size_t free_descriptors() const { return free_slots_; }

  std::uint16_t add(std::span<const Buffer> buffers) {
    const std::uint16_t id = take_id(static_cast<std::uint16_t>(buffers.size()));
    std::vector<PackedDesc> descriptors;
    for (const Buffer& buffer : buffers) {
      const bool last = descriptors.size() + 1 == buffers.size();
      const unsigned flags = (last ? 0u : desc_next) | (buffer.writable ? desc_write : 0u);
      descriptors.push_back({buffer.address, buffer.length, id, static_cast<std::uint16_t>(flags)});
    }
    offer(descriptors);
    return id;
  }
  std::uint16_t add(std::initializer_list<Buffer> buffers) {
    return add(std::span(buffers.begin(), buffers.size()));
  }
  std::uint16_t add_indirect(std::span<const Buffer> buffers, std::uint64_t table) {
    write_table(buffers, table);
    const std::uint16_t id = take_id(1);
    const auto bytes = static_cast<std::uint32_t>(buffers.size() * sizeof(PackedDesc));
    offer(std::vector<PackedDesc>{{table, bytes, id, desc_indirect}});
    return id;
  }
  std::optional<UsedElem> take_used() {
    const std::uint16_t flags =
        load_acquire(memory_.at(slot_at(taken_.index) + PackedDesc::flags_at));
    if ((flags & (desc_available | desc_used)) != taken_.used_flags()) return std::nullopt;
    const auto desc = memory_.load<PackedDesc>(slot_at(taken_.index));
    if (desc.id >= chains_.size() || chains_[desc.id] == 0) std::abort();
    const std::uint16_t slots = std::exchange(chains_[desc.id], std::uint16_t{0});
    taken_.advance(slots, options_.size);
    free_slots_ += slots;
    free_ids_.push_back(desc.id);
    return UsedElem{desc.id, (desc.flags & desc_write) != 0 ? desc.length : 0};
  }

  void want_no_calls() { driver_event({0, event_never}); }
  /// Whether the device wants a kick for the chain that was added last.
  [[nodiscard]] bool must_kick() const {
    full_barrier();
    const EventSuppression event = device_event();
    if (event.flags != event_at_position) return event.flags == event_always;
    return PackedPosition::of(event.position).ahead_of(last_, options_.size) < last_slots_;
  }

  // ------------------------------------------------------------ raw writes, packed layout

  [[nodiscard]] std::uint64_t descriptors_at() const { return options_.at; }
  [[nodiscard]] std::uint64_t driver_event_at() const {
    return descriptors_at() + options_.size * sizeof(PackedDesc);
  }
  [[nodiscard]] std::uint64_t device_event_at() const { return driver_event_at() + 4; }
  [[nodiscard]] std::uint64_t slot_at(std::uint16_t index) const {
    return descriptors_at() + index * sizeof(PackedDesc);
  }

  void driver_event(EventSuppression event) const {
    store_relaxed_u32(memory_.at(driver_event_at()),
                      event.position | static_cast<std::uint32_t>(event.flags) << 16);
  }
  [[nodiscard]] EventSuppression device_event() const {
    return memory_.load<EventSuppression>(device_event_at());
  }
  [[nodiscard]] PackedDesc descriptor(std::uint16_t index) const {
    return memory_.load<PackedDesc>(slot_at(index));
  }
  void descriptor(std::uint16_t index, const PackedDesc& desc) const {
    memory_.store(slot_at(index), desc);
  }
  void write_table(std::span<const Buffer> buffers, std::uint64_t table) const {
    for (const Buffer& buffer : buffers) {
      const std::uint16_t flags = buffer.writable ? desc_write : 0;
      memory_.store(table, PackedDesc{buffer.address, buffer.length, 0, flags});
      table += sizeof(PackedDesc);
    }
  }
  /// Writes these from our position on as they are, but for the flags that make them available,
  /// and stays where it is.
  void write(std::span<const PackedDesc> descriptors) const {
    PackedPosition at = next_;
    for (PackedDesc desc : descriptors) {
      desc.flags = static_cast<std::uint16_t>(desc.flags | at.available_flags());
      descriptor(at.index, desc);
      at.advance(1, options_.size);
    }
  }
  void write(std::initializer_list<PackedDesc> descriptors) const {
    write(std::span(descriptors.begin(), descriptors.size()));
  }
  /// Makes these available, the first of them last.
  void offer(std::span<const PackedDesc> descriptors) {
    last_ = next_;
    last_slots_ = static_cast<std::uint16_t>(descriptors.size());
    next_.advance(1, options_.size);
    write(descriptors.subspan(1));
    PackedDesc first = descriptors.front();
    const auto flags = static_cast<std::uint16_t>(first.flags | last_.available_flags());
    first.flags = descriptor(last_.index).flags;  // until the rest is there
    descriptor(last_.index, first);
    store_release(memory_.at(slot_at(last_.index) + PackedDesc::flags_at), flags);
    next_.advance(last_slots_ - 1u, options_.size);
  }
  [[nodiscard]] PackedPosition next() const { return next_; }

 private:
  std::uint16_t take_id(std::uint16_t slots) {
    if (slots > free_slots_) std::abort();
    free_slots_ -= slots;
    const std::uint16_t id = free_ids_.back();
    free_ids_.pop_back();
    chains_[id] = slots;
    return id;
  }

  GuestMemory& memory_;
  DriverOptions options_;
  PackedPosition next_;
  PackedPosition taken_;
  PackedPosition last_;  // of the chain added last
  std::uint16_t last_slots_ = 0;
  std::size_t free_slots_;
  std::vector<std::uint16_t> free_ids_;
  std::vector<std::uint16_t> chains_;  // by id: how many slots it has
};

/// On a ring whose size is no power of two, whatever was asked for.
class FakeOddPackedDriver : public FakePackedDriver {
 public:
  explicit FakeOddPackedDriver(GuestMemory& memory, DriverOptions options = {})
      : FakePackedDriver(memory, {11, options.event_idx, options.indirect, options.at}) {}
};

}  // namespace vhost::fakes
