#include "libvhost/memory/ledger.hpp"

#include <algorithm>

namespace vhost {

void Ledger::keep(std::uint16_t head) {
  const bool many = noted_.size() > 1;
  chains_[head].put(noted_.empty() ? Piece{} : noted_.front(), many);
  if (many) noted_.swap(pieces_[head]);
  noted_.clear();
  in_vain_ = 0;
}

bool Ledger::uses(std::uint64_t first, std::uint64_t last) const {
  const auto within = [&](const Piece& piece) {
    // Either begins in the other; no sum is made, because it could wrap.
    const std::uint64_t begin = std::to_underlying(piece.address);
    return piece.bytes != 0 && (begin - first <= last - first || first - begin < piece.bytes);
  };
  if (std::ranges::any_of(areas_, within)) return true;
  for (std::size_t head = 0; head < chains_.size(); ++head) {
    const Piece first_piece = chains_[head].first();
    if (first_piece.bytes == 0) continue;
    if (chains_[head].has_more() ? std::ranges::any_of(pieces_[head], within)
                                 : within(first_piece)) {
      return true;
    }
  }
  return false;
}

bool Ledger::lost() const {
  return std::ranges::any_of(gathered_, [](const Mapping& mapping) { return mapping.lost(); });
}

bool Ledger::want(const Miss& miss) {
  if (in_vain_ == most_in_vain || std::ranges::find(refused_, miss) != refused_.end()) return false;
  if (wants_much() || std::ranges::find(wanted_, miss) != wanted_.end()) return true;
  wanted_.push_back(miss);
  ++in_vain_;
  return true;
}

void Ledger::refuse(const Miss& miss) {
  if (refused_.size() == most_refused) refused_.erase(refused_.begin());
  refused_.push_back(miss);
}

void Ledger::forgive(std::uint64_t first, std::uint64_t last) {
  std::erase_if(refused_, [&](const Miss& miss) {
    return std::to_underlying(miss.address) - first <= last - first;
  });
}

}  // namespace vhost
