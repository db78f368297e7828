#include "libvhost/ring/split_ring.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

#include "libvhost/ring/barrier.hpp"
#include "libvhost/ring/fetch.hpp"

namespace vhost {
namespace {

/// Split layout: a descriptor names its successor, and the last one may name a table of its own
/// (VIRTIO 2.7.5.3), once.
class SplitSource {
 public:
  SplitSource(std::span<const std::byte> table, std::uint16_t head, GuestView& view,
              bool indirect_allowed)
      : view_(view),
        table_(table),
        entries_(table.size() / sizeof(SplitDesc)),
        index_(head),
        indirect_allowed_(indirect_allowed) {}

  Step next(Desc& out) {
    SplitDesc desc;
    if (!fetch(desc)) return Step::corrupt;
    if ((desc.flags & desc_indirect) != 0) {
      if (!enter(desc) || !fetch(desc) || (desc.flags & desc_indirect) != 0) return Step::corrupt;
    }
    out = {GuestAddress{desc.addr}, desc.length, (desc.flags & desc_write) != 0};
    index_ = desc.next;
    return (desc.flags & desc_next) != 0 ? Step::more : Step::last;
  }

 private:
  [[nodiscard]] bool fetch(SplitDesc& desc) {
    if (index_ >= entries_) return false;
    if (table_.empty()) return read_scattered(view_, scattered_, index_, desc);
    desc = read_once<SplitDesc>(table_.data() + index_ * sizeof(SplitDesc));
    return true;
  }

  /// Goes on in the table that `desc` refers to.
  [[nodiscard]] bool enter(const SplitDesc& desc) {
    if (!indirect_allowed_ || (desc.flags & desc_next) != 0) return false;
    if (desc.length == 0 || desc.length % sizeof(SplitDesc) != 0) return false;
    indirect_allowed_ = false;
    index_ = 0;
    entries_ = desc.length / sizeof(SplitDesc);
    scattered_ = GuestAddress{desc.addr};
    table_ = view_.prefix(scattered_, desc.length, Access::read);
    if (table_.size() < desc.length) table_ = {};
    return true;
  }

