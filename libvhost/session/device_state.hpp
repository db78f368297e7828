#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "libvhost/ring/ring.hpp"
#include "libvhost/session/event_fd.hpp"
#include "libvhost/session/request_table.hpp"
#include "libvhost/wire/message.hpp"

/*
 * What a front-end has configured so far, and the rules for changing it.
 *
 * Plain data: no socket, no thread, no mapping. A handler either changes the state and returns
 * nothing, or refuses and has changed nothing. Whether a ring runs is what the session found out
 * by starting it; what it needs to be started is known here (`complete`, `enabled`).
 *
 * The life of a ring (vhost-user, "Ring states"): it is configured by NUM, ADDR and BASE, given a
 * kick descriptor, enabled, and then runs until GET_VRING_BASE, a disable, or a reset.
 *
 * What a ring holds when it is disabled may be for the device to discard. What it holds before it
 * is enabled waits: many front-ends enable a ring last, and it may be full from a former
 * connection.
 */
namespace vhost {

/// How a ring learns of new chains.
enum class Kick : std::uint8_t {
  none,     ///< not told yet: the ring is stopped
  by_fd,    ///< a write to `kick`
  polling,  ///< SET_VRING_KICK without a descriptor: never, look for yourself
};

struct VringConfig {
  RingSetup setup;
  bool has_addresses = false;
  bool has_base = false;
  bool enabled = false;
  bool running = false;     ///< enabled, or to be discarded
  bool discarding = false;  ///< of the two, it runs to be discarded
  bool cut_off = false;     ///< disabled while it ran, and not enabled or told to stop since
  bool suspended = false;   ///< disabled, with requests left in its inflight section, perhaps
  bool parked = false;      ///< it was broken when it stopped; until it is told to go on
  Kick kick_mode = Kick::none;
  std::shared_ptr<const EventFd> kick;
  std::shared_ptr<const EventFd> call;
  std::shared_ptr<const EventFd> error;
};

/// One of SET_VRING_KICK, _CALL and _ERR, after its descriptor was looked at.
struct VringFd {
  std::uint32_t index;
  std::shared_ptr<const EventFd> fd;  ///< null: NOFD
};

class DeviceState {
 public:
  /// The feature bits of virtio and vhost that the session itself serves.
  static constexpr std::uint64_t transport_features =
      bit(feature::log_all) | bit(feature::any_layout) | bit(feature::indirect_desc) |
      bit(feature::event_idx) | bit(feature::protocol_features) | bit(feature::version_1) |
      bit(feature::access_platform) | bit(feature::ring_packed);
  /// The protocol features that every device has.
  static constexpr std::uint64_t session_protocol_features =
      bit(protocol_feature::mq) | bit(protocol_feature::log_shmfd) |
      bit(protocol_feature::reply_ack) | bit(protocol_feature::backend_req) |
      bit(protocol_feature::reset_device) | bit(protocol_feature::configure_mem_slots) |
      bit(protocol_feature::status) | bit(protocol_feature::gpa_addresses);
  /// Those that a device may add. What else it names is not offered: nobody would serve it.
  static constexpr std::uint64_t device_protocol_features =
      bit(protocol_feature::rarp) | bit(protocol_feature::mtu) | bit(protocol_feature::config) |
      bit(protocol_feature::inflight_shmfd) | bit(protocol_feature::get_vring_base_inflight) |
      bit(protocol_feature::get_vring_base_skip_drain);

  /// `extra_protocol_features` are offered as they are.
  DeviceState(std::uint64_t features, std::uint64_t protocol_features, std::uint16_t max_queues,
              std::uint64_t extra_protocol_features = 0)
      : offered_(features | transport_features),
        protocol_offered_(session_protocol_features |
                          (protocol_features & device_protocol_features) | extra_protocol_features),
        rings_(max_queues) {}

  /// Whether a message has the form its rule wants and may come now.
  [[nodiscard]] Result<void> admit(const RequestRule& rule, const Message& message) const;

  [[nodiscard]] std::uint64_t offered() const { return offered_; }
  [[nodiscard]] std::uint64_t accepted() const { return accepted_; }
  [[nodiscard]] std::uint64_t protocol_offered() const { return protocol_offered_; }
  [[nodiscard]] std::uint64_t protocol_accepted() const { return protocol_accepted_; }
  [[nodiscard]] bool protocol_has(unsigned number) const { return has(protocol_accepted_, number); }
  [[nodiscard]] std::vector<VringConfig>& rings() { return rings_; }
  [[nodiscard]] const std::vector<VringConfig>& rings() const { return rings_; }
  [[nodiscard]] bool any_running() const;

  /// While a ring runs, only whether memory is logged may change.
  [[nodiscard]] Result<void> set_features(std::uint64_t features);
  [[nodiscard]] Result<void> set_protocol_features(std::uint64_t features);
  [[nodiscard]] Result<void> set_vring_num(const VringState& request);
  [[nodiscard]] Result<void> set_vring_addr(const VringAddr& request);
  [[nodiscard]] Result<void> set_vring_base(const VringState& request);
  /// Records it. Whether the ring has to start or stop is for the session to see.
  [[nodiscard]] Result<void> set_vring_enable(const VringState& request);
  [[nodiscard]] Result<void> set_vring_kick(const VringFd& request);
  [[nodiscard]] Result<void> set_vring_call(const VringFd& request);
  [[nodiscard]] Result<void> set_vring_err(const VringFd& request);
  /// The index of an existing ring.
  [[nodiscard]] Result<std::uint16_t> ring_index(std::uint64_t index) const;

  [[nodiscard]] Result<void> set_status(std::uint64_t status);
  [[nodiscard]] std::uint8_t status() const { return status_; }

  /// Everything that a ring needs beside its enable is there.
  [[nodiscard]] bool complete(std::uint16_t index) const;
  [[nodiscard]] bool enabled(std::uint16_t index) const;
  /// What the ring is to be made of, features included.
  [[nodiscard]] RingSetup setup_of(std::uint16_t index) const;
  /// After GET_VRING_BASE: it keeps its configuration and waits for a new kick descriptor.
  void stopped(std::uint16_t index, std::uint32_t base);

  /// RESET_OWNER: no ring may run until the front-end says so again.
  void disable_all();
  /// RESET_DEVICE: as a device that nobody has configured. What belongs to the connection stays:
  /// protocol features, and the call and error descriptors, which a front-end sends only once.
  /// No ring may be running.
  void reset();

 private:
  [[nodiscard]] Result<VringConfig*> stopped_ring(std::uint32_t index, const char* what);

  std::uint64_t offered_;
  std::uint64_t protocol_offered_;
  std::uint64_t accepted_ = 0;
  std::uint64_t protocol_accepted_ = 0;
  std::uint8_t status_ = 0;
  bool features_refused_ = false;
  std::vector<VringConfig> rings_;
};

}  // namespace vhost
