#include "tests/integration/other_front_ends.hpp"

namespace integration {

using vhost::bit;
using vhost::Request;
using vhost::VringState;
using vhost::frontend::Queue;
using vhost::frontend::QueueOptions;
using vhost::frontend::RegionOptions;
namespace feature = vhost::feature;
namespace protocol = vhost::protocol_feature;

namespace {

constexpr unsigned device_state = 19;
constexpr unsigned shmem = 22;

constexpr std::uint64_t known_to_cloud_hypervisor =
    bit(protocol::mq) | bit(protocol::log_shmfd) | bit(protocol::reply_ack) |
    bit(protocol::config) | bit(protocol::inflight_shmfd) | bit(protocol::configure_mem_slots) |
    bit(device_state);
constexpr std::uint64_t known_to_crosvm = bit(protocol::mq) | bit(protocol::reply_ack) |
                                          bit(protocol::backend_req) | bit(protocol::config) |
                                          bit(device_state) | bit(shmem);
/// VIRTIO 2.2
constexpr std::uint64_t device_specific = (bit(24) - 1) | ~(bit(50) - 1);
constexpr std::uint64_t known_to_spdk = bit(protocol::mq) | bit(protocol::config);

}  // namespace

FrontEnd::FrontEnd(const std::string& socket, std::uint64_t known_protocol_features)
    : connection_(connect(socket)), known_protocol_features_(known_protocol_features) {}

void FrontEnd::make_rings(std::uint32_t count, std::uint16_t size, std::uint64_t features) {
  QueueOptions options;
  options.ring.size = size;
  options.ring.event_idx = vhost::has(features, feature::event_idx);
  options.ring.indirect = vhost::has(features, feature::indirect_desc) ? 8 : 0;
  queues_.clear();
  for (std::uint32_t ring = 0; ring < count; ++ring) {
    queues_.push_back(std::make_unique<Queue>(must(Queue::create(memory_, options))));
  }
}

void FrontEnd::accept_protocol_features(bool asking) {
  if (asking) {
    protocol_features_ = ask_number(Request::get_protocol_features) & known_protocol_features_;
  }
  say(Request::set_protocol_features, protocol_features_);
}

void FrontEnd::say(Request request, std::span<const std::byte> payload, std::span<const int> fds) {
  must(connection_.send_raw(std::to_underlying(request), flags_, payload, fds));
  if (flags_ == 0) return;
  const auto answer = must(connection_.receive());
  if (answer.request != std::to_underlying(request) || answer.payload.size() != 8 ||
      vhost::payload_as<std::uint64_t>(answer) != 0) {
    throw std::runtime_error(vhost::frontend::request_name(std::to_underlying(request)) +
                             " was not acknowledged");
  }
}

vhost::Message FrontEnd::ask(Request request, std::span<const std::byte> payload) {
  must(connection_.send_raw(std::to_underlying(request), flags_, payload));
  auto answer = must(connection_.receive());
  if (answer.request != std::to_underlying(request)) {
    throw std::runtime_error("the answer is one to " +
                             vhost::frontend::request_name(answer.request));
  }
  return answer;
}

std::uint64_t FrontEnd::ask_number(Request request) {
  return vhost::payload_as<std::uint64_t>(ask(request));
}

std::vector<std::byte> FrontEnd::ask_config(std::uint32_t offset, std::uint32_t size,
                                            std::uint32_t flags) {
  const vhost::ConfigHeader header{offset, size, flags};
  std::vector<std::byte> payload(sizeof header + size);
  std::memcpy(payload.data(), &header, sizeof header);
  const auto answer = ask(Request::get_config, payload);
  if (answer.payload.size() != payload.size() ||
      std::memcmp(answer.payload.data(), payload.data(), sizeof header) != 0) {
    throw std::runtime_error("GET_CONFIG was answered for other bytes");
  }
  return {answer.payload.begin() + sizeof header, answer.payload.end()};
}

std::uint32_t FrontEnd::ask_base(std::uint32_t ring) {
  const auto base = vhost::payload_as<VringState>(
      ask(Request::get_vring_base, vhost::bytes_of(VringState{ring, 0})));
  if (base.index != ring) throw std::runtime_error("the base of another ring");
  return base.value;
}

void FrontEnd::say_table() {
  std::vector<std::byte> payload(sizeof(vhost::MemoryTableHeader));
  std::vector<int> fds;
  for (const auto& region : memory_.regions()) {
    const auto bytes = vhost::bytes_of(region->wire());
    payload.insert(payload.end(), bytes.begin(), bytes.end());
    fds.push_back(region->fd());
  }
  const vhost::MemoryTableHeader header{static_cast<std::uint32_t>(fds.size()), 0};
  std::memcpy(payload.data(), &header, sizeof header);
  say(Request::set_mem_table, payload, fds);
}

// --- cloud-hypervisor ---------------------------------------------------------------------------

CloudHypervisor::CloudHypervisor(const std::string& socket, std::uint32_t rings,
                                 std::uint64_t known)
    : FrontEnd(socket, known_to_cloud_hypervisor), count_(rings), known_(known) {
  (void)must(memory_.add_region(memory_bytes));
  say(Request::set_owner);
  offered_ = ask_number(Request::get_features);
  accept_protocol_features();
  if (vhost::has(protocol_features_, protocol::reply_ack)) flags_ = vhost::header_need_reply;
  if (vhost::has(protocol_features_, protocol::mq) && ask_number(Request::get_queue_num) < rings) {
    throw std::runtime_error("the back-end has too few rings");
  }
}

std::uint64_t CloudHypervisor::passed_on() const {
  return offered_ &
         (known_ | bit(feature::indirect_desc) | bit(feature::event_idx) | bit(feature::version_1) |
          bit(feature::in_order) | bit(feature::protocol_features));
}

void CloudHypervisor::write_config(std::uint32_t offset, std::span<const std::byte> bytes) {
  const vhost::ConfigHeader header{offset, static_cast<std::uint32_t>(bytes.size()), writable};
  std::vector<std::byte> payload(vhost::bytes_of(header).begin(), vhost::bytes_of(header).end());
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  say(Request::set_config, payload);
}

void CloudHypervisor::activate(std::uint64_t accepted, std::uint16_t size) {
  accepted_ = (accepted & passed_on()) | bit(feature::protocol_features);
  make_rings(count_, size, accepted_);
  inflight_fd_ = vhost::UniqueFd();
  set_up(false);
}

void CloudHypervisor::set_up(bool by_used_index) {
  say(Request::set_features, accepted_);
  say_table();
  for (std::uint32_t ring = 0; ring < count_; ++ring) {
    say_ring(Request::set_vring_num, ring, queues_[ring]->ring().size());
  }
  if (vhost::has(protocol_features_, protocol::inflight_shmfd)) take_inflight();
  for (std::uint32_t ring = 0; ring < count_; ++ring) {
    const auto& areas = queues_[ring]->ring().areas();
    say_addresses(ring);
    say_ring(Request::set_vring_base, ring,
             index_of(by_used_index ? areas.device_area() : areas.driver_area()));
    say_fd(Request::set_vring_call, ring, queues_[ring]->call_fd());
    say_fd(Request::set_vring_kick, ring, queues_[ring]->kick_fd());
  }
  enable_all(true);
}

std::uint16_t CloudHypervisor::index_of(std::span<const std::byte> area) const {
  return vhost::read_once<std::uint16_t>(area.data() + vhost::SplitLayout::idx_at);
}

void CloudHypervisor::take_inflight() {
  if (!inflight_fd_) {
    const vhost::InflightDescription wanted{0, 0, static_cast<std::uint16_t>(count_),
                                            queues_.front()->ring().size(), 0};
    auto answer = ask(Request::get_inflight_fd, vhost::bytes_of(wanted));
    if (answer.fds.size() != 1) throw std::runtime_error("GET_INFLIGHT_FD was refused");
    inflight_ = vhost::payload_as<vhost::InflightDescription>(answer);
    inflight_fd_ = std::move(answer.fds.front());
  }
  const int fd = inflight_fd_.get();
  say(Request::set_inflight_fd, inflight_, std::span(&fd, 1));
}

void CloudHypervisor::enable_all(bool on) {
  for (std::uint32_t ring = 0; ring < count_; ++ring) {
    say_ring(Request::set_vring_enable, ring, on ? 1 : 0);
  }
}

void CloudHypervisor::reset() {
  for (std::uint32_t ring = 0; ring < count_; ++ring) {
    say_ring(Request::set_vring_enable, ring, 0);
    (void)ask_base(ring);
  }
}

std::size_t CloudHypervisor::plug(std::size_t bytes) {
  const std::size_t id = must(memory_.add_region(bytes));
  const auto& region = *memory_.regions()[id];
  const int fd = region.fd();
  say(Request::add_mem_reg, vhost::SingleRegion{0, region.wire()}, std::span(&fd, 1));
  return id;
}

void CloudHypervisor::reconnect(const std::string& socket) {
  connection_ = connect(socket);
  flags_ = 0;
  say(Request::set_owner);
  offered_ = ask_number(Request::get_features);
  accept_protocol_features(false);
  if (vhost::has(protocol_features_, protocol::reply_ack)) flags_ = vhost::header_need_reply;
  const bool by_used_index = !inflight_fd_ && vhost::has(accepted_, feature::in_order);
  set_up(by_used_index);
  if (!by_used_index) return;
  for (const auto& queue : queues_) queue->kick();
}

// --- crosvm -------------------------------------------------------------------------------------

Crosvm::Crosvm(const std::string& socket) : FrontEnd(socket, known_to_crosvm) {
  (void)must(memory_.add_region(memory_bytes));
  say(Request::set_owner);
  offered_ = ask_number(Request::get_features);
  accept_protocol_features();
  if (vhost::has(protocol_features_, protocol::backend_req)) {
    must(connection_.open_channel([](const vhost::Message&) -> std::uint64_t { return 0; }));
  }
  rings_offered_ = ask_number(Request::get_queue_num);
}

std::uint64_t Crosvm::passed_on() const {
  return offered_ & (device_specific | bit(feature::event_idx) | bit(feature::version_1) |
                     bit(feature::protocol_features));
}

void Crosvm::activate(std::uint64_t accepted, std::uint32_t rings, std::uint16_t size) {
  accepted = (accepted & passed_on()) | bit(feature::protocol_features);
  if (accepted != std::exchange(accepted_, accepted)) say(Request::set_features, accepted_);
  make_rings(rings, size, accepted_);
  bases_.assign(rings, 0);
  set_up();
}

void Crosvm::set_up() {
  say_table();
  for (std::uint32_t ring = 0; ring < rings(); ++ring) {
    say_ring(Request::set_vring_num, ring, queues_[ring]->ring().size());
    say_addresses(ring);
    say_ring(Request::set_vring_base, ring, bases_[ring]);
    say_fd(Request::set_vring_call, ring, queues_.front()->call_fd());
    say_fd(Request::set_vring_kick, ring, queues_[ring]->kick_fd());
    say_ring(Request::set_vring_enable, ring, 1);
  }
}

void Crosvm::sleep() {
  for (std::uint32_t ring = 0; ring < rings(); ++ring) {
    say_ring(Request::set_vring_enable, ring, 0);
    bases_[ring] = ask_base(ring);
  }
}

// --- SPDK ---------------------------------------------------------------------------------------

Spdk::Spdk(const std::string& socket, std::uint64_t wanted) : FrontEnd(socket, known_to_spdk) {
  // Its own addresses are those of the guest, and huge pages come in several files.
  for (const std::uint64_t address : {0x2000'0020'0000, 0x2000'0240'0000}) {
    RegionOptions options;
    options.guest_address = address;
    (void)must(memory_.add_region(memory_bytes, options));
  }
  say(Request::set_owner);
  offered_ = ask_number(Request::get_features);
  accepted_ = offered_ & (wanted | bit(feature::version_1) | bit(feature::protocol_features));
  say(Request::set_features, accepted_);
  accept_protocol_features();
}

void Spdk::start(std::uint32_t rings, std::uint16_t size) {
  make_rings(rings, size, accepted_);
  for (std::uint32_t ring = 0; ring < rings; ++ring) {
    say_ring(Request::set_vring_enable, ring, 1);
  }
  if (ask_number(Request::get_queue_num) < rings) throw std::runtime_error("too few rings");
  for (std::uint32_t ring = 0; ring < rings; ++ring) {
    say_fd(Request::set_vring_call, ring, queues_[ring]->call_fd());
  }
  share_memory();
  for (std::uint32_t ring = 0; ring < rings; ++ring) {
    queues_[ring]->ring().disarm_calls();  // it polls
    say_ring(Request::set_vring_num, ring, size);
    say_ring(Request::set_vring_base, ring, 0);
    say_addresses(ring);
    say_fd(Request::set_vring_kick, ring, queues_[ring]->kick_fd());
  }
}

void Spdk::share_memory() {
  for (std::size_t i = 0; i < memory_.regions().size(); ++i) {
    say_table();
    (void)ask_number(Request::get_features);
  }
}

void Spdk::stop() {
  for (std::uint32_t ring = 0; ring < rings(); ++ring) (void)ask_base(ring);
  share_memory();
}

}  // namespace integration
