#include "backends/net/forwarding/switch.hpp"

#include <cassert>

#include "backends/net/frame/headers.hpp"
#include "backends/net/frame/offload.hpp"
#include "common/spin.hpp"

namespace net {
namespace {

/// Addresses and type of a frame, to be compared.
struct Beginning {
  Beginning() = default;
  explicit Beginning(const Frame& frame)
      : first(frame.field<std::uint64_t>(0)),
        last(frame.field<std::uint64_t>(ethernet_bytes - sizeof last)) {}
  bool operator==(const Beginning&) const = default;

  std::uint64_t first = 0;
  std::uint64_t last = 0;
};

bool is_group(StationKey key) {
  return (std::to_underlying(key) & 1) != 0;
}

/// 01:80:c2:00:00:00 to 0f: spanning tree, LACP, LLDP and the like end at the first bridge (IEEE
/// 802.1Q, 8.6.3).
bool is_reserved(const Frame& frame) {
  constexpr std::array<std::uint8_t, 5> prefix{0x01, 0x80, 0xc2, 0x00, 0x00};
  return frame.field<std::array<std::uint8_t, 5>>(0) == prefix &&
         frame.field<std::uint8_t>(prefix.size()) < 0x10;
}

}  // namespace

/// A burst on its way from one port.
struct Switch::Journey {
  const PortId from;
  Port& port;
  Traffic& traffic;
  Lane& lane;
  Memo& memo;
  const unsigned worker;
  std::uint64_t now_ns = 0;            // once it was needed
  std::optional<MacTable::Turn> turn;  // likewise
};

auto Switch::create(std::vector<PortSetup> ports, const SwitchOptions& options)
    -> vhost::Result<std::unique_ptr<Switch>> {
  assert(!options.patch || ports.size() == 2);
  const std::size_t places = std::max(options.places, ports.size());
  std::unique_ptr<MacTable> table;
  if (!options.patch) {
    auto made = MacTable::create({.ports = static_cast<std::uint16_t>(places),
                                  .workers = options.workers,
                                  .stations_per_port = options.stations_per_port,
                                  .ageing_s = options.ageing_s});
    if (!made) return vhost::pass_on(made);
    table = std::move(*made);
  }
  return std::unique_ptr<Switch>(new Switch(std::move(ports), places, options, std::move(table)));
}

Switch::Switch(std::vector<PortSetup> ports, std::size_t places, const SwitchOptions& options,
               std::unique_ptr<MacTable> table)
    : storm_limit_(options.storm_limit),
      ports_(places),
      table_(std::move(table)),
      lanes_(options.workers) {
  for (PortSetup& setup : ports) (void)add(std::move(setup));
  for (unsigned worker = 0; worker < options.workers; ++worker) {
    Lane& lane = lanes_[worker];
    lane.members.reserve(places);
    lane.memos.resize(places);
    lane.groups.resize(places);
    lane.filled.reserve(places);
    lane.unflushed.reserve(places);
    take_note(worker);
  }
}

PortId Switch::add(PortSetup setup) {
  assert(setup.sink != nullptr);
  const auto free = std::ranges::find_if(ports_, [](const auto& port) { return !port; });
  assert(free != ports_.end());
  const auto place = static_cast<std::uint16_t>(free - ports_.begin());
  const bool guarded = setup.guard.active();
  free->reset(new Port{std::move(setup), StormLimit(storm_limit_), guarded});
  members_.insert(std::ranges::upper_bound(members_, place), place);
  return PortId{place};
}

void Switch::withdraw(PortId port) {
  std::erase(members_, std::to_underlying(port));
  table_->forget(port);
}

void Switch::erase(PortId port) {
  ports_[std::to_underlying(port)].reset();
}

void Switch::take_note(unsigned worker) {
  Lane& lane = lanes_[worker];
  lane.members = members_;
  lane.tags_change = table_ && std::ranges::any_of(members_, [&](std::uint16_t port) {
                       return !ports_[port]->setup.vlan.is_transparent();
                     });
}

void Switch::forward(Source& source, std::span<Frame> frames, unsigned worker) {
  while (!frames.empty()) {
    const std::size_t some = std::min(frames.size(), Burst::most);
    forward_some(source, frames.first(some), worker);
    frames = frames.subspan(some);
  }
}

void Switch::forward_some(Source& source, std::span<Frame> frames, unsigned worker) {
  const PortId from = source.port();
  Lane& lane = lanes_[worker];
  Port& port = *ports_[std::to_underlying(from)];
  if (port.setup.capture) {
    std::array<Frame*, Burst::most> list;
    for (std::size_t i = 0; i < frames.size(); ++i) list[i] = &frames[i];
    port.setup.capture->append({list.data(), frames.size()}, Capture::Direction::in);
  }
  if (table_) {
    direct_all(source, frames, worker);
  } else {
    patch(source, frames, lane);
  }
  deliver(lane, frames, worker);
}

void Switch::patch(Source& source, std::span<Frame> frames, Lane& lane) {
  const std::uint16_t from = std::to_underlying(source.port());
  const Port& port = *ports_[from];
  Group* group = nullptr;
  for (Frame& frame : frames) {
    if (port.guarded && !port.setup.guard.allows(frame)) {
      source.traffic().drop(Drop::spoofed);
    } else if (group == nullptr) {
      group = &gather(lane, from == 0 ? 1 : 0, frame);
    } else {
      group->frames[group->count++] = &frame;
    }
  }
}

void Switch::direct_all(Source& source, std::span<Frame> frames, unsigned worker) {
  const PortId from = source.port();
  Lane& lane = lanes_[worker];
  Memo& memo = lane.memos[std::to_underlying(from)];
  // Before any look into the table: what changes from now on makes the memo invalid for the next
  // burst.
  const std::uint64_t version = table_->version();
  const std::uint32_t second = table_->second();
  if (memo.version != version || memo.second != second) memo = {version, second, {}, {}, {}};

  Journey journey{from, *ports_[std::to_underlying(from)], source.traffic(), lane, memo, worker, 0,
                  {}};
  Beginning before{};
  Group* group = nullptr;  // where the frame before went, if to one sink
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const Beginning beginning(frames[i]);
    if (group != nullptr && beginning == before && !journey.port.guarded) {
      lane.tags[i] = lane.tags[i - 1];
      group->frames[group->count++] = &frames[i];
      continue;
    }
    group = direct(journey, frames[i], lane.tags[i]);
    // What the tag says is not in the beginning.
    if (number_at(frames[i].head(), ether_type_offset) == ether_type::vlan) group = nullptr;
    before = beginning;
  }
}

