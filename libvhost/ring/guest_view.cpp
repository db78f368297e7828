#include "libvhost/ring/guest_view.hpp"

#include <cstring>

namespace vhost {
namespace {

/// Chains that are looked ahead at after a translation was missing.
constexpr std::uint32_t stays_cold_for = 4096;

}  // namespace

GuestView::GuestView(const RingSetup& setup)
    : iova_(setup.iova),
      size_(setup.size),
      ledger_(setup.ledger ? setup.ledger : std::make_shared<Ledger>()) {}

void GuestView::move_to(std::shared_ptr<const MemoryMap> memory) {
  marks_.move_to(memory->log().get());  // while the log of the last one is still there
  memory_ = std::move(memory);
  iotlb_ = memory_->iotlb().get();
  log_ = memory_->log().get();
  hint_ = {};
  log_hint_ = {};
  waiting_ = false;
  tracked_ = iotlb_ != nullptr || log_ != nullptr;
  known_.assign(iotlb_ != nullptr ? pages_known : 0, {});
  gathered_.clear();
  const Reading reading = hold();
  if (tracked_) ledger_->open(size_);
  ledger_->unpin();
}

std::span<std::byte> GuestView::area(FrontendAddress address, std::uint64_t bytes, Access access) {
  if (!iova_) return memory_->at(address, bytes);
  if (iotlb_ == nullptr) return {};
  const Reading reading = hold();
  const GuestAddress start{std::to_underlying(address)};
  std::vector<std::span<std::byte>> pieces;
  for (std::uint64_t have = 0; have < bytes; have += pieces.back().size()) {
    pieces.push_back(translate(start + have, bytes - have, access));
    if (!pieces.back().empty()) continue;
    if (missed_) (void)expect(start + have, bytes - have, access);
    return {};
  }
  if (pieces.size() > 1) return gather(start, pieces);
  ledger_->pin({start, pieces.front().data(), static_cast<std::uint32_t>(bytes), true});
  return pieces.front();
}

/// An area that lies in several places, as drivers get them from the pages of their IOMMU.
std::span<std::byte> GuestView::gather(GuestAddress start,
                                       std::span<const std::span<std::byte>> pieces) {
  auto mapping = Mapping::gather(pieces);
  if (!mapping) return {};
  const auto area = mapping->bytes();
  std::size_t offset = 0;
  for (const auto piece : pieces) {
    gathered_.push_back({area.subspan(offset, piece.size()), piece.data()});
    offset += piece.size();
  }
  ledger_->pin({start, area.data(), static_cast<std::uint32_t>(area.size()), true},
               std::move(*mapping));
  return area;
}

std::span<std::byte> GuestView::look_up(GuestAddress address, std::uint64_t length, Access access) {
  const std::uint64_t at = std::to_underlying(address);
  // Read before the table: what comes in between ends the waiting.
  const std::uint64_t generation = iotlb_->generation();
  const Iotlb::Place place = iotlb_->find(address);
  if (place.bytes != 0 && permits(place.access, access)) {
    known_[at / smallest_page_bytes % pages_known] = {iotlb_->version(), place};
    const std::uint64_t offset = at - place.first;
    return {place.begin + offset, std::min(length, place.bytes - offset)};
  }
  cold_ = stays_cold_for;
  const bool asked = iotlb_->want(*ledger_, {address, access});
  if (expecting_) return {};
  missed_ = waiting_ = asked;
  if (!asked) return {};
  waited_generation_ = generation;
  ledger_->waiting.store(true, std::memory_order_release);
  return {};
}

bool GuestView::expect(GuestAddress address, std::uint64_t length, Access access) {
  const Expecting expecting(*this);
  while (length > 0 && !ledger_->wants_much()) {
    std::uint64_t step = translate(address, length, access).size();
    // Pages may be larger than this, and then the first answer is one for all.
    if (step == 0) step = smallest_page_bytes - std::to_underlying(address) % smallest_page_bytes;
    if (step >= length) return true;
    address = address + step;
    length -= step;
  }
  return length == 0;
}

bool GuestView::copy_from(GuestAddress address, std::span<std::byte> to) {
  while (!to.empty()) {
    const auto piece = prefix(address, to.size(), Access::read);
    if (piece.empty()) return false;
    std::memcpy(to.data(), piece.data(), piece.size());
    address = address + piece.size();
    to = to.subspan(piece.size());
  }
  return true;
}

/// Not inline: what comes with it would keep give_back() from being so.
void GuestView::wrote_chain(std::uint16_t head, std::uint32_t touched_bytes) {
  ledger_->show(head, [this, left = touched_bytes](const Ledger::Piece& piece) mutable {
    if (!piece.writable) return;
    const std::uint32_t here = std::min(piece.bytes, left);
    // Without an IOMMU it is the very address that the driver named.
    marks_.add(iotlb_ == nullptr ? std::to_underlying(piece.address)
                                 : memory_->guest_physical(piece.begin, log_hint_),
               here);
    left -= here;
  });
}

void GuestView::wrote(const std::byte* at, std::uint64_t bytes) {
  if (log_ == nullptr) return;
  for (const Gathered& piece : gathered_) {
    const std::byte* const begin = std::max<const std::byte*>(at, piece.here.data());
    const std::byte* const end =
        std::min<const std::byte*>(at + bytes, piece.here.data() + piece.here.size());
    if (begin >= end) continue;
    mark(piece.memory + (begin - piece.here.data()), static_cast<std::uint64_t>(end - begin));
  }
  mark(at, bytes);
}

void GuestView::wrote_at(std::uint64_t guest_physical, std::uint64_t bytes) {
  marks_.add(guest_physical, bytes);
}

}  // namespace vhost
