#include "libvhost/memory/iotlb.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

namespace vhost {

/// The table as its one writer sees it: no worker looks on.
class Iotlb::Writing {
 public:
  explicit Writing(Iotlb& iotlb) : iotlb_(iotlb) {
    for (const auto& ring : iotlb_.rings_) {
      if (ring) ring->lock.lock();
    }
  }
  ~Writing() {
    for (const auto& ring : iotlb_.rings_) {
      if (ring) ring->lock.unlock();
    }
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

 private:
  Iotlb& iotlb_;
};

Result<std::shared_ptr<Iotlb>> Iotlb::create(std::uint16_t rings) {
  UniqueFd wanted(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wanted) return fail_errno(Fault::host, "cannot make an eventfd");
  return std::shared_ptr<Iotlb>(new Iotlb(std::move(wanted), rings));
}

Iotlb::Place Iotlb::find(GuestAddress address) const {
  const auto next = places_.upper_bound(std::to_underlying(address));
  if (next == places_.begin()) return {};
  const auto& [first, held] = *std::prev(next);
  if (std::to_underlying(address) - first >= held.bytes) return {};
  return {first, held.bytes, held.begin, held.access};
}

bool Iotlb::has(const Miss& miss) const {
  const Place place = find(miss.address);
  return place.bytes != 0 && permits(place.access, miss.access);
}

bool Iotlb::want(Ledger& ledger, const Miss& miss) {
  const bool told = ledger.wants_any();
  if (!ledger.want(miss)) return false;
  if (!told) notify();
  return true;
}

void Iotlb::notify() const {
  const std::uint64_t one = 1;
  (void)!::write(wanted_fd_.get(), &one, sizeof one);  // full is as good as signalled
}

std::vector<Iotlb::Wanted> Iotlb::take_wanted() {
  std::uint64_t count = 0;
  (void)!::read(wanted_fd_.get(), &count, sizeof count);
  std::vector<Wanted> all;
  for (std::uint16_t ring = 0; ring < rings_.size(); ++ring) {
    if (!rings_[ring]) continue;
    const std::lock_guard guard(rings_[ring]->lock);
    if (auto misses = rings_[ring]->take_wanted(); !misses.empty()) {
      all.push_back({ring, std::move(misses)});
    }
  }
  return all;
}

void Iotlb::join(std::uint16_t ring, std::shared_ptr<Ledger> ledger) {
  rings_[ring] = std::move(ledger);
}

void Iotlb::move_to(const MemoryMap& memory) {
  const Writing writing(*this);
  memory_ = memory.translated_by(nullptr);
  for (auto at = places_.begin(); at != places_.end();) {
    Held& held = at->second;
    held.begin = memory_.at(held.frontend, held.bytes).data();
    at = held.begin == nullptr ? places_.erase(at) : std::next(at);
  }
  ++version_;
}

/// Takes a range out of the table; what of an entry lies on either side stays.
void Iotlb::cut(std::uint64_t first, std::uint64_t last) {
  auto at = places_.upper_bound(first);
  if (at != places_.begin()) --at;
  while (at != places_.end() && at->first <= last) {
    const auto [begin, held] = *at;
    const std::uint64_t end = begin + (held.bytes - 1);
    if (end < first) {
      ++at;
      continue;
    }
    ++version_;
    at = places_.erase(at);
    const auto part = [&, begin = begin, held = held](std::uint64_t from, std::uint64_t to) {
      const std::uint64_t skip = from - begin;
      return Held{to - from + 1, FrontendAddress{std::to_underlying(held.frontend) + skip},
                  held.begin + skip, held.access};
    };
    if (begin < first) places_.emplace(begin, part(begin, first - 1));
    if (end > last) places_.emplace(last + 1, part(last + 1, end));
  }
}

/// Adds what lies in one place, where nothing is, and makes it one with its neighbours.
void Iotlb::put(std::uint64_t first, const Held& held) {
  const auto follows = [](const Places::value_type& one, const Places::value_type& other) {
    const Held& a = one.second;
    const Held& b = other.second;
    return one.first + a.bytes == other.first && a.begin + a.bytes == b.begin &&
           a.access == b.access &&
           std::to_underlying(a.frontend) + a.bytes == std::to_underlying(b.frontend);
  };
  auto at = places_.emplace(first, held).first;
  if (const auto next = std::next(at); next != places_.end() && follows(*at, *next)) {
    at->second.bytes += next->second.bytes;
    places_.erase(next);
  }
  if (at != places_.begin() && follows(*std::prev(at), *at)) {
    std::prev(at)->second.bytes += at->second.bytes;
    places_.erase(at);
  }
}

Result<void> Iotlb::add(const Entry& entry) {
  const std::uint64_t first = std::to_underlying(entry.start);
  const std::uint64_t last = first + (entry.bytes - 1);
  if (entry.bytes == 0 || last < first) {
    return fail(Fault::front_end, "an IOTLB entry of " + std::to_string(entry.bytes) +
                                      " bytes is empty or wraps its address space");
  }
  if (entry.access == Access::none) return fail(Fault::front_end, "an IOTLB entry permits nothing");
  std::vector<std::span<std::byte>> pieces;
  for (std::uint64_t have = 0; have < entry.bytes; have += pieces.back().size()) {
    const FrontendAddress from{std::to_underlying(entry.frontend) + have};
    pieces.push_back(memory_.prefix_at(from, entry.bytes - have));
    if (pieces.back().empty()) {
      return fail(Fault::front_end, "an IOTLB entry is not in the shared memory");
    }
  }
  const Writing writing(*this);
  cut(first, last);
  if (places_.size() + pieces.size() > most_entries) {
    forget_all();
    ++overflows_;
  }
  std::uint64_t offset = 0;
  for (const auto piece : pieces) {
    const FrontendAddress from{std::to_underlying(entry.frontend) + offset};
    put(first + offset, {piece.size(), from, piece.data(), entry.access});
    offset += piece.size();
  }
  for (const auto& ring : rings_) {
    if (ring) ring->forgive(first, last);
  }
  generation_.fetch_add(1, std::memory_order_release);
  return {};
}

void Iotlb::refuse(std::uint16_t ring, const Miss& miss) {
  if (!rings_[ring]) return;
  const std::lock_guard guard(rings_[ring]->lock);
  rings_[ring]->refuse(miss);
  generation_.fetch_add(1, std::memory_order_release);
}

std::vector<std::uint16_t> Iotlb::remove(GuestAddress start, std::uint64_t bytes) {
  const std::uint64_t first = std::to_underlying(start);
  const std::uint64_t to_end = UINT64_MAX - first;
  const std::uint64_t last = bytes - 1 > to_end ? UINT64_MAX : first + (bytes - 1);
  const Writing writing(*this);
  cut(first, last);
  std::vector<std::uint16_t> busy;
  for (std::uint16_t ring = 0; ring < rings_.size(); ++ring) {
    if (rings_[ring] && rings_[ring]->uses(first, last)) busy.push_back(ring);
  }
  return busy;
}

void Iotlb::forget_all() {
  places_.clear();
  ++version_;
}

void Iotlb::clear() {
  const Writing writing(*this);
  forget_all();
}

bool Iotlb::lost() const {
  return std::ranges::any_of(rings_, [](const std::shared_ptr<Ledger>& ring) {
    if (!ring) return false;
    const std::lock_guard guard(ring->lock);
    return ring->lost();
  });
}

}  // namespace vhost
