#include "backends/net/forwarding/mac_table.hpp"

#include <rte_errno.h>
#include <rte_hash.h>
#include <sys/random.h>

#include <cassert>
#include <limits>
#include <string>

#include "common/spin.hpp"

namespace net {
namespace {

/// Of all ports together; what EAL needs for it is some 60 bytes each.
constexpr std::uint32_t most_stations = 1U << 20;
constexpr std::uint64_t group_bit = 1;  // the first bit on the wire
constexpr std::uint64_t mac_bits = (std::uint64_t{1} << 48) - 1;

std::uint32_t seconds(std::uint64_t ns) {
  return static_cast<std::uint32_t>(ns / 1'000'000'000);
}

/// Who was heard where and when, never 0.
std::uint64_t heard_on(PortId port, std::uint32_t second) {
  return (std::uint64_t{std::to_underlying(port)} + 1) << 32 | second;
}
PortId port_of(std::uint64_t heard) {
  return PortId{static_cast<std::uint16_t>((heard >> 32) - 1)};
}
std::uint32_t second_of(std::uint64_t heard) {
  return static_cast<std::uint32_t>(heard);
}

/// A name that no other hash table of this process has.
std::string fresh_name() {
  static std::atomic<unsigned> tables = 0;
  return "stations" + std::to_string(tables.fetch_add(1));
}

}  // namespace

auto MacTable::create(const Limits& limits) -> vhost::Result<std::unique_ptr<MacTable>> {
  const std::uint64_t stations = std::uint64_t{limits.ports} * limits.stations_per_port;
  if (stations == 0 || stations > most_stations) {
    return vhost::fail(vhost::Fault::operator_, std::to_string(limits.ports) + " ports with " +
                                                    std::to_string(limits.stations_per_port) +
                                                    " learned addresses each: let it be 1 to " +
                                                    std::to_string(most_stations) + " in all");
  }
  std::uint64_t secret = 0;
  if (::getrandom(&secret, sizeof secret, 0) != sizeof secret) {
    return vhost::fail_errno(vhost::Fault::host, "getrandom");
  }
  const std::string name = fresh_name();
  rte_hash_parameters parameters{};
  parameters.name = name.c_str();
  // Twice the room: for those whose positions are not freed yet, and so that no bucket is ever too
  // full to add a key.
  parameters.entries = static_cast<std::uint32_t>(std::max<std::uint64_t>(64, 2 * stations));
  parameters.key_len = sizeof(StationKey);
  parameters.socket_id = SOCKET_ID_ANY;
  parameters.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF;
  rte_hash* const hash = rte_hash_create(&parameters);
  if (hash == nullptr) {
    return vhost::fail_errno(vhost::Fault::host, "no memory of DPDK for the table of addresses",
                             rte_errno);
  }
  return std::unique_ptr<MacTable>(new MacTable(limits, hash, secret));
}

MacTable::MacTable(const Limits& limits, rte_hash* hash, std::uint64_t secret)
    : limits_(limits),
      hash_(hash),
      secret_(secret),
      place_count_(static_cast<std::uint32_t>(rte_hash_max_key_id(hash)) + 1),
      places_(std::make_unique<Place[]>(place_count_)),
      shares_(limits.ports),
      turns_(limits.workers),
      second_(seconds(common::now_ns())),
      turns_then_(limits.workers) {}

MacTable::~MacTable() {
  rte_hash_free(hash_);
}

std::uint32_t MacTable::hash_of(StationKey key) const {
  std::uint64_t mixed = (std::to_underlying(key) ^ secret_) * 0x9e37'79b9'7f4a'7c15;
  mixed = (mixed ^ mixed >> 29) * (secret_ | 1);
  return static_cast<std::uint32_t>(mixed >> 32);
}

auto MacTable::place_of(StationKey key) const -> Place* {
  const std::int32_t position = rte_hash_lookup_with_hash(hash_, &key, hash_of(key));
  return position < 0 ? nullptr : &places_[static_cast<std::uint32_t>(position)];
}

std::optional<PortId> MacTable::find(StationKey key) const {
  const Place* const place = place_of(key);
  if (place == nullptr) return {};
  const std::uint64_t heard = place->heard.load(std::memory_order_acquire);
  if (heard == 0) return {};
  return port_of(heard);
}

void MacTable::hear(StationKey key, PortId port) {
  const std::uint64_t mac = std::to_underlying(key) & mac_bits;
  if (mac == 0 || (mac & group_bit) != 0) return;
  Place* const place = place_of(key);
  if (place == nullptr || !hear_again(*place, port)) add(key, port);
}

/// False: the station is not known any more, or not yet.
bool MacTable::hear_again(Place& place, PortId port) {
  std::uint64_t heard = place.heard.load(std::memory_order_acquire);
  while (heard != 0) {
    const std::uint64_t now = heard_on(port, second());
    if (heard == now) return true;
    const PortId before = port_of(heard);
    if (before != port && !take_share(port)) return true;
    if (place.heard.compare_exchange_weak(heard, now, std::memory_order_acq_rel)) {
      if (before != port) {
        give_back_share(before);
        changed();
      }
      return true;
    }
    if (before != port) give_back_share(port);
  }
  return false;
}

/// Without waiting: if another adds just now, a later frame of the station will do.
void MacTable::add(StationKey key, PortId port) {
  const std::unique_lock lock(writers_, std::try_to_lock);
  if (!lock || !take_share(port)) return;
  const std::int32_t position = rte_hash_add_key_with_hash(hash_, &key, hash_of(key));
  Place* const place = position < 0 ? nullptr : &places_[static_cast<std::uint32_t>(position)];
  if (place == nullptr || place->heard.load(std::memory_order_relaxed) != 0) {
    // No room, or another worker was faster.
    give_back_share(port);
    if (place != nullptr) (void)hear_again(*place, port);
    return;
  }
  place->key.store(std::to_underlying(key), std::memory_order_relaxed);
  place->heard.store(heard_on(port, second()), std::memory_order_release);
  changed();
}

bool MacTable::take_share(PortId port) {
  PortShare& share = shares_[std::to_underlying(port)];
  std::uint32_t stations = share.stations.load(std::memory_order_relaxed);
  do {
    if (stations >= limits_.stations_per_port) {
      share.not_learned.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
  } while (
      !share.stations.compare_exchange_weak(stations, stations + 1, std::memory_order_relaxed));
  return true;
}

void MacTable::give_back_share(PortId port) {
  shares_[std::to_underlying(port)].stations.fetch_sub(1, std::memory_order_relaxed);
}

void MacTable::age(std::uint64_t now_ns) {
  const std::uint32_t now = seconds(now_ns);
  second_.store(now, std::memory_order_relaxed);
  if (!free_positions()) return;
  forget_if([&](std::uint64_t heard) { return now - second_of(heard) > limits_.ageing_s; });
}

void MacTable::forget(PortId port) {
  (void)free_positions();
  forget_if([&](std::uint64_t heard) { return port_of(heard) == port; });
  shares_[std::to_underlying(port)].not_learned.store(0, std::memory_order_relaxed);
  // Also where there was none: a worker may remember an address that was never learned.
  changed();
}

/// Deletes keys, and notes the turns after which their positions may be used again.
template <class Condition>
void MacTable::forget_if(Condition condition) {
  for (std::uint32_t position = 0; position < place_count_; ++position) {
    Place& place = places_[position];
    const std::uint64_t heard = place.heard.load(std::memory_order_acquire);
    if (heard != 0 && condition(heard)) forget(place, heard);
  }
  if (deleted_.empty()) return;
  changed();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (std::size_t i = 0; i < turns_.size(); ++i) {
    turns_then_[i] = turns_[i].number.load(std::memory_order_acquire);
  }
  (void)free_positions();
}

void MacTable::forget(Place& place, std::uint64_t heard) {
  const std::lock_guard lock(writers_);
  // Heard again meanwhile?
  if (!place.heard.compare_exchange_strong(heard, 0, std::memory_order_acq_rel)) return;
  give_back_share(port_of(heard));
  const std::uint64_t key = place.key.load(std::memory_order_relaxed);
  const std::int32_t position = rte_hash_del_key_with_hash(hash_, &key, hash_of(StationKey{key}));
  assert(position >= 0);
  deleted_.push_back(position);
}

/// False: some worker is still in a turn in which it may have found one of them.
bool MacTable::free_positions() {
  for (std::size_t i = 0; i < turns_.size(); ++i) {
    const bool inside = turns_then_[i] % 2 == 1;
    if (inside && turns_[i].number.load(std::memory_order_acquire) == turns_then_[i]) return false;
  }
  std::ranges::fill(turns_then_, 0);
  if (deleted_.empty()) return true;
  const std::lock_guard lock(writers_);
  for (const std::int32_t position : deleted_) {
    [[maybe_unused]] const int freed = rte_hash_free_key_with_position(hash_, position);
    assert(freed == 0);
  }
  deleted_.clear();
  return true;
}

std::vector<Station> MacTable::stations(std::size_t most) const {
  std::vector<Station> all;
  for (std::uint32_t position = 0; position < place_count_ && all.size() < most; ++position) {
    const Place& place = places_[position];
    const std::uint64_t heard = place.heard.load(std::memory_order_acquire);
    if (heard == 0) continue;
    const std::uint64_t key = place.key.load(std::memory_order_relaxed);
    Station& station = all.emplace_back();
    std::memcpy(station.mac.data(), &key, station.mac.size());
    station.vlan = static_cast<VlanId>(key >> 48);
    station.port = port_of(heard);
    station.age_s = second() - second_of(heard);
  }
  return all;
}

std::uint32_t MacTable::station_count(PortId port) const {
  return shares_[std::to_underlying(port)].stations.load(std::memory_order_relaxed);
}

std::uint64_t MacTable::not_learned(PortId port) const {
  return shares_[std::to_underlying(port)].not_learned.load(std::memory_order_relaxed);
}

}  // namespace net
