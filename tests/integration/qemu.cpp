#include "tests/integration/qemu.hpp"

namespace integration {

using vhost::bit;
using vhost::bytes_of;
using vhost::Request;
using vhost::VringState;
namespace feature = vhost::feature;
namespace protocol = vhost::protocol_feature;
namespace status_bit = vhost::status;

namespace {

/// What QEMU 7.2 knows of protocol features, whether it uses them or not.
constexpr std::uint64_t known_protocol_features = 0x1ffff;
constexpr std::size_t memory_bytes = 16 << 20;
constexpr std::size_t config_bytes = 57;

}  // namespace

Qemu::Qemu(const std::string& socket, const QemuOptions& options)
    : options_(options), connection_(connect(socket)) {
  const auto offered = must(connection_.ask_for<std::uint64_t>(Request::get_features));
  const auto protocol = must(connection_.ask_for<std::uint64_t>(Request::get_protocol_features));
  say(Request::set_protocol_features, protocol & known_protocol_features);
  (void)must(connection_.ask_for<std::uint64_t>(Request::get_queue_num));
  (void)must(connection_.ask_for<std::uint64_t>(Request::get_max_mem_slots));
  if (vhost::has(protocol, protocol::backend_req)) {
    must(connection_.open_channel([](const vhost::Message&) -> std::uint64_t { return 0; }));
  }
  say(Request::set_owner, std::span<const std::byte>{});
  (void)must(connection_.ask_for<std::uint64_t>(Request::get_features));

  features_ = offered & (options.features | bit(feature::version_1) | bit(feature::event_idx) |
                         bit(feature::indirect_desc) | bit(feature::protocol_features) |
                         (options.packed ? bit(feature::ring_packed) : 0));
  (void)must(memory_.add_region(memory_bytes));
  vhost::frontend::QueueOptions queue;
  queue.ring.size = options.size;
  queue.ring.event_idx = true;
  queue.ring.packed = options.packed;
  for (std::uint32_t ring = 0; ring < options.rings; ++ring) {
    queues_.push_back(std::make_unique<vhost::frontend::Queue>(
        must(vhost::frontend::Queue::create(memory_, queue))));
    say_fd(Request::set_vring_call, ring, queues_[ring]->call_fd());
    say_fd(Request::set_vring_err, ring, queues_[ring]->error_fd());
  }
  bases_.assign(options.rings, queues_.front()->ring().first_base());
  if (options.kind == Kind::net) return;
  std::vector<std::byte> config(sizeof(vhost::ConfigHeader) + config_bytes);
  const vhost::ConfigHeader header{0, config_bytes, 0};
  std::memcpy(config.data(), &header, sizeof header);
  if (must(connection_.ask(Request::get_config, config)).payload.size() != config.size()) {
    throw std::runtime_error("GET_CONFIG was answered with another size");
  }
}

std::uint64_t Qemu::status() {
  return must(connection_.ask_for<std::uint64_t>(Request::get_status));
}

void Qemu::add_status(std::uint8_t bits) {
  const std::uint64_t now = status();
  if ((now & bits) != bits) say(Request::set_status, now | bits);
}

void Qemu::accept_features() {
  say(Request::set_features, features_);
  add_status(status_bit::features_ok);
}

/// QEMU asks for a region once, and gives it again at each start until the driver resets.
void Qemu::take_inflight() {
  if (!inflight_fd_) {
    const vhost::InflightDescription wanted{0, 0, static_cast<std::uint16_t>(options_.rings),
                                            options_.size, 0};
    auto reply = must(connection_.ask(Request::get_inflight_fd, bytes_of(wanted)));
    if (reply.payload.size() != sizeof inflight_ || reply.fds.size() != 1) {
      throw std::runtime_error("GET_INFLIGHT_FD was refused");
    }
    inflight_ = vhost::payload_as<vhost::InflightDescription>(reply);
    inflight_fd_ = std::move(reply.fds.front());
  }
  const int fd = inflight_fd_.get();
  say(Request::set_inflight_fd, inflight_, std::span(&fd, 1));
}

/// Once: what the back-end has it keeps over stops and resets. Of a network device each pair of
/// rings shares it once more (seen with 7.2).
void Qemu::share_memory() {
  if (std::exchange(shared_, true)) return;
  const std::uint32_t times = options_.kind == Kind::net ? options_.rings / 2 : 1;
  for (std::uint32_t time = 0; time < times; ++time) {
    const auto& region = *memory_.regions().front();
    const int fd = region.fd();
    say_and_wait(Request::add_mem_reg, vhost::SingleRegion{0, region.wire()}, std::span(&fd, 1));
  }
}

void Qemu::start_ring(std::uint32_t ring) {
  const vhost::frontend::Queue& queue = *queues_[ring];
  say(Request::set_vring_num, VringState{ring, queue.ring().size()});
  say(Request::set_vring_base, VringState{ring, bases_[ring]});
  say(Request::set_vring_addr, queue.ring().addresses(ring));
  say_fd(Request::set_vring_kick, ring, queue.kick_fd());
}

void Qemu::enable(std::uint32_t ring, bool on) {
  const VringState state{ring, on ? 1U : 0U};
  if (options_.version == Version::qemu_10) {
    say_and_wait(Request::set_vring_enable, state);
  } else {
    say(Request::set_vring_enable, state);
  }
}

void Qemu::start() {
  if (options_.kind == Kind::blk) {
    accept_features();
    take_inflight();
    for (std::uint32_t ring = 0; ring < options_.rings; ++ring) {
      say_fd(Request::set_vring_call, ring, queues_[ring]->call_fd());
    }
    accept_features();
    share_memory();
    for (std::uint32_t ring = 0; ring < options_.rings; ++ring) start_ring(ring);
    for (std::uint32_t ring = 0; ring < options_.rings; ++ring) enable(ring, true);
  } else {
    for (std::uint32_t pair = 0; pair < options_.rings; pair += 2) {
      accept_features();
      share_memory();
      start_ring(pair);
      start_ring(pair + 1);
      enable(pair, true);
      enable(pair + 1, true);
    }
  }
  add_status(status_bit::acknowledge | status_bit::driver | status_bit::driver_ok);
  for (const auto& queue : queues_) {
    if (queue->ring().outstanding() > 0) queue->kick();
  }
}

void Qemu::stop_ring(std::uint32_t ring) {
  const auto base =
      must(connection_.ask_for<VringState>(Request::get_vring_base, bytes_of(VringState{ring, 0})));
  if (base.index != ring) throw std::runtime_error("the base of another ring");
  bases_[ring] = base.value;
}

void Qemu::stop() {
  const bool early = options_.version == Version::qemu_7_2;
  if (options_.kind == Kind::blk) {
    if (early) say(Request::set_status, std::uint64_t{0});
    for (std::uint32_t ring = 0; ring < options_.rings; ++ring) enable(ring, false);
    for (std::uint32_t ring = 0; ring < options_.rings; ++ring) stop_ring(ring);
  } else {  // rings stay enabled; the status goes with the last pair
    for (std::uint32_t pair = 0; pair < options_.rings; pair += 2) {
      if (early && pair + 2 == options_.rings) say(Request::set_status, std::uint64_t{0});
      stop_ring(pair);
      stop_ring(pair + 1);
    }
  }
  if (!early) say(Request::set_status, std::uint64_t{0});
}

void Qemu::reset() {
  if (options_.version == Version::qemu_10) {
    say(Request::reset_device, std::span<const std::byte>{});
  }
  inflight_fd_ = vhost::UniqueFd();
  for (std::uint32_t ring = 0; ring < options_.rings; ++ring) {
    queues_[ring]->ring().reset();
    bases_[ring] = queues_[ring]->ring().first_base();
  }
}

}  // namespace integration