/// Returns the group of the sink, if there is one sink.
auto Switch::direct(Journey& journey, Frame& frame, VlanTag& tag) -> Group* {
  const PortSetup& setup = journey.port.setup;
  const auto drop = [&](Drop why) {
    journey.traffic.drop(why);
    return nullptr;
  };
  if (journey.port.guarded && !setup.guard.allows(frame)) return drop(Drop::spoofed);
  const auto classified = setup.vlan.classify(frame);
  if (!classified) return drop(Drop::vlan);
  tag = *classified;

  look_up(journey, station_key(frame, source_mac_offset, tag.vlan),
          station_key(frame, 0, tag.vlan));
  if (!journey.memo.to) {
    flood(journey, frame, tag);
    return nullptr;
  }
  const PortId to = *journey.memo.to;
  if (to == journey.from) return drop(Drop::nowhere);
  if (journey.lane.tags_change && !ports_[std::to_underlying(to)]->setup.vlan.passes(tag)) {
    return drop(Drop::vlan);
  }
  return &gather(journey.lane, std::to_underlying(to), frame);
}

/// Learns the source and finds the destination, if these are not those of the frame before.
void Switch::look_up(Journey& journey, StationKey source, StationKey destination) {
  Memo& memo = journey.memo;
  if (source == memo.source && destination == memo.destination) return;
  if (!journey.turn) journey.turn.emplace(*table_, journey.worker);
  if (source != memo.source) table_->hear(source, journey.from);
  if (destination != memo.destination) {
    memo.to = is_group(destination) ? std::nullopt : table_->find(destination);
  }
  memo.source = source;
  memo.destination = destination;
}

