#include "libvhost/session/session.hpp"

namespace vhost {
namespace {

/// Messages that are answered before other descriptors get their turn again.
constexpr int most_at_once = 64;

/// Lines that one connection may add to the log because of refused messages.
constexpr std::uint64_t most_complaints = 16;

}  // namespace

Session::Session(UniqueFd socket, EventLoop& loop, Device& device, Log log,
                 std::shared_ptr<Conduct> conduct, Extras extras)
    : socket_(std::move(socket)),
      loop_(loop),
      device_(device),
      log_(std::move(log)),
      conduct_(std::move(conduct)),
      state_(device.features(), device.protocol_features(), device.max_queues(),
             extras.protocol_features()),
      channel_(loop, log_) {}

Session::~Session() {
  if (postcopy_.give_up()) {
    log_(LogLevel::warning,
         "the connection ended in the middle of postcopy: requests on memory that did not come "
         "fail");
  }
  if (const auto stopped = stop_all(); !stopped) log_(LogLevel::warning, stopped.error().what);
  device_.set_features(0);
}

bool Session::on_readable() {
  for (int i = 0; i < most_at_once; ++i) {
    auto message = reader_.read(socket_.get());
    if (!message) {
      log_(reader_.closed() ? LogLevel::debug : LogLevel::warning, message.error().what);
      return false;
    }
    if (!*message) return true;
    ++messages_;
    if (const auto handled = handle(std::move(**message)); !handled) {
      log_(LogLevel::warning, handled.error().what + "; the connection is closed");
      return false;
    }
    if (doomed_) return false;
  }
  return true;
}

/// An error ends the connection.
Result<void> Session::handle(Message message) {
  const RequestRule* rule = find_rule(message.request);
  Answer answer = std::nullopt;
  if (acknowledges_memory(message)) {
    answer = take_acknowledgement(message);
  } else if (rule == nullptr) {
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
      case Request::postcopy_advise: return Reply{};  // without a descriptor
      case Request::postcopy_end: return Reply::of(std::uint64_t{1});
      case Request::get_inflight_fd: return Reply::of(InflightDescription{});
      case Request::set_log_base:
      case Request::iotlb_msg: return Reply::of(std::uint64_t{1});
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
    case Request::get_protocol_features: return Reply::of(state_.protocol_offered());
    case Request::get_queue_num: return Reply::of(std::uint64_t{device_.queues_offered()});
    case Request::get_max_mem_slots: return Reply::of(std::uint64_t{MemoryMap::max_regions});
    case Request::get_status: return Reply::of(std::uint64_t{state_.status()});
    case Request::set_owner: return std::nullopt;
    case Request::reset_owner: state_.disable_all(); return done(stop_all());
    case Request::set_features: return done(set_features(payload_as<std::uint64_t>(message)));
    case Request::set_protocol_features:
      return done(set_protocol_features(payload_as<std::uint64_t>(message)));
    case Request::set_status: return done(state_.set_status(payload_as<std::uint64_t>(message)));
    case Request::set_backend_req_fd: return done(channel_.open(std::move(message.fds.front())));
    case Request::iotlb_msg: return take_iotlb(payload_as<IotlbMessage>(message));
    case Request::net_set_mtu: return done(device_.set_mtu(payload_as<std::uint64_t>(message)));
    case Request::send_rarp:  // a u64 on the wire, whose first six bytes are the address
      return done(device_.announce(read_once<std::array<std::byte, 6>>(message.payload.data())));
    case Request::get_config: return get_config(message);
    case Request::set_config: return set_config(message);
    case Request::get_inflight_fd: return get_inflight(payload_as<InflightDescription>(message));
    case Request::set_inflight_fd:
      return set_inflight(payload_as<InflightDescription>(message), message.fds.front());
    case Request::reset_device: return reset_device();
    case Request::postcopy_advise:
    case Request::postcopy_listen:
    case Request::postcopy_end: return dispatch_postcopy(rule);
    case Request::set_log_base:
      return set_log_base(payload_as<LogDescription>(message), message.fds.front());
    case Request::set_log_fd: return std::nullopt;  // to tell of changes of the log: it may be used
    case Request::set_mem_table:
    case Request::add_mem_reg:
    case Request::rem_mem_reg: return dispatch_memory(rule, message);
    default: return dispatch_vring(rule, message);
  }
}

Result<void> Session::settle(std::uint16_t index) {
  const VringConfig& ring = state_.rings()[index];
  const bool enabled = state_.enabled(index);
  if (ring.running && ring.discarding == enabled) {
    const bool may_stay =
        !enabled && state_.protocol_has(protocol_feature::get_vring_base_inflight);
    const auto stopped = stop(index, may_stay ? InFlight::may_stay : InFlight::ends);
    if (!stopped) return stopped;
  }
  if (ring.running || !may_run(index)) return {};
  if (translates()) iommu_->begin(index);
  start(index);
  return {};
}

bool Session::may_run(std::uint16_t index) const {
  const VringConfig& ring = state_.rings()[index];
  const bool wanted = state_.enabled(index) || (ring.cut_off && device_.discards_disabled(index));
  // Before there is memory it is no mistake that the areas are not in it.
  return memory_->size() != 0 && wanted && !ring.parked && state_.complete(index);
}

Result<void> Session::settle_all() {
  for (std::uint16_t index = 0; index < state_.rings().size(); ++index) {
    if (auto settled = settle(index); !settled) return settled;
  }
  return {};
}

/// Once, before the first ring starts.
bool Session::begin() {
  if (begun_) return true;
  const auto begun = device_.begin();
  begun_ = begun.has_value();
  doomed_ = !begun_;
  if (doomed_) log_(LogLevel::warning, begun.error().what + "; the connection is closed");
  return begun_;
}

/// Not between the stop of a ring and its new start, but where the front-end stops it for long.
void Session::rest_if_idle() {
  if (begun_ && !state_.any_running()) device_.rest();
  begun_ = state_.any_running();
}

void Session::start(std::uint16_t index, bool owed_only) {
  if (doomed_ || !begin()) return;
  VringConfig& config = state_.rings()[index];
  auto ring = make_ring(index);
  if (!ring) {
    if (translates() && iommu_->ledger(index)->waiting) return;  // wake() comes when they are known
    ++refused_;
    complain("ring " + std::to_string(index) + " cannot start: " + ring.error().what);
    if (config.error) config.error->signal_with_care();
    return;
  }
  config.running = true;
  config.discarding = !owed_only && !state_.enabled(index);
  device_.start_ring(index, {std::move(*ring), config.kick, config.call, config.error,
                             config.discarding, owed_only});
}

Result<void> Session::stop(std::uint16_t index, InFlight requests) {
  if (!state_.rings()[index].running) {
    if (iommu_) iommu_->end(index);
    return {};
  }
  const bool suspends = requests == InFlight::may_stay && has_inflight_section(index);
  const auto ring = suspends ? device_.suspend_ring(index) : device_.stop_ring(index);
  if (!ring) {
    state_.rings()[index].running = false;
    return pass_on(ring);
  }
  if (iommu_) iommu_->end(index);
  state_.rings()[index].suspended = suspends;
  state_.stopped(index, std::visit([](const auto& r) { return r.base(); }, *ring));
  // What is in it cannot be discarded either; it would only break again.
  if (std::visit([](const auto& r) { return r.is_broken(); }, *ring)) {
    state_.rings()[index].cut_off = false;
    state_.rings()[index].parked = true;
  }
  return {};
}

/// What may have been left in flight by a disable ends now, if the ring can still run.
Result<void> Session::end_suspended(std::uint16_t index) {
  const VringConfig& ring = state_.rings()[index];
  if (!ring.suspended || ring.parked || memory_->size() == 0 || !state_.complete(index)) return {};
  if (translates()) iommu_->begin(index);
  start(index, true);
  return stop(index);
}

/// To start them again.
Result<void> Session::pause_all() {
  Result<void> all;
  for (std::uint16_t index = 0; index < state_.rings().size(); ++index) {
    if (auto stopped = stop(index); !stopped) all = stopped;
  }
  return all;
}

/// For long.
Result<void> Session::stop_all() {
  const auto all = pause_all();
  if (all) rest_if_idle();
  return all;
}

void Session::notify_config_change() {
  if (!channel_.is_open() || !state_.protocol_has(protocol_feature::config)) return;
  // No acknowledgement is asked for: nothing would follow from it.
  if (channel_.tell(BackendRequest::config_change, {}) != BackendChannel::Sent::yes) {
    log_(LogLevel::warning, "CONFIG_CHANGE_MSG does not fit into the back-end channel");
  }
}

bool Session::memory_is_whole() const {
  return !memory_->lost() && !(inflight_ && inflight_->lost()) &&
         !(log_pages_ && log_pages_->lost());
}

SessionInfo Session::info() const {
  SessionInfo info;
  info.features = state_.accepted();
  info.protocol_features = state_.protocol_accepted();
  info.messages = messages_;
  info.refused = refused_;
  info.memory_regions = memory_->size();
  for (const VringConfig& ring : state_.rings()) {
    info.running_rings += ring.running && !ring.discarding;
  }
  if (iommu_) {
    info.iommu = iommu_->counts();
    info.iotlb_entries = iommu_->iotlb()->entries();
    info.unanswered_misses = iommu_->unanswered();
  }
  return info;
}

}  // namespace vhost
