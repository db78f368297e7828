/*
 * What each message does to a session, once it is known to be well formed and allowed now: the
 * handlers of rings, memory, configuration and the inflight region.
 */
#include <algorithm>

#include "libvhost/session/session.hpp"

namespace vhost {

Session::Answer Session::dispatch_vring(const RequestRule& rule, Message& message) {
  Result<void> result;
  std::uint64_t index = 0;
  switch (rule.request) {
    case Request::set_vring_addr: {
      const auto request = payload_as<VringAddr>(message);
      index = request.index;
      result = set_vring_addr(request);
      break;
    }
    case Request::set_vring_kick:
    case Request::set_vring_call:
    case Request::set_vring_err: return set_vring_fd(rule, message);
    case Request::get_vring_base:
    case Request::get_vring_base_skip_drain:
      return get_vring_base(rule, payload_as<VringState>(message));
    default: {
      const auto request = payload_as<VringState>(message);
      index = request.index;
      if (rule.request == Request::set_vring_num) result = state_.set_vring_num(request);
      if (rule.request == Request::set_vring_base) result = state_.set_vring_base(request);
      if (rule.request == Request::set_vring_enable) result = state_.set_vring_enable(request);
      break;
    }
  }
  if (result) result = settle(static_cast<std::uint16_t>(index));
  if (!result) return pass_on(result);
  return std::nullopt;
}

Session::Answer Session::set_vring_fd(const RequestRule& rule, Message& message) {
  const auto value = payload_as<std::uint64_t>(message);
  const bool no_fd = (value & vring_no_fd) != 0;
  if ((value & ~(vring_index_mask | vring_no_fd)) != 0 || no_fd != message.fds.empty()) {
    return fail(Fault::front_end,
                std::string(rule.name) + (no_fd ? " has a descriptor and says that it has none"
                                                : " has no descriptor, or unknown bits"));
  }
  VringFd request{static_cast<std::uint32_t>(value & vring_index_mask), nullptr};
  const auto index = state_.ring_index(request.index);
  if (!index) return pass_on(index);
  if (!no_fd) {
    auto adopted = EventFd::adopt(std::move(message.fds.front()), conduct_);
    if (!adopted) return pass_on(adopted);
    request.fd = std::move(*adopted);
  }

  Result<void> result;
  if (rule.request == Request::set_vring_call) {
    const auto old = state_.rings()[*index].call;  // a device may be using it until it has the new
    result = state_.set_vring_call(request);
    if (state_.rings()[*index].running) device_.set_call(*index, request.fd);
  } else {
    result = stop(*index);  // a running ring goes on with the new descriptor, from where it was
    if (result) {
      result = rule.request == Request::set_vring_kick ? state_.set_vring_kick(request)
                                                       : state_.set_vring_err(request);
    }
    if (result) result = settle(*index);
  }
  if (!result) return pass_on(result);
  return std::nullopt;
}

/// With GET_VRING_BASE_SKIP_DRAIN the front-end says of each stop whether requests may be left in
/// flight; with GET_VRING_BASE_INFLIGHT alone they may be left at each.
Session::Answer Session::get_vring_base(const RequestRule& rule, const VringState& request) {
  const auto index = state_.ring_index(request.index);
  if (!index) return pass_on(index);
  const bool always = state_.protocol_has(protocol_feature::get_vring_base_inflight) &&
                      !state_.protocol_has(protocol_feature::get_vring_base_skip_drain);
  const bool may_stay = always || rule.request == Request::get_vring_base_skip_drain;
  auto stopped = stop(*index, may_stay ? InFlight::may_stay : InFlight::ends);
  if (stopped && !may_stay) stopped = end_suspended(*index);
  if (!stopped) return pass_on(stopped);
  VringConfig& ring = state_.rings()[*index];
  ring.kick_mode = Kick::none;
  ring.kick = nullptr;
  ring.cut_off = false;
  rest_if_idle();
  // While nothing runs, front-ends do not tell what they take back.
  if (translates() && !state_.any_running()) memory_->iotlb()->clear();
  return Reply::of(VringState{request.index, state_.setup_of(*index).base});
}

Result<void> Session::set_protocol_features(std::uint64_t features) {
  const std::uint64_t changed = features ^ state_.protocol_accepted();
  if (memory_->size() != 0 && has(changed, protocol_feature::gpa_addresses)) {
    return fail(Fault::front_end, "GPA_ADDRESSES changes while memory is shared");
  }
  return state_.set_protocol_features(features);
}

Session::Answer Session::dispatch_memory(const RequestRule& rule, Message& message) {
  if (rule.request == Request::set_mem_table) return set_mem_table(message);
  const auto region = as_addressed(payload_as<SingleRegion>(message).region);
  const MemoryMap& known = known_memory();
  return take_memory(rule.request == Request::add_mem_reg
                         ? known.with(region, message.fds.front().get())
                         : known.without(region),
                     message);
}

Session::Answer Session::set_mem_table(Message& message) {
  const auto header = payload_as<MemoryTableHeader>(message);
  const std::size_t bytes = message.payload.size() - sizeof header;
  if (header.count > max_table_regions || bytes != header.count * sizeof(MemoryRegion) ||
      message.fds.size() != header.count) {
    return fail(Fault::front_end, "SET_MEM_TABLE announces " + std::to_string(header.count) +
                                      " regions in " + std::to_string(bytes) + " bytes with " +
                                      std::to_string(message.fds.size()) + " descriptors");
  }
  std::vector<MemoryRegion> regions(header.count);
  if (bytes != 0) std::memcpy(regions.data(), message.payload.data() + sizeof header, bytes);
  for (MemoryRegion& region : regions) region = as_addressed(region);
  return take_memory(MemoryMap::of(regions, message.fds, known_memory()), message);
}

/// With GPA_ADDRESSES ring areas and IOTLB entries are given in guest-physical addresses: then the
/// front-end's own address space is that of the guest, whatever else a region says.
MemoryRegion Session::as_addressed(MemoryRegion region) const {
  if (state_.protocol_has(protocol_feature::gpa_addresses)) {
    region.frontend_address = region.guest_address;
  }
  return region;
}

/// Makes `map` the memory of all rings. Before the regions that are gone are unmapped, what was
/// in flight on them has ended.
Result<void> Session::adopt(Result<MemoryMap> map) {
  if (!map) return pass_on(map);
  if (map->log() && !map->log()->reaches(map->end())) {
    return fail(Fault::front_end, "the dirty log ends before the new memory; make it longer first");
  }
  const auto next = std::make_shared<const MemoryMap>(std::move(*map));
  if (translates()) return adopt_translated(next);
  const Drain drain = next->keeps_all_of(*memory_) ? Drain::no : Drain::yes;
  if (state_.any_running()) device_.move_to(next, drain);
  memory_ = next;
  announced_ = nullptr;
  postcopy_.keep_to(*next);
  return settle_all();
}

Session::Answer Session::get_config(const Message& message) {
  const auto header = payload_as<ConfigHeader>(message);
  if (header.size_bytes != message.payload.size() - sizeof header || header.size_bytes == 0) {
    return fail(Fault::front_end, "GET_CONFIG asks for " + std::to_string(header.size_bytes) +
                                      " bytes in a message of another size");
  }
  Reply reply{message.payload, {}};
  device_.read_config(header.offset_bytes, std::span(reply.payload).subspan(sizeof header));
  return reply;
}

Session::Answer Session::set_config(const Message& message) {
  const auto header = payload_as<ConfigHeader>(message);
  const auto bytes = std::span(message.payload).subspan(sizeof header);
  if (header.size_bytes != bytes.size() || header.flags > config_flag_migration) {
    return fail(Fault::front_end, "SET_CONFIG has " + std::to_string(bytes.size()) +
                                      " bytes where it announces " +
                                      std::to_string(header.size_bytes) + ", or unknown flags");
  }
  const auto written = device_.write_config(header.offset_bytes, bytes);
  if (!written) return pass_on(written);
  return std::nullopt;
}

Session::Answer Session::get_inflight(const InflightDescription& request) {
  if (request.queues == 0 || request.queues > device_.max_queues() || request.queue_size == 0 ||
      request.queue_size > max_ring_size) {
    return fail(Fault::front_end, "GET_INFLIGHT_FD for " + std::to_string(request.queues) +
                                      " rings of " + std::to_string(request.queue_size) +
                                      " descriptors");
  }
  auto region = make_inflight_region(request.queues, request.queue_size);
  if (!region) return pass_on(region);
  Reply reply = Reply::of(region->description);
  reply.fd = std::move(region->file);
  return reply;
}

Session::Answer Session::set_inflight(const InflightDescription& request, const UniqueFd& fd) {
  const std::uint64_t needed = request.queues * inflight_section_bytes(request.queue_size);
  if (request.queues == 0 || request.queues > device_.max_queues() || request.queue_size == 0 ||
      request.queue_size > max_ring_size || request.mmap_size_bytes < needed ||
      request.mmap_offset_bytes % 64 != 0) {
    return fail(Fault::front_end, "SET_INFLIGHT_FD for " + std::to_string(request.queues) +
                                      " rings of " + std::to_string(request.queue_size) +
                                      " descriptors in " + std::to_string(request.mmap_size_bytes) +
                                      " bytes");
  }
  // Behind the rings' sections may be room for a keepsake: regions that we made have it. Those of
  // older versions have no room for packed rings.
  const std::uint64_t wanted =
      std::min(request.mmap_size_bytes, inflight_region_bytes(request.queues, request.queue_size)) /
      64 * 64;
  auto mapping = Mapping::map(fd.get(), request.mmap_offset_bytes, wanted);
  if (!mapping) return pass_on(mapping);
  inflight_ = std::make_shared<const Mapping>(std::move(*mapping));
  inflight_description_ = request;
  if (wanted - needed >= keepsake_bytes) {
    device_.keep_in({inflight_, inflight_->bytes().last<keepsake_bytes>()});
  }
  return std::nullopt;
}

/// In the layout that was negotiated, with its section of the inflight region if there is one.
Result<AnyRing> Session::make_ring(std::uint16_t index) const {
  RingSetup setup = state_.setup_of(index);
  if (translates()) setup.ledger = iommu_->ledger(index);
  if (!has_inflight_section(index)) {
    if (setup.packed) return PackedRing::create(setup, memory_);
    return SplitRing::create(setup, memory_);
  }
  const std::uint16_t size = inflight_description_.queue_size;
  if (setup.size > size) {
    return fail(Fault::front_end, "it is larger than its inflight section");
  }
  const std::uint64_t bytes =
      setup.packed ? packed_inflight_section_bytes(size) : inflight_section_bytes(size);
  if (setup.packed && inflight_->bytes().size() - keepsake_bytes < (index + 1) * bytes) {
    return fail(Fault::front_end, "the inflight region has no room for packed rings");
  }
  const auto section = inflight_->bytes().subspan(index * bytes, bytes);
  if (setup.packed) {
    return PackedRing::create(setup, memory_, PackedInflightSection(inflight_, section, size));
  }
  return SplitRing::create(setup, memory_, InflightSection(inflight_, section, size));
}

Session::Answer Session::reset_device() {
  if (const auto stopped = stop_all(); !stopped) return pass_on(stopped);
  state_.reset();
  inflight_ = nullptr;  // it tells of rings that are no more
  device_.set_features(0);
  if (const auto settled = settle_iommu(); !settled) return pass_on(settled);
  if (const auto settled = settle_log(); !settled) return pass_on(settled);
  return std::nullopt;
}

}  // namespace vhost
