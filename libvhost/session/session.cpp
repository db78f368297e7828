#include "libvhost/session/session.hpp"

#include <sys/socket.h>

#include <algorithm>

namespace vhost {
namespace {

/// Messages that are answered before other descriptors get their turn again.
constexpr int most_at_once = 64;

/// Lines that one connection may add to the log because of refused messages.
constexpr std::uint64_t most_complaints = 16;

/// The payload as a T; the table has made sure that it holds one.
template <Wire T>
T payload_as(const Message& message) {
  return read_once<T>(message.payload.data());
}

template <class T>
std::unexpected<Error> pass_on(const Result<T>& failed) {
  return std::unexpected(failed.error());
}

}  // namespace

Session::Session(UniqueFd socket, Device& device, Log log)
    : socket_(std::move(socket)),
      device_(device),
      log_(std::move(log)),
      state_(device.features(), device.max_queues()) {}

Session::~Session() {
  if (const auto stopped = stop_all(); !stopped) log_(LogLevel::warning, stopped.error().what);
  device_.set_features(0);
}

bool Session::on_readable() {
  for (int i = 0; i < most_at_once; ++i) {
    auto message = reader_.read(socket_.get());
    if (!message) {
      log_(reader_.closed() ? LogLevel::info : LogLevel::warning, message.error().what);
      return false;
    }
    if (!*message) return true;
    ++messages_;
    if (const auto handled = handle(std::move(**message)); !handled) {
      log_(LogLevel::warning, handled.error().what + "; the connection is closed");
      return false;
    }
  }
  return true;
}

/// An error ends the connection.
Result<void> Session::handle(Message message) {
  const RequestRule* rule = find_rule(message.request);
  Answer answer = std::nullopt;
  if (rule == nullptr) {
    answer = fail(Fault::unsupported, "message " + std::to_string(message.request) + " is unknown");
  } else if (const auto admitted = state_.admit(*rule, message); !admitted) {
    answer = pass_on(admitted);
  } else {
    answer = dispatch(*rule, message);
  }

  const bool wants_ack =
      state_.protocol_has(protocol_feature::reply_ack) && (message.flags & header_need_reply) != 0;
  if (answer) {
    if (*answer) return send(message, **answer);
    return wants_ack ? send(message, Reply::of(std::uint64_t{0})) : Result<void>{};
  }
  ++refused_;
  if (auto no = refusal(rule, message)) {
    complain(answer.error().what);
    return send(message, *no);
  }
  return pass_on(answer);
}

/// How to say no to this message; nothing if the protocol has no way.
std::optional<Session::Reply> Session::refusal(const RequestRule* rule,
                                               const Message& message) const {
  if (rule != nullptr && rule->has_reply) {
    switch (rule->request) {
      case Request::get_config: return Reply{};  // "zero length of payload to indicate an error"
      case Request::get_inflight_fd: return Reply::of(InflightDescription{});
      default: return std::nullopt;
    }
  }
  const bool asked = (message.flags & header_need_reply) != 0 &&
                     (message.flags & header_reply) == 0 &&
                     state_.protocol_has(protocol_feature::reply_ack);
  if (asked) return Reply::of(std::uint64_t{1});
  return std::nullopt;
}

void Session::complain(const std::string& what) {
  if (refused_ <= most_complaints) log_(LogLevel::warning, what);
  if (refused_ == most_complaints) {
    log_(LogLevel::warning, "further refused messages of this connection are only counted");
  }
}

Result<void> Session::send(const Message& to, const Reply& reply) {
  const int fd = reply.fd.get();
  const auto fds = reply.fd ? std::span(&fd, 1) : std::span<const int>{};
  return send_message(socket_.get(), to.request, header_reply, reply.payload, fds);
}

Session::Answer Session::dispatch(const RequestRule& rule, Message& message) {
  const auto done = [](const Result<void>& result) -> Answer {
    if (!result) return pass_on(result);
    return std::nullopt;
  };
  switch (rule.request) {
    case Request::get_features: return Reply::of(state_.offered());
    case Request::get_protocol_features: return Reply::of(DeviceState::protocol_features);
    case Request::get_queue_num: return Reply::of(std::uint64_t{device_.max_queues()});
    case Request::get_max_mem_slots: return Reply::of(std::uint64_t{MemoryMap::max_regions});
    case Request::get_status: return Reply::of(std::uint64_t{state_.status()});
    case Request::set_owner: return std::nullopt;
    case Request::reset_owner: state_.disable_all(); return done(stop_all());
    case Request::set_features: {
      const auto accepted = state_.set_features(payload_as<std::uint64_t>(message));
      if (accepted && !state_.any_running()) device_.set_features(state_.accepted());
      return accepted ? done(settle_all()) : done(accepted);
    }
    case Request::set_protocol_features:
      return done(state_.set_protocol_features(payload_as<std::uint64_t>(message)));
    case Request::set_status: return done(state_.set_status(payload_as<std::uint64_t>(message)));
    case Request::set_backend_req_fd:
      backend_channel_ = std::move(message.fds.front());
      return std::nullopt;
    case Request::get_config: return get_config(message);
    case Request::set_config: return set_config(message);
    case Request::get_inflight_fd: return get_inflight(payload_as<InflightDescription>(message));
    case Request::set_inflight_fd:
      return set_inflight(payload_as<InflightDescription>(message), message.fds.front());
    case Request::reset_device: return reset_device();
    case Request::set_mem_table:
    case Request::add_mem_reg:
    case Request::rem_mem_reg: return dispatch_memory(rule, message);
    default: return dispatch_vring(rule, message);
  }
}

Session::Answer Session::dispatch_vring(const RequestRule& rule, Message& message) {
  Result<void> result;
  std::uint64_t index = 0;
  switch (rule.request) {
    case Request::set_vring_addr: {
      const auto request = payload_as<VringAddr>(message);
      index = request.index;
      result = state_.set_vring_addr(request);
      break;
    }
    case Request::set_vring_kick:
    case Request::set_vring_call:
    case Request::set_vring_err: return set_vring_fd(rule, message);
    case Request::get_vring_base: return get_vring_base(payload_as<VringState>(message));
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
    auto adopted = EventFd::adopt(std::move(message.fds.front()));
    if (!adopted) return pass_on(adopted);
    request.fd = std::move(*adopted);
  }

  Result<void> result;
  if (rule.request == Request::set_vring_call) {
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

Session::Answer Session::get_vring_base(const VringState& request) {
  const auto index = state_.ring_index(request.index);
  if (!index) return pass_on(index);
  if (const auto stopped = stop(*index); !stopped) return pass_on(stopped);
  VringConfig& ring = state_.rings()[*index];
  ring.kick_mode = Kick::none;
  ring.kick = nullptr;
  return Reply::of(VringState{request.index, ring.setup.base});
}

Session::Answer Session::dispatch_memory(const RequestRule& rule, Message& message) {
  if (rule.request == Request::set_mem_table) return set_mem_table(message);
  const auto region = payload_as<SingleRegion>(message).region;
  const auto adopted =
      adopt(rule.request == Request::add_mem_reg ? memory_->with(region, message.fds.front().get())
                                                 : memory_->without(region));
  if (!adopted) return pass_on(adopted);
  return std::nullopt;
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
  const auto adopted = adopt(MemoryMap::of(regions, message.fds, *memory_));
  if (!adopted) return pass_on(adopted);
  return std::nullopt;
}

/// Makes `map` the memory of all rings. Before the regions that are gone are unmapped, what was
/// in flight on them has ended.
Result<void> Session::adopt(Result<MemoryMap> map) {
  if (!map) return pass_on(map);
  const auto next = std::make_shared<const MemoryMap>(std::move(*map));
  const Drain drain = next->keeps_all_of(*memory_) ? Drain::no : Drain::yes;
  if (state_.any_running()) device_.move_to(next, drain);
  memory_ = next;
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
  // Behind the rings' sections may be room for a keepsake: regions that we made have it.
  const std::uint64_t wanted = std::min(request.mmap_size_bytes, needed + keepsake_bytes);
  auto mapping = Mapping::map(fd.get(), request.mmap_offset_bytes, wanted);
  if (!mapping) return pass_on(mapping);
  inflight_ = std::make_shared<const Mapping>(std::move(*mapping));
  inflight_description_ = request;
  if (request.mmap_size_bytes - needed >= keepsake_bytes) {
    device_.keep_in({inflight_, inflight_->bytes().subspan(needed).first<keepsake_bytes>()});
  }
  return std::nullopt;
}

InflightSection Session::inflight_section(std::uint16_t index) const {
  if (!inflight_ || index >= inflight_description_.queues) return {};
  const std::uint16_t size = inflight_description_.queue_size;
  const std::uint64_t bytes = inflight_section_bytes(size);
  return {inflight_, inflight_->bytes().subspan(index * bytes, bytes), size};
}

Session::Answer Session::reset_device() {
  if (const auto stopped = stop_all(); !stopped) return pass_on(stopped);
  state_.reset();
  device_.set_features(0);
  return std::nullopt;
}

Result<void> Session::settle(std::uint16_t index) {
  const VringConfig& ring = state_.rings()[index];
  if (ring.running && !ring.enabled && has(state_.accepted(), feature::protocol_features)) {
    return stop(index);
  }
  // Before there is memory it is no mistake that the areas are not in it.
  if (memory_->size() != 0 && state_.may_run(index)) start(index);
  return {};
}

Result<void> Session::settle_all() {
  for (std::uint16_t index = 0; index < state_.rings().size(); ++index) {
    if (auto settled = settle(index); !settled) return settled;
  }
  return {};
}

void Session::start(std::uint16_t index) {
  VringConfig& config = state_.rings()[index];
  const RingSetup setup = state_.setup_of(index);
  auto section = inflight_section(index);
  Result<SplitRing> ring = inflight_ && index < inflight_description_.queues &&
                                   setup.size > inflight_description_.queue_size
                               ? fail(Fault::front_end, "it is larger than its inflight section")
                               : SplitRing::create(setup, memory_, std::move(section));
  if (!ring) {
    ++refused_;
    complain("ring " + std::to_string(index) + " cannot start: " + ring.error().what);
    if (config.error) config.error->signal_with_care();
    return;
  }
  config.running = true;
  device_.start_ring(index, {std::move(*ring), config.kick, config.call, config.error});
}

Result<void> Session::stop(std::uint16_t index) {
  if (!state_.rings()[index].running) return {};
  const auto ring = device_.stop_ring(index);
  if (!ring) {
    state_.rings()[index].running = false;
    return pass_on(ring);
  }
  state_.stopped(index, std::visit([](const auto& r) { return r.base(); }, *ring));
  return {};
}

Result<void> Session::stop_all() {
  Result<void> all;
  for (std::uint16_t index = 0; index < state_.rings().size(); ++index) {
    if (auto stopped = stop(index); !stopped) all = stopped;
  }
  return all;
}

void Session::notify_config_change() {
  if (!backend_channel_ || !state_.protocol_has(protocol_feature::config)) return;
  // No acknowledgement is asked for: a front-end may read the configuration on this very
  // connection before it gives one, and would wait for us while we wait for it.
  const auto sent = send_message(backend_channel_.get(),
                                 static_cast<std::uint32_t>(BackendRequest::config_change), 0, {});
  if (!sent) log_(LogLevel::warning, "CONFIG_CHANGE_MSG: " + sent.error().what);
}

bool Session::memory_is_whole() const {
  return !memory_->lost() && !(inflight_ && inflight_->lost());
}

SessionInfo Session::info() const {
  SessionInfo info;
  info.features = state_.accepted();
  info.protocol_features = state_.protocol_accepted();
  info.messages = messages_;
  info.refused = refused_;
  info.memory_regions = memory_->size();
  for (const VringConfig& ring : state_.rings()) info.running_rings += ring.running;
  return info;
}

}  // namespace vhost
