#include "backends/net/guest/device.hpp"

#include <algorithm>

namespace net {
namespace {

constexpr std::uint64_t always_offered =
    feature::csum | feature::guest_csum | feature::mtu | feature::guest_tso4 | feature::guest_tso6 |
    feature::guest_ecn | feature::guest_ufo | feature::host_tso4 | feature::host_tso6 |
    feature::host_ecn | feature::host_ufo | feature::mergeable_buffers |
    vhost::bit(vhost::feature::in_order);
/// The control queue, which the front-end serves, and what a driver cannot use without one
/// (VIRTIO 5.1.3.1).
constexpr std::uint64_t by_control_queue =
    feature::control_queue | feature::guest_announce | feature::multi_queue;

[[nodiscard]] constexpr bool is_receive(std::uint16_t ring) {
  return ring % 2 == 0;
}

/// What the driver may leave to us.
Accepts allowed_by(std::uint64_t features) {
  const auto has = [&](std::uint64_t mask) { return (features & mask) != 0; };
  return {has(feature::csum), has(feature::host_tso4), has(feature::host_tso6),
          has(feature::host_ecn), has(feature::host_ufo)};
}

/// The front-end's word that a guest is here now: a RARP request for its own address (RFC 903).
class Announcement final : public Source {
 public:
  Announcement(std::span<const std::byte, 6> mac, PortId port, Traffic& traffic)
      : mac_(mac), port_(port), traffic_(traffic) {}

  bool take(Burst& burst) override {
    constexpr std::size_t bytes = 60;  // Ethernet's least, without its checksum
    constexpr std::array<std::uint8_t, 10> kind{0x80, 0x35,        // RARP
                                                0,    1,    8, 0,  // Ethernet, IPv4
                                                6,    4,           // lengths of their addresses
                                                0,    3};          // request reverse
    Frame& frame = burst.frames[0];
    burst.count = 1;
    frame.start(bytes, bytes);
    const auto head = frame.head();
    std::ranges::fill(head, std::byte{0});
    std::ranges::fill(head.first(6), std::byte{0xff});
    std::ranges::copy(mac_, head.begin() + 6);
    std::ranges::copy(std::as_bytes(std::span(kind)), head.begin() + 12);
    std::ranges::copy(mac_, head.begin() + 22);  // sender
    std::ranges::copy(mac_, head.begin() + 32);  // target
    Tally tally;
    tally.add(frame.length());
    tally.flush(traffic_);
    return true;
  }
  void release() override {}
  bool arm() override { return false; }
  void disarm() override {}
  int wake_fd() const override { return -1; }
  void woken() override {}
  Traffic& traffic() override { return traffic_; }
  PortId port() const override { return port_; }

 private:
  const std::span<const std::byte, 6> mac_;
  const PortId port_;
  Traffic& traffic_;
};

}  // namespace

Device::Device(Setup setup, ToGuest& to_guest, std::vector<Worker*> workers)
    : setup_(std::move(setup)),
      to_guest_(to_guest),
      workers_(std::move(workers)),
      from_guest_stats_(2 * std::size_t{setup_.pairs}),
      from_guest_(2 * std::size_t{setup_.pairs}) {}

Device::~Device() = default;

std::uint64_t Device::features() const {
  // Who leaves the configuration space to us leaves the control queue, too (crosvm).
  if (!setup_.serves_config) return always_offered | by_control_queue;
  return always_offered | feature::status | (setup_.mac ? feature::mac : 0);
}

std::uint64_t Device::protocol_features() const {
  using vhost::bit;
  std::uint64_t features = bit(vhost::protocol_feature::rarp) | bit(vhost::protocol_feature::mtu);
  if (setup_.serves_config) features |= bit(vhost::protocol_feature::config);
  return features;
}

void Device::set_features(std::uint64_t accepted) {
  accepted_ = accepted;
  // A front-end sends the MTU in front of the features of a driver that takes it; another driver,
  // or the next front-end, is not bound by it.
  if ((accepted & feature::mtu) == 0) mtu_ = most_mtu;
}

void Device::read_config(std::uint32_t offset_bytes, std::span<std::byte> out) {
  Config config{};
  if (setup_.mac) std::ranges::copy(*setup_.mac, config.mac);
  config.status = status_link_up;
  config.max_virtqueue_pairs = setup_.pairs;
  config.mtu = mtu_;
  const auto bytes = std::as_bytes(std::span(&config, 1));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t at = std::uint64_t{offset_bytes} + i;
    out[i] = at < bytes.size() ? bytes[at] : std::byte{0};
  }
}

vhost::Result<void> Device::write_config(std::uint32_t, std::span<const std::byte>) {
  return vhost::fail(vhost::Fault::front_end,
                     "a write to the configuration space, of which nothing is the driver's");
}

