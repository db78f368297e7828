#include "libvhost/frontend/device.hpp"

#include <poll.h>

#include <algorithm>
#include <array>

namespace vhost::frontend {
namespace {

std::string bit_list(std::uint64_t bits) {
  std::string list;
  for (unsigned number = 0; number < 64; ++number) {
    if (!has(bits, number)) continue;
    list += list.empty() ? "" : ", ";
    list += std::to_string(number);
  }
  return list;
}

}  // namespace

Result<void> Device::negotiate(const Wishes& wishes) {
  wishes_ = wishes;
  auto offered = connection_.ask_for<std::uint64_t>(Request::get_features);
  if (!offered) return std::unexpected(offered.error());
  offered_ = *offered;
  if (const auto missing = wishes.required_features & ~offered_; missing != 0) {
    return fail(Fault::unsupported,
                "the back-end does not offer feature bits " + bit_list(missing));
  }
  features_ = offered_ & (wishes.features | wishes.required_features);
  protocol_features_ = 0;
  if (has(offered_, feature::protocol_features)) {
    if (auto done = negotiate_protocol(); !done) return done;
  } else if (wishes.required_protocol_features != 0) {
    return fail(Fault::unsupported, "the back-end knows no protocol features");
  }
  return connection_.tell(Request::set_owner);
}

/// Enough that bit 30 was offered: it need not be accepted (vhost-user, "Protocol features").
Result<void> Device::negotiate_protocol() {
  auto offered = connection_.ask_for<std::uint64_t>(Request::get_protocol_features);
  if (!offered) return std::unexpected(offered.error());
  if (const auto missing = wishes_.required_protocol_features & ~*offered; missing != 0) {
    return fail(Fault::unsupported,
                "the back-end does not offer protocol feature bits " + bit_list(missing));
  }
  protocol_features_ = *offered & (wishes_.protocol_features | wishes_.required_protocol_features);
  connection_.acknowledge(false);  // not yet: this message is what turns it on
  auto told = connection_.tell(Request::set_protocol_features, protocol_features_);
  if (!told) return told;
  connection_.acknowledge(with(protocol_feature::reply_ack));

  if (with(protocol_feature::mq)) {
    auto queues = connection_.ask_for<std::uint64_t>(Request::get_queue_num);
    if (!queues) return std::unexpected(queues.error());
    max_queues_ = *queues;
  }
  if (!with(protocol_feature::backend_req)) return {};
  connection_.translate_with(
      [this](const IotlbMessage& miss) { return on_miss_ ? on_miss_(miss) : translation(miss); });
  return connection_.open_channel([this](const Message& message) -> std::uint64_t {
    const bool config =
        message.request == static_cast<std::uint32_t>(BackendRequest::config_change);
    config_changed_ |= config;
    if (on_channel_) return on_channel_(message);
    return config ? 0 : 1;
  });
}

Result<void> Device::make_queues(std::size_t count, QueueOptions options, std::size_t rings_each) {
  if (running_) return fail(Fault::operator_, "the device is running");
  if (count == 0 || (with(protocol_feature::mq) && count > max_queues_)) {
    return fail(Fault::operator_, "the back-end has " + std::to_string(max_queues_) +
                                      " queues, not " + std::to_string(count));
  }
  options.ring.event_idx = has(features_, feature::event_idx);
  options.ring.legacy = !has(features_, feature::version_1);
  options.ring.packed = has(features_, feature::ring_packed);
  if (!has(features_, feature::indirect_desc)) options.ring.indirect = 0;

  queues_.clear();
  inflight_fd_ = UniqueFd();
  for (std::size_t i = 0; i < count * rings_each; ++i) {
    auto queue = Queue::create(memory_, options);
    if (!queue) return std::unexpected(queue.error());
    queues_.push_back(std::make_unique<Queue>(std::move(*queue)));
  }
  bases_.assign(queues_.size(), queues_.front()->ring().first_base());
  return {};
}

Result<void> Device::start() {
  if (running_) return {};
  stopped_ = false;
  if (auto done = set_features(); !done) return done;
  if (page_source_ && shared_.empty()) {
    if (auto done = listen_for_faults(); !done) return done;
  }
  if (auto done = share_memory(); !done) return done;
  if (auto done = share_inflight(); !done) return done;
  for (std::uint32_t i = 0; i < queues_.size(); ++i) {
    if (auto done = start_queue(i); !done) return done;
  }
  if (log_) {
    if (auto done = share_log(); !done) return done;
  }
  if (has(features_, feature::protocol_features)) {
    for (std::uint32_t i = 0; i < queues_.size(); ++i) {
      if (auto done = tell_vring(Request::set_vring_enable, i, 1); !done) return done;
    }
  }
  if (auto done = set_status(status::acknowledge | status::driver | status::features_ok |
                             status::driver_ok);
      !done) {
    return done;
  }
  running_ = true;
  // A ring starts at its first kick. Whoever sleeps on a call must look once more, too: a
  // successor does not know for what its predecessor still owed a call.
  for (const auto& queue : queues_) {
    if (queue->ring().outstanding() > 0) queue->kick();
  }
  return barrier();
}

/// With STATUS the device has the last word: it clears FEATURES_OK if it cannot live with the set.
Result<void> Device::set_features() {
  if (auto done = set_status(status::acknowledge | status::driver); !done) return done;
  if (auto told = connection_.tell(Request::set_features, features_to_tell()); !told) return told;
  const auto ok =
      static_cast<std::uint8_t>(status::acknowledge | status::driver | status::features_ok);
  if (auto done = set_status(ok); !done) return done;
  if (!with(protocol_feature::status)) return {};
  auto now = connection_.ask_for<std::uint64_t>(Request::get_status);
  if (!now) return std::unexpected(now.error());
  if ((*now & status::features_ok) == 0) {
    return fail(Fault::unsupported, "the back-end refused the features " + bit_list(features_));
  }
  return {};
}

Result<void> Device::set_status(std::uint8_t bits) {
  if (!with(protocol_feature::status)) return {};
  return connection_.tell(Request::set_status, std::uint64_t{bits});
}

/// Where a ring is, for SET_VRING_ADDR: in our own addresses, in those that are translated, or,
/// with GPA_ADDRESSES, in the guest's; and where its used ring is for the log.
VringAddr Device::addresses_of(std::uint32_t index) const {
  VringAddr addresses = queues_[index]->ring().addresses(index);
  const auto as_driver = [this](std::uint64_t address) {
    for (const auto& region : memory_.regions()) {
      const std::uint64_t offset = address - (region ? region->wire().frontend_address : 0);
      if (region && offset < region->bytes().size()) return region->guest_address() + offset;
    }
    return address;
  };
  if (log_) {
    addresses.flags |= vring_flag_log;
    addresses.log = as_driver(addresses.used);
  }
  if (!translated() && !with(protocol_feature::gpa_addresses)) return addresses;
  for (auto* const address : {&addresses.descriptors, &addresses.available, &addresses.used}) {
    *address = as_driver(*address);
  }
  return addresses;
}

Result<void> Device::start_queue(std::uint32_t index) {
  const Queue& queue = *queues_[index];
  if (auto done = tell_vring(Request::set_vring_num, index, queue.ring().size()); !done) {
    return done;
  }
  if (auto done = tell_vring(Request::set_vring_base, index, bases_[index]); !done) return done;
  if (auto done = connection_.tell(Request::set_vring_addr, addresses_of(index)); !done) {
    return done;
  }
  if (auto done = tell_vring_fd(Request::set_vring_err, index, queue.error_fd()); !done) {
    return done;
  }
  if (auto done = tell_vring_fd(Request::set_vring_call, index, queue.call_fd()); !done) {
    return done;
  }
  return tell_vring_fd(Request::set_vring_kick, index, queue.kick_fd());
}

Result<void> Device::tell_vring(Request request, std::uint32_t index, std::uint32_t value) {
  return connection_.tell(request, VringState{index, value});
}

Result<void> Device::tell_vring_fd(Request request, std::uint32_t index, int fd) {
  if (fd < 0) return connection_.tell(request, std::uint64_t{index | vring_no_fd});
  return connection_.tell(request, std::uint64_t{index}, std::span(&fd, 1));
}

/// Where nothing is acknowledged, the answer to any question says that all before it was read.
Result<void> Device::barrier() {
  if (connection_.acknowledges()) return {};
  auto reply = connection_.ask(Request::get_features);
  if (!reply) return std::unexpected(reply.error());
  return {};
}

Result<void> Device::stop() {
  return stop_by(Request::get_vring_base);
}

Result<void> Device::suspend() {
  if (!with(protocol_feature::get_vring_base_skip_drain)) {
    return fail(Fault::unsupported, "GET_VRING_BASE_SKIP_DRAIN was not negotiated");
  }
  return stop_by(Request::get_vring_base_skip_drain);
}

Result<void> Device::stop_by(Request request) {
  if (!running_) return {};
  running_ = false;
  for (std::uint32_t i = 0; i < queues_.size(); ++i) {
    if (has(features_, feature::protocol_features)) {
      if (auto done = tell_vring(Request::set_vring_enable, i, 0); !done) return done;
    }
    auto base = connection_.ask_for<VringState>(request, bytes_of(VringState{i, 0}));
    if (!base) return std::unexpected(base.error());
    if (base->index != i || (base->value > 0xffff && !queues_[i]->ring().is_packed())) {
      return fail(peer_fault, request_name(static_cast<std::uint32_t>(request)) + " of ring " +
                                  std::to_string(i) + " answered ring " +
                                  std::to_string(base->index) + ", base " +
                                  std::to_string(base->value));
    }
    bases_[i] = base->value;
  }
  stopped_ = true;
  return set_status(0);
}

std::vector<ReturnedChain> Device::detach() {
  // A back-end that does not answer has lost its say: the chains come back all the same.
  [[maybe_unused]] const auto stopped = stop();
  std::vector<ReturnedChain> returned;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    AnyDriverRing& ring = queues_[i]->ring();
    Completion completion;
    while (ring.poll(completion) == Poll::done) {
      returned.push_back({i, completion.cookie, true, completion.written_bytes});
    }
    for (const std::uint16_t head : ring.outstanding_heads()) {
      returned.push_back({i, ring.cookie(head), false, 0});
    }
    ring.reset();
    bases_[i] = ring.first_base();
  }
  inflight_fd_ = UniqueFd();  // it tells of rings that are no more
  return returned;
}

