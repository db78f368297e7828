#include "libvhost/memory/ledger.hpp"

#include <algorithm>

namespace vhost {

void Ledger::keep(std::uint16_t head) {
  Chain& chain = chains_[head];
  chain.first = noted_.empty() ? Piece{} : noted_.front();
  chain.rest.assign(noted_.begin() + (noted_.empty() ? 0 : 1), noted_.end());
  noted_.clear();
}

bool Ledger::uses(GuestAddress start, std::uint64_t bytes) const {
  const auto within = [&](const Piece& piece) {
    // Either begins in the other; neither sum is made, because it could wrap.
    const std::uint64_t behind = std::to_underlying(piece.address) - std::to_underlying(start);
    return piece.bytes != 0 && (behind < bytes || -behind < piece.bytes);
  };
  if (std::ranges::any_of(areas_, within)) return true;
  return std::ranges::any_of(chains_, [&](const Chain& chain) {
    return within(chain.first) || std::ranges::any_of(chain.rest, within);
  });
}

}  // namespace vhost