/// To every other port that the frame may leave through.
void Switch::flood(Journey& journey, Frame& frame, const VlanTag& tag) {
  if (is_reserved(frame)) return journey.traffic.drop(Drop::reserved);
  const auto from = std::to_underlying(journey.from);
  Lane& lane = journey.lane;
  const auto member = [&](std::uint16_t port) {
    return port != from && (!lane.tags_change || ports_[port]->setup.vlan.passes(tag));
  };
  std::uint32_t members = 0;
  for (const std::uint16_t port : lane.members) members += member(port) ? 1 : 0;
  if (members == 0) return journey.traffic.drop(Drop::nowhere);
  if (members > 1 && journey.port.storm.limited()) {
    if (journey.now_ns == 0) journey.now_ns = common::now_ns();
    if (!journey.port.storm.take(journey.now_ns, segments_of(frame))) {
      return journey.traffic.drop(Drop::storm);
    }
  }
  for (const std::uint16_t port : lane.members) {
    if (member(port)) gather(lane, port, frame);
  }
}

auto Switch::gather(Lane& lane, std::uint16_t port, Frame& frame) -> Group& {
  Group& group = lane.groups[port];
  if (group.count == 0) lane.filled.push_back(port);
  group.frames[group.count++] = &frame;
  return group;
}

void Switch::deliver(Lane& lane, std::span<Frame> frames, unsigned worker) {
  for (const std::uint16_t port : lane.filled) {
    const PortSetup& setup = ports_[port]->setup;
    Group& group = lane.groups[port];
    const std::span<Frame* const> list(group.frames.data(), std::exchange(group.count, 0));
    if (lane.tags_change) {
      // A frame that goes to several sinks has the form of the one before.
      for (Frame* const frame : list) {
        const auto place = static_cast<std::size_t>(frame - frames.data());
        setup.vlan.dress(*frame, lane.tags[place]);
      }
    }
    if (setup.capture) setup.capture->append(list, Capture::Direction::out);
    setup.sink->deliver(list, worker);
    if (!std::exchange(group.unflushed, true)) lane.unflushed.push_back(port);
  }
  lane.filled.clear();
}

void Switch::flush(unsigned worker) {
  Lane& lane = lanes_[worker];
  for (const std::uint16_t port : lane.unflushed) {
    ports_[port]->setup.sink->flush(worker);
    lane.groups[port].unflushed = false;
  }
  lane.unflushed.clear();
}

void Switch::age(std::uint64_t now_ns) {
  if (table_) table_->age(now_ns);
}

vhost::Result<void> Switch::write_captures() {
  vhost::Result<void> result;
  for (const std::uint16_t port : members_) {
    Capture* const capture = ports_[port]->setup.capture.get();
    if (capture == nullptr) continue;
    auto written = capture->write_out();
    if (written) continue;
    if (result) {
      result = std::move(written);
    } else {
      result.error().what += "; " + written.error().what;
    }
  }
  return result;
}

bool Switch::captures() const {
  return std::ranges::any_of(
      members_, [&](std::uint16_t port) { return ports_[port]->setup.capture != nullptr; });
}

std::vector<Station> Switch::stations(std::size_t most) const {
  return table_ ? table_->stations(most) : std::vector<Station>{};
}

std::uint32_t Switch::station_count(PortId port) const {
  return table_ ? table_->station_count(port) : 0;
}

std::uint64_t Switch::not_learned(PortId port) const {
  return table_ ? table_->not_learned(port) : 0;
}

std::uint64_t Switch::capture_lost(PortId port) const {
  const auto& capture = ports_[std::to_underlying(port)]->setup.capture;
  return capture ? capture->lost() : 0;
}

const std::string& Switch::name(PortId port) const {
  return ports_[std::to_underlying(port)]->setup.name;
}

}  // namespace net
