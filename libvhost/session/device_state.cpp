#include "libvhost/session/device_state.hpp"

#include <algorithm>
#include <bit>
#include <charconv>

namespace vhost {
namespace {

std::unexpected<Error> refuse(std::string what) {
  return fail(Fault::front_end, std::move(what));
}

std::string hex(std::uint64_t value) {
  std::array<char, 17> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + 16, value, 16).ptr;
  return "0x" + std::string(digits.data(), end);
}

}  // namespace

Result<void> DeviceState::admit(const RequestRule& rule, const Message& message) const {
  const std::string name(rule.name);
  if ((message.flags & header_reply) != 0) return refuse(name + " came as a reply");
  const std::size_t bytes = message.payload.size();
  if (bytes < rule.payload_least || bytes > rule.payload_most) {
    return refuse(name + " came with " + std::to_string(bytes) + " bytes of payload");
  }
  const std::size_t fds = message.fds.size();
  if (fds < rule.fds_least || fds > rule.fds_most) {
    return refuse(name + " came with " + std::to_string(fds) + " file descriptors");
  }
  // QEMU enables a network device's rings before it tells any features.
  if (rule.gate == Gate::protocol_features_accepted && accepted_ != 0 &&
      !has(accepted_, feature::protocol_features)) {
    return refuse(name + " came without VHOST_USER_F_PROTOCOL_FEATURES");
  }
  if (rule.gate == Gate::iommu_accepted && !has(accepted_, feature::access_platform)) {
    return refuse(name + " came without VIRTIO_F_ACCESS_PLATFORM");
  }
  if (rule.gate >= Gate{0} && !protocol_has(static_cast<unsigned>(rule.gate))) {
    return refuse(name + " came without its protocol feature");
  }
  if (rule.running == WhileRunning::no && any_running()) {
    return refuse(name + " came while a ring runs");
  }
  return {};
}

bool DeviceState::any_running() const {
  return std::ranges::any_of(rings_, [](const VringConfig& ring) { return ring.running; });
}

Result<void> DeviceState::set_features(std::uint64_t features) {
  if ((features & ~offered_) != 0) {
    features_refused_ = true;
    return refuse("the driver accepts features that were not offered: " +
                  hex(features & ~offered_));
  }
  if (((features ^ accepted_) & ~bit(feature::log_all)) != 0 && any_running()) {
    return refuse("the features change while a ring runs");
  }
  features_refused_ = false;
  accepted_ = features;
  return {};
}

Result<void> DeviceState::set_protocol_features(std::uint64_t features) {
  if ((features & ~protocol_offered_) != 0) {
    return refuse("the front-end accepts protocol features that were not offered: " +
                  hex(features & ~protocol_offered_));
  }
  if (has(features, protocol_feature::get_vring_base_inflight) &&
      !has(features, protocol_feature::inflight_shmfd)) {
    return refuse("GET_VRING_BASE_INFLIGHT is accepted without INFLIGHT_SHMFD");
  }
  if (has(features, protocol_feature::get_vring_base_skip_drain) &&
      !has(features, protocol_feature::get_vring_base_inflight)) {
    return refuse("GET_VRING_BASE_SKIP_DRAIN is accepted without GET_VRING_BASE_INFLIGHT");
  }
  protocol_accepted_ = features;
  return {};
}

Result<std::uint16_t> DeviceState::ring_index(std::uint64_t index) const {
  if (index >= rings_.size()) {
    return refuse("ring " + std::to_string(index) + " does not exist; there are " +
                  std::to_string(rings_.size()));
  }
  return static_cast<std::uint16_t>(index);
}

Result<VringConfig*> DeviceState::stopped_ring(std::uint32_t index, const char* what) {
  const auto known = ring_index(index);
  if (!known) return std::unexpected(known.error());
  VringConfig& ring = rings_[*known];
  if (ring.running) {
    return refuse(std::string(what) + " for ring " + std::to_string(index) + " while it runs");
  }
  return &ring;
}

Result<void> DeviceState::set_vring_num(const VringState& request) {
  const auto ring = stopped_ring(request.index, "SET_VRING_NUM");
  if (!ring) return std::unexpected(ring.error());
  const bool packed = has(accepted_, feature::ring_packed);
  if (request.value == 0 || request.value > max_ring_size ||
      (!packed && !std::has_single_bit(request.value))) {
    return refuse("a ring of " + std::to_string(request.value) + " descriptors; it must be " +
                  (packed ? "1 to 32768" : "a power of two up to 32768"));
  }
  (*ring)->setup.size = static_cast<std::uint16_t>(request.value);
  return {};
}

