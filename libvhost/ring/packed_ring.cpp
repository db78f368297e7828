#include "libvhost/ring/packed_ring.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "libvhost/ring/fetch.hpp"

namespace vhost {
namespace {

/// Descriptors of a chain as they lie in the ring, copied on their way.
class RingSlots {
 public:
  RingSlots(const std::byte* ring, PackedPosition at, std::uint16_t size, std::uint32_t most,
            PackedInflightSection& inflight)
      : ring_(ring), at_(at), size_(size), most_(most), inflight_(inflight) {
    inflight_.forget();
  }

  /// False: a chain cannot have more slots than are the driver's.
  [[nodiscard]] bool next(PackedDesc& desc) {
    if (count_ == most_) return false;
    desc = read_once<PackedDesc>(ring_ + at_.index * sizeof(PackedDesc));
    at_.advance(1, size_);
    ++count_;
    id_ = desc.id;
    inflight_.note(desc);
    return true;
  }
  [[nodiscard]] std::uint16_t count() const { return count_; }
  /// The chain's: it is the last descriptor's that counts (VIRTIO 2.8.6).
  [[nodiscard]] std::uint16_t id() const { return id_; }
  [[nodiscard]] PackedPosition end() const { return at_; }

 private:
  const std::byte* ring_;
  PackedPosition at_;
  std::uint16_t size_;
  std::uint32_t most_;
  PackedInflightSection& inflight_;
  std::uint16_t count_ = 0;
  std::uint16_t id_ = 0;
};

/// Descriptors of a chain as a predecessor copied them.
class OwedSlots {
 public:
  OwedSlots(const PackedInflightSection& inflight, const PackedInflightSection::Owed& owed)
      : inflight_(inflight), entry_(owed.entry), most_(owed.slots) {}

  [[nodiscard]] bool next(PackedDesc& desc) {
    if (count_ == most_) return false;
    desc = inflight_.read(entry_);
    ++count_;
    return true;
  }
  [[nodiscard]] std::uint16_t count() const { return count_; }

 private:
  const PackedInflightSection& inflight_;
  std::uint16_t entry_;
  std::uint16_t most_;
  std::uint16_t count_ = 0;
};

/// Packed layout: a descriptor's successor is the next one. One that stands alone may name a table
/// instead, all of which is the chain (VIRTIO 2.8.7).
template <class Slots>
class PackedSource {
 public:
  PackedSource(Slots& slots, GuestView& view, bool indirect_allowed)
      : slots_(slots), view_(view), indirect_allowed_(indirect_allowed) {}

  Step next(Desc& out) {
    if (entries_ > 0) return next_entry(out);
    PackedDesc desc;
    if (!slots_.next(desc)) return Step::corrupt;
    if ((desc.flags & desc_indirect) != 0) return enter(desc) ? next_entry(out) : Step::corrupt;
    out = {GuestAddress{desc.addr}, desc.length, (desc.flags & desc_write) != 0};
    return (desc.flags & desc_next) != 0 ? Step::more : Step::last;
  }

 private:
  [[nodiscard]] bool enter(const PackedDesc& desc) {
    if (!indirect_allowed_ || (desc.flags & desc_next) != 0 || slots_.count() != 1) return false;
    if (desc.length == 0 || desc.length % sizeof(PackedDesc) != 0) return false;
    entries_ = desc.length / sizeof(PackedDesc);
    scattered_ = GuestAddress{desc.addr};
    table_ = view_.prefix(scattered_, desc.length, Access::read);
    if (table_.size() < desc.length) table_ = {};
    return true;
  }

  /// Of an entry's flags only `write` has a meaning; a table in a table is forbidden (2.8.19).
  [[nodiscard]] Step next_entry(Desc& out) {
    PackedDesc desc;
    if (!table_.empty()) {
      desc = read_once<PackedDesc>(table_.data() + index_ * sizeof(PackedDesc));
    } else if (!read_scattered(view_, scattered_, index_, desc)) {
      return Step::corrupt;
    }
    if ((desc.flags & desc_indirect) != 0) return Step::corrupt;
    out = {GuestAddress{desc.addr}, desc.length, (desc.flags & desc_write) != 0};
    return ++index_ == entries_ ? Step::last : Step::more;
  }

