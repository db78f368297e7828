#include "libvhost/ring/guest_view.hpp"

#include <cstring>

namespace vhost {

GuestView::GuestView(const RingSetup& setup)
    : iova_(setup.iova),
      size_(setup.size),
      ledger_(setup.ledger ? setup.ledger : std::make_shared<Ledger>()) {}

void GuestView::move_to(std::shared_ptr<const MemoryMap> memory) {
  memory_ = std::move(memory);
  iotlb_ = memory_->iotlb().get();
  log_ = memory_->log().get();
  marks_.move_to(log_);
  hint_ = log_hint_ = {};
  waiting_ = false;
  tracked_ = iotlb_ != nullptr || log_ != nullptr;
  const Reading reading(*this);
  if (tracked_) ledger_->open(size_);
  ledger_->unpin();
}

std::span<std::byte> GuestView::area(FrontendAddress address, std::uint64_t bytes, Access access) {
  if (!iova_) return memory_->at(address, bytes);
  const Reading reading(*this);
  const GuestAddress start{std::to_underlying(address)};
  if (iotlb_ == nullptr) return {};
  const auto found = translate(start, bytes, access);
  if (found.size() != bytes) {
    if (!found.empty()) (void)translate(start + found.size(), bytes - found.size(), access);
    return {};
  }
  ledger_->pin({start, found.data(), static_cast<std::uint32_t>(bytes), false});
  return found;
}

std::span<std::byte> GuestView::translate(GuestAddress address, std::uint64_t length,
                                          Access access) {
  // Read before the table: what comes in between ends the waiting.
  const std::uint64_t generation = iotlb_->generation();
  std::span<std::byte> bytes;
  if (iotlb_->find(address, length, access, bytes) != Iotlb::Found::missing) {
    waiting_ = false;
    return bytes;
  }
  waiting_ = true;
  waited_generation_ = generation;
  ledger_->waiting.store(true, std::memory_order_release);
  iotlb_->want({address, access});
  return {};
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

void GuestView::settle_tracked() {
  std::unique_lock<std::mutex> hold;
  if (iotlb_ != nullptr) hold = std::unique_lock(ledger_->lock);
  ledger_->settle([this](const Ledger::Piece& piece) {
    if (piece.writable) wrote(piece.begin, piece.bytes);
  });
  log_writes();
}

void GuestView::wrote(const std::byte* at, std::uint64_t bytes) {
  if (log_ != nullptr) marks_.add(memory_->guest_physical(at, log_hint_), bytes);
}

void GuestView::wrote_at(std::uint64_t guest_physical, std::uint64_t bytes) {
  marks_.add(guest_physical, bytes);
}

}  // namespace vhost