Result<void> Device::reconnect(Connection connection) {
  running_ = false;
  const std::uint64_t features = features_;
  const bool resubmits = inflight_fd_.get() >= 0;
  for (const auto& queue : queues_) {
    const AnyDriverRing& ring = queue->ring();
    if (!resubmits && !ring.caught_up()) {
      return fail(Fault::operator_, "a queue has completions that were not polled");
    }
  }
  connection_ = std::move(connection);
  shared_.clear();
  Wishes wishes = wishes_;
  wishes.features = wishes.required_features = features;
  if (auto done = negotiate(wishes); !done) return done;
  if (resubmits && !with(protocol_feature::inflight_shmfd)) {
    return fail(Fault::unsupported, "the new back-end does not offer INFLIGHT_SHMFD any more");
  }
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    AnyDriverRing& ring = queues_[i]->ring();
    // As QEMU does: a packed ring's base is only known to the inflight region, if its back-end
    // died and did not tell it.
    if (!resubmits || (!stopped_ && !ring.is_packed())) bases_[i] = ring.base_after_crash();
    if (!resubmits) ring.offer_again();
  }
  return start();
}

Result<void> Device::reset() {
  if (running_) return fail(Fault::operator_, "the device is running");
  if (!with(protocol_feature::reset_device)) {
    return fail(Fault::unsupported, "RESET_DEVICE was not negotiated");
  }
  return connection_.tell(Request::reset_device);
}