Result<void> DeviceState::set_vring_addr(const VringAddr& request) {
  const auto index = ring_index(request.index);
  if (!index) return std::unexpected(index.error());
  VringConfig& ring = rings_[*index];
  RingSetup setup = ring.setup;
  setup.descriptors = FrontendAddress{request.descriptors};
  setup.available = FrontendAddress{request.available};
  setup.used = FrontendAddress{request.used};
  setup.log_used = (request.flags & vring_flag_log) != 0;
  setup.log_address = request.log;

  const bool same = setup.descriptors == ring.setup.descriptors &&
                    setup.available == ring.setup.available && setup.used == ring.setup.used;
  if (ring.running && !same) {
    return refuse("SET_VRING_ADDR moves ring " + std::to_string(request.index) + " while it runs");
  }
  if ((request.flags & ~vring_flag_log) != 0) {
    return refuse("SET_VRING_ADDR has unknown flags " + hex(request.flags));
  }
  // VIRTIO 2.7 and 2.8: 16 bytes for descriptors, 4 for the used ring and for event suppression,
  // 2 for the available ring.
  const unsigned available_alignment = has(accepted_, feature::ring_packed) ? 4 : 2;
  if (request.descriptors % 16 != 0 || request.available % available_alignment != 0 ||
      request.used % 4 != 0) {
    return refuse("the areas of ring " + std::to_string(request.index) + " are not aligned");
  }
  ring.setup = setup;
  ring.has_addresses = true;
  return {};
}

Result<void> DeviceState::set_vring_base(const VringState& request) {
  const auto ring = stopped_ring(request.index, "SET_VRING_BASE");
  if (!ring) return std::unexpected(ring.error());
  if (request.value > 0xffff && !has(accepted_, feature::ring_packed)) {
    return refuse("a split ring cannot start at " + hex(request.value));
  }
  (*ring)->setup.base = request.value;
  (*ring)->has_base = true;
  return {};
}

Result<void> DeviceState::set_vring_enable(const VringState& request) {
  const auto index = ring_index(request.index);
  if (!index) return std::unexpected(index.error());
  if (request.value > 1) {
    return refuse("SET_VRING_ENABLE is " + std::to_string(request.value) + ", not 0 or 1");
  }
  VringConfig& ring = rings_[*index];
  ring.enabled = request.value == 1;
  ring.parked = false;
  ring.cut_off = !ring.enabled && ring.running;
  return {};
}

Result<void> DeviceState::set_vring_kick(const VringFd& request) {
  const auto index = ring_index(request.index);
  if (!index) return std::unexpected(index.error());
  VringConfig& ring = rings_[*index];
  ring.kick = request.fd;
  ring.kick_mode = request.fd ? Kick::by_fd : Kick::polling;
  ring.parked = false;
  return {};
}

Result<void> DeviceState::set_vring_call(const VringFd& request) {
  const auto index = ring_index(request.index);
  if (!index) return std::unexpected(index.error());
  rings_[*index].call = request.fd;
  return {};
}

Result<void> DeviceState::set_vring_err(const VringFd& request) {
  const auto index = ring_index(request.index);
  if (!index) return std::unexpected(index.error());
  rings_[*index].error = request.fd;
  rings_[*index].parked = false;
  return {};
}

Result<void> DeviceState::set_status(std::uint64_t status) {
  if (status > 0xff) return refuse("a device status of " + hex(status));
  status_ = static_cast<std::uint8_t>(status);
  // A front-end's 0 comes before it stops the rings (QEMU 7.2) or after (QEMU 10): what the
  // rings need must outlast it.
  if (status_ == 0 && !any_running()) features_refused_ = false;
  if (features_refused_) status_ &= static_cast<std::uint8_t>(~status::features_ok);
  return {};
}

bool DeviceState::complete(std::uint16_t index) const {
  const VringConfig& ring = rings_[index];
  return ring.kick_mode != Kick::none && ring.has_addresses && ring.setup.size != 0;
}

bool DeviceState::enabled(std::uint16_t index) const {
  // Without protocol features there is no SET_VRING_ENABLE: a ring is born enabled then.
  return rings_[index].enabled || !has(accepted_, feature::protocol_features);
}

RingSetup DeviceState::setup_of(std::uint16_t index) const {
  RingSetup setup = rings_[index].setup;
  setup.event_idx = has(accepted_, feature::event_idx);
  setup.indirect = has(accepted_, feature::indirect_desc);
  setup.packed = has(accepted_, feature::ring_packed);
  setup.iova = has(accepted_, feature::access_platform);
  if (setup.packed && !rings_[index].has_base) setup.base = new_packed_base;
  return setup;
}

void DeviceState::stopped(std::uint16_t index, std::uint32_t base) {
  VringConfig& ring = rings_[index];
  ring.running = false;
  ring.setup.base = base;
  ring.has_base = true;
}

void DeviceState::disable_all() {
  const bool has_enable = has(accepted_, feature::protocol_features);
  for (VringConfig& ring : rings_) {
    ring.enabled = false;
    ring.cut_off = false;
    if (has_enable) continue;
    ring.kick_mode = Kick::none;  // there is no SET_VRING_ENABLE: a new kick starts it
    ring.kick = nullptr;
  }
}

void DeviceState::reset() {
  accepted_ = 0;
  status_ = 0;
  features_refused_ = false;
  for (VringConfig& ring : rings_) {
    VringConfig fresh;
    fresh.call = std::move(ring.call);
    fresh.error = std::move(ring.error);
    ring = std::move(fresh);
  }
}

}  // namespace vhost