  GuestView& view_;
  std::span<const std::byte> table_;  // empty: the table is at `scattered_`, in several regions
  std::size_t entries_;
  GuestAddress scattered_{};
  std::uint16_t index_;
  bool indirect_allowed_;  // negotiated, and no table entered yet
};
static_assert(DescSource<SplitSource>);

}  // namespace

SplitRing::SplitRing(const RingSetup& setup, InflightSection inflight)
    : setup_(setup),
      layout_{setup.size},
      view_(setup),
      next_avail_(static_cast<std::uint16_t>(setup.base)),
      seen_avail_(next_avail_),
      head_in_flight_(setup.size),
      inflight_(std::move(inflight)) {}

Result<SplitRing> SplitRing::create(const RingSetup& setup, std::shared_ptr<const MemoryMap> memory,
                                    InflightSection inflight) {
  if (!std::has_single_bit(setup.size)) {
    return fail(Fault::front_end,
                "the size of a split ring is a power of two, not " + std::to_string(setup.size));
  }
  SplitRing ring(setup, std::move(inflight));
  if (!ring.move_to(std::move(memory))) {
    return fail(Fault::front_end, no_areas(setup));
  }
  ring.next_used_ = ring.shown_used_ = load_relaxed(ring.used_ + SplitLayout::idx_at);

  auto owed = ring.inflight_.recover(ring.next_used_);
  if (!owed) return std::unexpected(owed.error());
  if (auto& heads = *owed) {
    // The predecessor had taken these, and everything before them was given back. The front-end
    // may not know it: after a crash QEMU goes on from the used index, cloud-hypervisor from the
    // available one, which covers what nobody has seen yet.
    ring.next_avail_ = static_cast<std::uint16_t>(ring.next_used_ + heads->size());
    ring.seen_avail_ = ring.next_avail_;
    std::ranges::reverse(*heads);
    ring.owed_ = std::move(*heads);
  } else if (static_cast<std::uint16_t>(ring.next_avail_ - ring.next_used_) > setup.size) {
    // No base at all: behind what was used, or further ahead than the ring is long. DPDK's
    // virtio-user says 0 to the successor of a back-end that died, and means this.
    ring.next_avail_ = ring.next_used_;
    ring.seen_avail_ = ring.next_avail_;
  }
  ring.expected_ = ring.next_avail_;
  if (ring.view_.translated()) {
    const auto reading = ring.view_.hold();
    ring.expect_chains();
  }
  return ring;
}

bool SplitRing::move_to(std::shared_ptr<const MemoryMap> memory) {
  view_.move_to(std::move(memory));
  descriptors_ = view_.area(setup_.descriptors, layout_.descriptors_bytes(), Access::read);
  available_ =
      view_.area(setup_.available, layout_.available_bytes(setup_.event_idx), Access::read).data();
  used_ = view_.area(setup_.used, layout_.used_bytes(setup_.event_idx), Access::both).data();
  if (descriptors_.empty() || !holds_numbers(available_, 2) || !holds_numbers(used_, 2))
    leave_memory();
  return !broken_;
}

/// Breaks the ring and lets its verbs write where nobody looks: the device may still give back
/// what is in flight, and needs no check for that.
void SplitRing::leave_memory() {
  (void)broken();
  const std::size_t bytes = layout_.available_bytes(true) + layout_.used_bytes(true);
  nowhere_ = std::make_shared<std::vector<std::uint32_t>>(bytes / sizeof(std::uint32_t) + 1);
  descriptors_ = {};
  used_ = std::as_writable_bytes(std::span(*nowhere_)).data();
  available_ = used_ + layout_.used_bytes(true);
}

Pop SplitRing::broken() {
  broken_ = true;
  seen_avail_ = next_avail_;
  return Pop::broken;
}

/// The acquire makes the entries and descriptors behind the index visible.
std::uint16_t SplitRing::available_index() const {
  return load_acquire(available_ + SplitLayout::idx_at);
}

/// Reads the available index. False: a driver cannot have offered more than the ring holds.
bool SplitRing::see_available() {
  seen_avail_ = available_index();
  return static_cast<std::uint16_t>(seen_avail_ - next_avail_) <= layout_.size;
}

/// Whether there are chains of the driver's, by a new look at the index. What is wrong with it is
/// left to pop().
bool SplitRing::see_more() {
  if (broken_ || !owed_.empty()) return false;
  if (!see_available()) seen_avail_ = next_avail_;
  return seen_avail_ != next_avail_;
}

/// Asks for the translations of chains that were not popped yet, each once. While a Reading
/// holds.
void SplitRing::expect_chains() {
  const auto ahead = [this](std::uint16_t index) {
    return static_cast<std::uint16_t>(index - next_avail_);
  };
  const std::uint16_t offered = ahead(available_index());
  if (offered > layout_.size) return;  // pop() will say so
  if (ahead(expected_) > offered) expected_ = next_avail_;
  const auto most = std::min<std::uint16_t>(offered, most_expected);
  for (; ahead(expected_) < most && !view_.asks_no_more(); ++expected_) {
    const std::size_t slot = expected_ & (layout_.size - 1u);
    const std::uint16_t head = load_relaxed(available_ + SplitLayout::entries_at + slot * 2);
    SplitSource source(descriptors_, head, view_, setup_.indirect);
    (void)expect_chain(source, view_, layout_.size);
  }
}

/// What is read here only says what to fetch: pop() reads it again, and checks it.
void SplitRing::look_ahead(std::uint16_t chains) {
  if (view_.is_cold() && !broken_) {
    const auto reading = view_.hold();
    expect_chains();
  }
  if (next_avail_ == seen_avail_ && !see_more()) return;
  const auto ahead = std::min(chains, static_cast<std::uint16_t>(seen_avail_ - next_avail_));
  for (std::uint16_t i = 0; i < ahead; ++i) {
    const std::size_t slot = static_cast<std::uint16_t>(next_avail_ + i) & (layout_.size - 1u);
    const std::uint16_t head = load_relaxed(available_ + SplitLayout::entries_at + slot * 2);
    // An address outside the table would do no harm, but the sum must not leave the object.
    fetch(descriptors_.data() + (head & (layout_.size - 1u)) * sizeof(SplitDesc));
  }
  // As many will be pushed, and stores that wait for their lines hold up everything behind them.
  constexpr std::uint16_t in_line = cache_line / sizeof(UsedElem);
  for (std::uint16_t i = 0; i < ahead; i = static_cast<std::uint16_t>(i + in_line)) {
    const std::size_t slot = static_cast<std::uint16_t>(next_used_ + i) & (layout_.size - 1u);
    fetch_to_write(used_ + SplitLayout::entries_at + slot * sizeof(UsedElem));
  }
}

Pop SplitRing::pop(Chain& chain, Reading& reading) {
  if (next_avail_ == seen_avail_) {  // always so where the ring is broken, or owes chains
    if (broken_) return Pop::broken;
    if (!owed_.empty()) return pop_owed(chain, reading);
    if (!see_available()) return broken();
    if (seen_avail_ == next_avail_) return Pop::empty;
  }
  const std::size_t slot = next_avail_ & (layout_.size - 1u);
  const std::uint16_t head = load_relaxed(available_ + SplitLayout::entries_at + slot * 2);
  if (head >= layout_.size || head_in_flight_[head] != Origin::not_in_flight) return broken();

  const Pop pop = read(head, chain, reading);
  if (pop != Pop::ready) return pop;
  ++next_avail_;
  inflight_.take(head);
  return Pop::ready;
}

/// The oldest chain that a predecessor had taken, as the inflight section says: the front-end can
/// write there, and the section may be for longer rings than this one.
Pop SplitRing::pop_owed(Chain& chain, Reading& reading) {
  const std::uint16_t head = owed_.back();
  if (head >= layout_.size) return broken();
  const Pop pop = read(head, chain, reading);
  if (pop != Pop::ready) return pop;
  head_in_flight_[head] = Origin::owed;
  owed_.pop_back();
  return Pop::ready;
}

/// The chain of a head that lies in the table.
Pop SplitRing::read(std::uint16_t head, Chain& chain, Reading& reading) {
  if (view_.waits()) return Pop::empty;
  reading.hold();
  const SplitSource source(descriptors_, head, view_, setup_.indirect);
  switch (read_chain(source, view_, setup_.most_descriptors(), chain)) {
    case ReadChain::ready: break;
    case ReadChain::waits: expect_chains(); return Pop::empty;
    case ReadChain::corrupt: return broken();
    case ReadChain::no_room:
      // Buffers that cross more boundaries than most_pieces() counts.
      return chain.room() < longest_chain() ? Pop::no_room : broken();
  }
  view_.keep(head);
  chain.head = head;
  head_in_flight_[head] = Origin::available;
  ++in_flight_;
  return Pop::ready;
}

void SplitRing::unpop(std::uint16_t head) {
  assert(head < layout_.size && head_in_flight_[head] != Origin::not_in_flight);
  if (head_in_flight_[head] == Origin::owed) {
    owed_.push_back(head);  // still marked as in flight; there was room for it before
    seen_avail_ = next_avail_;
  } else {
    // The next pop reads the index again, and checks it against where we now are.
    seen_avail_ = --next_avail_;
    inflight_.put_back(head);
  }
  head_in_flight_[head] = Origin::not_in_flight;
  --in_flight_;
  view_.take_back(head);
}

/// What the device did for them so far it may have written: the log is told.
void SplitRing::leave() {
  assert(next_used_ == shown_used_);
  for (std::uint16_t head = 0; head < layout_.size; ++head) {
    if (head_in_flight_[head] == Origin::not_in_flight) continue;
    head_in_flight_[head] = Origin::not_in_flight;
    --in_flight_;
    view_.give_back(head, everywhere);
  }
  view_.log_writes();
}

/// Bytes of the used ring were written.
void SplitRing::log_used(std::size_t offset, std::size_t bytes) {
  if (setup_.iova) {
    view_.wrote(used_ + offset, bytes);
  } else {
    view_.wrote_at(setup_.log_address + offset, bytes);
  }
}

/// So were the used elements from `first` on, and the index behind them.
void SplitRing::log_shown(std::uint16_t first) {
  if (!setup_.log_used) return;
  const std::uint32_t shown = static_cast<std::uint16_t>(shown_used_ - first);
  const std::uint32_t slot = first & (layout_.size - 1u);
  const std::uint32_t to_end = std::min<std::uint32_t>(shown, layout_.size - slot);
  log_used(SplitLayout::entries_at + slot * sizeof(UsedElem), to_end * sizeof(UsedElem));
  log_used(SplitLayout::entries_at, (shown - to_end) * sizeof(UsedElem));
  log_used(SplitLayout::idx_at, sizeof(std::uint16_t));
  view_.log_writes();
}

Notify SplitRing::publish() {
  const std::uint16_t before = shown_used_;
  shown_used_ = next_used_;
  if (before == shown_used_) return Notify::no;
  view_.log_writes();
  store_release(used_ + SplitLayout::idx_at, shown_used_);
  if (view_.logged()) log_shown(before);
  inflight_.commit(shown_used_);
  full_barrier();  // the index is visible before we look whether the driver wants to be called

  if (!setup_.event_idx) {
    const std::uint16_t flags = load_relaxed(available_ + SplitLayout::flags_at);
    return (flags & avail_no_interrupt) != 0 ? Notify::no : Notify::yes;
  }
  const std::uint16_t event = load_relaxed(available_ + layout_.used_event_at());
  return passed_event(event, shown_used_, before) ? Notify::yes : Notify::no;
}

bool SplitRing::arm_kick() {
  if (broken_) return false;  // its areas may be gone
  ask_for_kicks(next_avail_, 0);
  full_barrier();                   // the request is visible before the last look
  if (view_.waits()) return false;  // a kick comes with the translation
  // pop() reads the index again, and checks it.
  return !owed_.empty() || available_index() != next_avail_;
}

/// At the entry `event` with EVENT_IDX, otherwise as `flags` say.
void SplitRing::ask_for_kicks(std::uint16_t event, std::uint16_t flags) {
  const std::size_t at = setup_.event_idx ? layout_.avail_event_at() : SplitLayout::flags_at;
  store_relaxed(used_ + at, setup_.event_idx ? event : flags);
  if (!view_.logged() || !setup_.log_used) return;
  log_used(at, sizeof(std::uint16_t));
  view_.log_writes();
}

void SplitRing::disarm_kick() {
  if (broken_) return;
  // With EVENT_IDX the driver kicks when it passes this entry. It has passed it already, and comes
  // to it again only after 2^16 more.
  ask_for_kicks(static_cast<std::uint16_t>(next_avail_ - 1), used_no_notify);
}

}  // namespace vhost