  Slots& slots_;
  GuestView& view_;
  std::span<const std::byte> table_;  // empty: the table is at `scattered_`, in several regions
  GuestAddress scattered_{};
  std::size_t entries_ = 0;  // of the table; 0: none was entered
  std::size_t index_ = 0;
  bool indirect_allowed_;
};
static_assert(DescSource<PackedSource<RingSlots>> && DescSource<PackedSource<OwedSlots>>);

}  // namespace

PackedRing::PackedRing(const RingSetup& setup, PackedInflightSection inflight)
    : setup_(setup),
      view_(setup),
      next_avail_(PackedPosition::of(static_cast<std::uint16_t>(setup.base))),
      next_used_(PackedPosition::of(static_cast<std::uint16_t>(setup.base >> 16))),
      held_(setup.size),
      inflight_(std::move(inflight)) {
  // DPDK's virtio-user tells the low half alone. And no more than the ring can be in flight, so
  // anything else is no base for what was used.
  if (setup.base >> 16 == 0 || next_avail_.ahead_of(next_used_, setup.size) > setup.size) {
    next_used_ = next_avail_;
  }
}

Result<PackedRing> PackedRing::create(const RingSetup& setup,
                                      std::shared_ptr<const MemoryMap> memory,
                                      PackedInflightSection inflight) {
  if (setup.size == 0 || setup.size > max_ring_size) {
    return fail(Fault::front_end,
                "a packed ring cannot have " + std::to_string(setup.size) + " descriptors");
  }
  PackedRing ring(setup, std::move(inflight));
  if (!ring.move_to(std::move(memory))) {
    return fail(Fault::front_end, no_areas(setup));
  }
  if (const auto recovered = ring.recover(); !recovered) {
    return std::unexpected(recovered.error());
  }
  ring.expected_ = ring.next_avail_;
  if (ring.view_.translated()) {
    const auto reading = ring.view_.hold();
    ring.expect_chains();
  }
  return ring;
}

Result<void> PackedRing::recover() {
  const auto flags_at = [this](std::uint16_t index) { return flags_of(index); };
  auto found = inflight_.recover({next_used_, next_avail_, {}}, setup_.size, flags_at);
  if (!found) return std::unexpected(found.error());
  next_used_ = found->used;
  next_avail_ = found->available;
  if (next_used_.index >= setup_.size || next_avail_.index >= setup_.size) {
    return fail(Fault::front_end, "a ring of " + std::to_string(setup_.size) +
                                      " descriptors cannot start at " +
                                      std::to_string(next_avail_.index) + ", or have used up to " +
                                      std::to_string(next_used_.index));
  }
  shown_used_ = next_used_;
  owed_ = std::move(found->owed);
  for (const Owed& chain : owed_) slots_held_ += chain.slots;
  std::ranges::reverse(owed_);
  erase_unshown();
  return {};
}

/// A predecessor may have died before it showed a burst, with all but its first descriptor written
/// as used. We may use these chains in another order.
void PackedRing::erase_unshown() {
  PackedPosition at = next_used_;
  for (std::uint32_t i = 0; i < slots_held_; ++i) {
    store_relaxed(slot(at.index) + PackedDesc::flags_at, at.available_flags());
    if (setup_.log_used) view_.wrote(slot(at.index), sizeof(PackedDesc));
    at.advance(1, setup_.size);
  }
  view_.log_writes();
}

bool PackedRing::move_to(std::shared_ptr<const MemoryMap> memory) {
  constexpr std::size_t event_bytes = sizeof(EventSuppression);
  view_.move_to(std::move(memory));
  descriptors_ =
      view_.area(setup_.descriptors, setup_.size * sizeof(PackedDesc), Access::both).data();
  driver_event_ = view_.area(setup_.available, event_bytes, Access::read).data();
  device_event_ = view_.area(setup_.used, event_bytes, Access::write).data();
  if (!holds_numbers(descriptors_, sizeof(PackedTail)) ||
      !holds_numbers(driver_event_, event_bytes) || !holds_numbers(device_event_, event_bytes)) {
    leave_memory();
  }
  return !broken_;
}

/// Breaks the ring and lets its verbs write where nobody looks: the device may still give back
/// what is in flight, and needs no check for that.
void PackedRing::leave_memory() {
  (void)broken();
  nowhere_ = std::make_shared<std::vector<std::uint64_t>>(setup_.size * 2u + 1);
  descriptors_ = std::as_writable_bytes(std::span(*nowhere_)).data();
  device_event_ = descriptors_ + setup_.size * sizeof(PackedDesc);
  driver_event_ = device_event_ + sizeof(EventSuppression);
}

Pop PackedRing::broken() {
  broken_ = true;
  return Pop::broken;
}

/// Asks for the translations of chains that were not popped yet, each once. While a Reading
/// holds.
void PackedRing::expect_chains() {
  const std::uint32_t most = setup_.size - slots_held_;
  if (expected_.ahead_of(next_avail_, setup_.size) > most) expected_ = next_avail_;
  while (expected_.ahead_of(next_avail_, setup_.size) <
             std::min<std::uint32_t>(most, most_expected) &&
         expected_.is_available(flags_of(expected_.index))) {
    PackedInflightSection none;  // these are not taken
    RingSlots slots(descriptors_, expected_, setup_.size, most, none);
    PackedSource source(slots, view_, setup_.indirect);
    if (!expect_chain(source, view_, longest_chain_at_least)) return;
    expected_ = slots.end();
  }
}

/// How many chains there are cannot be seen from here; if the first is there, the next lines are
/// likely to hold more.
void PackedRing::look_ahead(std::uint16_t chains) {
  if (broken_ || !owed_.empty() || !has_next()) return;
  if (view_.is_cold()) {
    const auto reading = view_.hold();
    expect_chains();
  }
  constexpr std::uint16_t in_line = cache_line / sizeof(PackedDesc);
  const std::uint32_t ahead = std::min<std::uint32_t>(chains, setup_.size - slots_held_);
  PackedPosition at = next_avail_;
  for (std::uint32_t i = in_line; i < ahead; i += in_line) {
    at.advance(std::min<std::uint32_t>(in_line, setup_.size), setup_.size);
    fetch_to_write(slot(at.index));
  }
}

Pop PackedRing::pop(Chain& chain, Reading& reading) {
  if (broken_) return Pop::broken;
  if (view_.waits()) return Pop::empty;
  if (owed_.empty() && !has_next()) return Pop::empty;
  reading.hold();
  if (!owed_.empty()) return pop_owed(chain);

  RingSlots slots(descriptors_, next_avail_, setup_.size, setup_.size - slots_held_, inflight_);
  const Pop pop = read(PackedSource(slots, view_, setup_.indirect), chain);
  if (pop != Pop::ready) return pop;
  const std::uint16_t id = slots.id();
  if (id >= setup_.size || held_[id].origin() != Origin::not_in_flight) return broken();
  next_avail_ = slots.end();
  slots_held_ += slots.count();
  return hold(id, {slots.count(), inflight_.take(id), Origin::available}, chain);
}

/// The oldest chain that a predecessor had taken, as the inflight section says: the front-end can
/// write there.
Pop PackedRing::pop_owed(Chain& chain) {
  const Owed owed = owed_.back();
  if (owed.id >= setup_.size || held_[owed.id].origin() != Origin::not_in_flight) return broken();
  OwedSlots slots(inflight_, owed);
  const Pop pop = read(PackedSource(slots, view_, setup_.indirect), chain);
  if (pop != Pop::ready) return pop;
  owed_.pop_back();
  return hold(owed.id, {owed.slots, owed.entry, Origin::owed}, chain);
}

Pop PackedRing::hold(std::uint16_t id, const Held& held, Chain& chain) {
  held_[id] = held;
  view_.keep(id);
  chain.head = id;
  ++in_flight_;
  return Pop::ready;
}

template <DescSource S>
Pop PackedRing::read(S source, Chain& chain) {
  switch (read_chain(source, view_, setup_.most_descriptors(), chain)) {
    case ReadChain::ready: return Pop::ready;
    case ReadChain::waits: expect_chains(); return Pop::empty;
    case ReadChain::corrupt: return broken();
    case ReadChain::no_room: break;
  }
  // Buffers that cross more boundaries than most_pieces() counts.
  return chain.room() < longest_chain() ? Pop::no_room : broken();
}

void PackedRing::unpop(std::uint16_t id) {
  const Held held = std::exchange(held_[id], Held());
  assert(held.origin() != Origin::not_in_flight);
  if (held.origin() == Origin::owed) {
    owed_.push_back(
        {held.entry(), id, held.slots()});  // still marked; there was room for it before
  } else {
    next_avail_.go_back(held.slots(), setup_.size);
    slots_held_ -= held.slots();
    inflight_.put_back(held.entry());
  }
  --in_flight_;
  view_.take_back(id);
}

/// What the device did for them so far it may have written: the log is told.
void PackedRing::leave() {
  assert(next_used_ == shown_used_);
  for (std::uint16_t id = 0; id < setup_.size; ++id) {
    if (held_[id].origin() == Origin::not_in_flight) continue;
    held_[id] = Held();
    --in_flight_;
    view_.give_back(id, everywhere);
  }
  view_.log_writes();
}

/// So many from `first` on were written. Which of them, is not known any more.
void PackedRing::log_shown(PackedPosition first, std::uint32_t slots) {
  if (!setup_.log_used) return;
  const std::uint32_t to_end = std::min<std::uint32_t>(slots, setup_.size - first.index);
  view_.wrote(slot(first.index), to_end * sizeof(PackedDesc));
  view_.wrote(descriptors_, (slots - to_end) * sizeof(PackedDesc));
  view_.log_writes();
}

Notify PackedRing::publish() {
  if (next_used_ == shown_used_) return Notify::no;
  view_.log_writes();
  inflight_.prepare(next_used_);
  const PackedPosition first = std::exchange(shown_used_, next_used_);
  const std::uint32_t shown = next_used_.ahead_of(first, setup_.size);
  store_release_u64(slot(first.index) + PackedDesc::tail_at, first_used_);
  inflight_.commit();
  slots_held_ -= shown;
  if (view_.logged()) log_shown(first, shown);
  full_barrier();  // the burst is visible before we look whether the driver wants to be called

  const std::uint32_t event = load_relaxed_u32(driver_event_);
  const auto flags = static_cast<std::uint16_t>(event >> 16);
  if (flags != event_at_position || !setup_.event_idx) {
    return flags == event_never ? Notify::no : Notify::yes;
  }
  // Is it among the slots that were shown (VIRTIO 2.8.10)?
  const auto wanted = PackedPosition::of(static_cast<std::uint16_t>(event));
  return wanted.ahead_of(first, setup_.size) < shown ? Notify::yes : Notify::no;
}

bool PackedRing::arm_kick() {
  if (broken_) return false;  // its areas may be gone
  std::uint32_t event = event_always << 16;
  if (setup_.event_idx) event = next_avail_.bits() | std::uint32_t{event_at_position} << 16;
  ask_for_kicks(event);
  full_barrier();                   // the request is visible before the last look
  if (view_.waits()) return false;  // a kick comes with the translation
  return !owed_.empty() || has_next();
}

void PackedRing::disarm_kick() {
  if (broken_) return;
  ask_for_kicks(std::uint32_t{event_never} << 16);
}

void PackedRing::ask_for_kicks(std::uint32_t event) {
  store_relaxed_u32(device_event_, event);
  if (!view_.logged() || !setup_.log_used) return;
  // The address in SET_VRING_ADDR is that of this area; the descriptors have none of their own.
  if (setup_.iova) {
    view_.wrote(device_event_, sizeof event);
  } else {
    view_.wrote_at(setup_.log_address, sizeof event);
  }
  view_.log_writes();
}

}  // namespace vhost
