#include "libvhost/memory/iotlb.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

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

Iotlb::Found Iotlb::find(GuestAddress address, std::uint64_t length, Access access,
                         std::span<std::byte>& bytes) const {
  const std::uint64_t wanted = std::to_underlying(address);
  auto next = places_.upper_bound(wanted);
  if (next == places_.begin()) return Found::missing;
  const auto& [start, place] = *std::prev(next);
  const std::uint64_t offset = wanted - start;
  if (offset >= place.bytes) return Found::missing;
  if (place.begin == nullptr) return Found::refused;
  if (!permits(place.access, access)) return Found::missing;
  std::uint64_t have = place.bytes - offset;
  // Neighbours in both address spaces are one piece.
  for (; have < length && next != places_.end(); ++next) {
    const Place& follower = next->second;
    if (next->first != wanted + have || follower.begin != place.begin + offset + have) break;
    if (!permits(follower.access, access)) break;
    have += follower.bytes;
  }
  bytes = {place.begin + offset, std::min(have, length)};
  return Found::here;
}

void Iotlb::want(const Miss& miss) {
  {
    const std::lock_guard guard(wanted_lock_);
    wanted_.push_back(miss);
  }
  const std::uint64_t one = 1;
  (void)::write(wanted_fd_.get(), &one, sizeof one);  // full is as good as signalled
}

std::vector<Iotlb::Miss> Iotlb::take_wanted() {
  std::uint64_t count = 0;
  (void)::read(wanted_fd_.get(), &count, sizeof count);
  const std::lock_guard guard(wanted_lock_);
  return std::exchange(wanted_, {});
}

void Iotlb::join(std::uint16_t ring, std::shared_ptr<Ledger> ledger) {
  rings_[ring] = std::move(ledger);
}

void Iotlb::move_to(std::shared_ptr<const MemoryMap> memory) {
  const Writing writing(*this);
  memory_ = std::move(memory);
  for (auto at = places_.begin(); at != places_.end();) {
    Place& place = at->second;
    if (place.begin != nullptr) place.begin = memory_->at(place.frontend, place.bytes).data();
    at = place.begin == nullptr ? places_.erase(at) : std::next(at);
  }
}

/// Takes a range out of the table; what of an entry lies on either side stays.
void Iotlb::cut(std::uint64_t start, std::uint64_t bytes) {
  const std::uint64_t last = start + (bytes - 1);
  auto at = places_.upper_bound(start);
  if (at != places_.begin()) --at;
  while (at != places_.end() && at->first <= last) {
    const auto [first, place] = *at;
    const std::uint64_t end = first + (place.bytes - 1);
    if (end < start) {
      ++at;
      continue;
    }
    at = places_.erase(at);
    const auto part = [&, first = first, place = place](std::uint64_t from, std::uint64_t to) {
      const std::uint64_t skip = from - first;
      return Place{to - from + 1, FrontendAddress{std::to_underlying(place.frontend) + skip},
                   place.begin == nullptr ? nullptr : place.begin + skip, place.access};
    };
    if (first < start) places_.emplace(first, part(first, start - 1));
    if (end > last) places_.emplace(last + 1, part(last + 1, end));
  }
}

Result<void> Iotlb::add(const Entry& entry) {
  const std::uint64_t start = std::to_underlying(entry.start);
  if (entry.bytes == 0 || start + (entry.bytes - 1) < start) {
    return fail(Fault::front_end, "an IOTLB entry of " + std::to_string(entry.bytes) +
                                      " bytes that is empty or wraps its address space");
  }
  const auto bytes = memory_->at(entry.frontend, entry.bytes);
  if (bytes.empty()) {
    return fail(Fault::front_end, "an IOTLB entry whose bytes are not in one memory region");
  }
  const Writing writing(*this);
  cut(start, entry.bytes);
  if (places_.size() >= most_entries) places_.clear();
  places_.emplace(start, Place{entry.bytes, entry.frontend, bytes.data(), entry.access});
  generation_.fetch_add(1, std::memory_order_release);
  return {};
}

void Iotlb::refuse(const Miss& miss) {
  const Writing writing(*this);
  const std::uint64_t start = std::to_underlying(miss.address);
  cut(start, 1);
  if (places_.size() >= most_entries) places_.clear();
  places_.emplace(start, Place{1, {}, nullptr, Access::none});
  generation_.fetch_add(1, std::memory_order_release);
}

std::vector<std::uint16_t> Iotlb::remove(GuestAddress start, std::uint64_t bytes) {
  const Writing writing(*this);
  std::vector<std::uint16_t> busy;
  if (bytes == 0) return busy;
  // An invalidation of everything may reach beyond the end, or say that it does.
  const std::uint64_t to_end = UINT64_MAX - std::to_underlying(start);
  const std::uint64_t length = bytes - 1 > to_end ? to_end : bytes - 1;
  cut(std::to_underlying(start), length + 1);
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    if (rings_[i] && rings_[i]->uses(start, bytes)) busy.push_back(static_cast<std::uint16_t>(i));
  }
  return busy;
}

}  // namespace vhost