vhost::Result<void> Device::set_mtu(std::uint64_t bytes) {
  if (bytes < least_mtu || bytes > most_mtu) {
    return vhost::fail(vhost::Fault::front_end,
                       "an MTU of " + std::to_string(bytes) + " bytes; it must be from " +
                           std::to_string(least_mtu) + " to " + std::to_string(most_mtu));
  }
  mtu_ = static_cast<std::uint16_t>(bytes);
  const std::uint32_t longest = GuestForm::of(accepted_, mtu_).longest_plain;
  post(worker_of(0), [this, longest] { to_guest_.set_longest_plain(longest); });
  return {};
}

vhost::Result<void> Device::announce(std::array<std::byte, 6> mac) {
  Worker& worker = worker_of(0);
  post(worker, [this, &worker, mac] {
    Announcement source(mac, setup_.port, announced_);
    worker.serve_once(source);
  });
  return {};
}

Worker& Device::worker_of(std::uint16_t pair) const {
  return *workers_[(static_cast<std::size_t>(setup_.port) + pair) % workers_.size()];
}

/// Does a task on a worker. Once one did not come round, none is asked any more.
void Device::post(Worker& worker, std::function<void()> task) {
  if (!abandoned_) abandoned_ = !worker.post(std::move(task));
}

/// After this no worker uses a call descriptor that it could only have found before.
void Device::let_all_come_round() {
  for (Worker* const worker : workers_) post(*worker, [] {});
}

void Device::start_ring(std::uint16_t index, vhost::StartedRing ring) {
  const auto pair = static_cast<std::uint16_t>(index / 2);
  Worker& worker = worker_of(pair);
  if (is_receive(index)) {
    to_guest_.make_room(pair);
    const auto handed = std::make_shared<vhost::StartedRing>(std::move(ring));
    post(worker, [this, &worker, pair, handed, form = GuestForm::of(accepted_, mtu_)] {
      to_guest_.start(pair, std::move(*handed), form);
      to_guest_.flush(worker.number());
    });
    return;
  }
  auto& stats = from_guest_stats_[pair];
  if (!stats) stats = std::make_unique<QueueStats>();
  FromGuest::Setup setup{setup_.port, pair, setup_.name, GuestForm::header_bytes_of(accepted_),
                         allowed_by(accepted_)};
  from_guest_[pair] =
      std::make_unique<FromGuest>(std::move(setup), std::move(ring), worker.desk(), *stats);
  post(worker, [&worker, queue = from_guest_[pair].get()] {
    queue->call();
    worker.add(*queue);
  });
}

vhost::Result<vhost::AnyRing> Device::stop_ring(std::uint16_t index) {
  const auto pair = static_cast<std::uint16_t>(index / 2);
  Worker& worker = worker_of(pair);
  // Shared with the task, which may outlive our patience.
  const auto ring = std::make_shared<std::optional<vhost::StartedRing>>();
  if (is_receive(index)) {
    post(worker, [this, &worker, pair, ring] {
      to_guest_.flush(worker.number());  // what was delivered until now may be all for a while
      ring->emplace(to_guest_.stop(pair));
    });
    let_all_come_round();
  } else {
    post(worker, [&worker, ring, queue = from_guest_[pair].get()] {
      worker.remove(*queue);
      ring->emplace(vhost::StartedRing{queue->give_up_ring(), nullptr, nullptr, nullptr});
    });
  }
  if (abandoned_) {
    return vhost::fail(vhost::Fault::host, "a worker did not come round; the process ends");
  }
  if (!is_receive(index)) from_guest_[pair].reset();
  return std::move((*ring)->ring);
}

void Device::set_call(std::uint16_t index, std::shared_ptr<const vhost::EventFd> call) {
  const auto pair = static_cast<std::uint16_t>(index / 2);
  Worker& worker = worker_of(pair);
  // Whatever is called until now ends here, after the workers have come round.
  const auto old = std::make_shared<std::shared_ptr<const vhost::EventFd>>();
  if (is_receive(index)) {
    post(worker, [this, &worker, pair, call, old] {
      *old = to_guest_.set_call(pair, call);
      to_guest_.flush(worker.number());
    });
    let_all_come_round();
  } else {
    post(worker, [call, old, queue = from_guest_[pair].get()] { *old = queue->change_call(call); });
  }
}

void Device::move_to(std::shared_ptr<const vhost::MemoryMap> memory, vhost::Drain) {
  // Nothing outlives a turn: there is nothing to drain.
  post(worker_of(0), [this, memory, &worker = worker_of(0)] {
    to_guest_.move_to(memory);
    to_guest_.flush(worker.number());  // a ring may have broken
  });
  for (std::uint16_t pair = 0; pair < from_guest_.size(); ++pair) {
    if (!from_guest_[pair]) continue;
    post(worker_of(pair), [memory, queue = from_guest_[pair].get()] { queue->move_to(memory); });
  }
}

}  // namespace net