Wake Device::wait(std::size_t index, std::chrono::milliseconds time) {
  Queue& queue = *queues_[index];
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (true) {
    if (queue.ring().arm_calls()) {
      queue.ring().disarm_calls();
      return Wake::used;
    }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Wake::timeout;
    // Without calls there is nothing to sleep on: look once in a while.
    const auto slice = queue.call_fd() >= 0 ? left : std::min(left, std::chrono::milliseconds(1));
    std::array<pollfd, 4> waits{
        pollfd{queue.call_fd(), POLLIN, 0}, pollfd{queue.error_fd(), POLLIN, 0},
        pollfd{connection_.channel_fd(), POLLIN, 0}, pollfd{connection_.fd(), POLLIN, 0}};
    if (connection_.fd() < 0) return Wake::lost;
    if (::poll(waits.data(), waits.size(), static_cast<int>(slice.count())) <= 0) continue;
    if (waits[0].revents != 0) queue.clear_call();
    if (waits[1].revents != 0) return Wake::ring_error;
    if (waits[2].revents != 0 && !connection_.serve_channel()) return Wake::lost;
    // What the back-end finished before it went comes first.
    if (waits[3].revents != 0 && queue.ring().caught_up()) return Wake::lost;
  }
}

}  // namespace vhost::frontend
