#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "libvhost/ring/ring.hpp"
#include "libvhost/session/event_fd.hpp"
#include "libvhost/wire/error.hpp"
#include "libvhost/wire/protocol.hpp"

namespace vhost {

/// A ring on its way to the device, with the descriptors that go with it.
struct StartedRing {
  AnyRing ring;
  std::shared_ptr<const EventFd> kick;   ///< null: the driver never kicks, poll
  std::shared_ptr<const EventFd> call;   ///< null: the driver is never called
  std::shared_ptr<const EventFd> error;  ///< null: nobody wants to know that the ring broke
  bool discard = false;    ///< it is disabled: take what comes, and do nothing with it
  bool owed_only = false;  ///< take nothing but what AnyRing::owes(); stop_ring() comes next
};

/// Whether something that requests in flight may be using goes away.
enum class Drain : bool { no, yes };

/// What a device provides and a session drives.
///
/// All of it is called from the control thread, in answer to messages of the one front-end. A
/// ring that was started belongs to the device, on whatever thread it likes, until stop_ring()
/// gives it back; the session touches it in no other way. Rings are started and stopped in any
/// order and number; a ring index is always below max_queues().
class Device {
 public:
  virtual ~Device() = default;

  /// The device's own feature bits (VIRTIO 5); the session adds those of the transport.
  [[nodiscard]] virtual std::uint64_t features() const = 0;
  /// How many rings there are.
  [[nodiscard]] virtual std::uint16_t max_queues() const = 0;

  /// What GET_QUEUE_NUM answers, where a front-end would count anything but rings (QEMU asks a
  /// network device for pairs of them).
  [[nodiscard]] virtual std::uint16_t queues_offered() const { return max_queues(); }

  /// The protocol features of this kind of device, beside those that the session serves for all:
  /// any of DeviceState::device_protocol_features. Where one is missing, its messages are refused.
  [[nodiscard]] virtual std::uint64_t protocol_features() const {
    return bit(protocol_feature::config) | bit(protocol_feature::inflight_shmfd);
  }

  /// What the driver accepted. Not while a ring runs. 0: the device was reset.
  virtual void set_features(std::uint64_t accepted) = 0;

  /// The configuration space from `offset_bytes` on; what lies behind its end is zero.
  virtual void read_config(std::uint32_t offset_bytes, std::span<std::byte> out) = 0;
  /// A driver's write to it. Refuses, and changes nothing, where the driver may not write.
  [[nodiscard]] virtual Result<void> write_config(std::uint32_t offset_bytes,
                                                  std::span<const std::byte> bytes) = 0;

  /// NET_SET_MTU, where protocol_feature::mtu is offered; also while rings run. The largest packet
  /// that the driver is told to send and to expect. Refuses one that the device cannot have.
  [[nodiscard]] virtual Result<void> set_mtu(std::uint64_t bytes);
  /// SEND_RARP, where protocol_feature::rarp is offered; also while rings run. The guest came here
  /// by migration and does not tell its network itself: announce its address there. Front-ends do
  /// not wait for an answer, so a refusal ends the connection.
  [[nodiscard]] virtual Result<void> announce(std::array<std::byte, 6> mac);

  /// A place that outlives this process, if it dies, and comes to its successor. A device without
  /// such memories ignores it.
  virtual void keep_in(Keepsake) {}

  /// Whether a running ring that is disabled runs on to be discarded (vhost-user, "Ring states"):
  /// it is stopped, and started again with StartedRing::discard. Otherwise it stays stopped.
  [[nodiscard]] virtual bool discards_disabled(std::uint16_t) const { return false; }
  /// No ring runs, and one is about to. A device that may be served elsewhere meanwhile makes sure
  /// here that it is not. An error: no ring starts, and the connection ends; the front-end may try
  /// again.
  [[nodiscard]] virtual Result<void> begin() { return {}; }
  /// No ring runs any more, until the next begin(): the device may be served elsewhere.
  virtual void rest() {}
  /// Takes a ring over and serves it, from a first unconditional look on: the kick for what is in
  /// it may have come long ago. Calls the driver once: a predecessor may have died between giving
  /// chains back and calling for them.
  virtual void start_ring(std::uint16_t index, StartedRing ring) = 0;
  /// Takes no more chains from it, gives back all that are in flight, and hands it back.
  /// An error: the process is told to end and does not wait; the ring stays with the device.
  [[nodiscard]] virtual Result<AnyRing> stop_ring(std::uint16_t index) = 0;
  /// As stop_ring(), for a ring with an inflight section, but need not end what is in flight: what
  /// the device suspends instead, AnyRing::leave() has left in flight, for whoever starts the ring
  /// next. When this returns, nothing of it touches the guest's memory or the storage any more.
  /// Called only if the device names GET_VRING_BASE_INFLIGHT among its protocol features.
  [[nodiscard]] virtual Result<AnyRing> suspend_ring(std::uint16_t index) {
    return stop_ring(index);
  }
  /// Another call descriptor for a running ring; the old one stays open until this returns. The
  /// driver is called once on it, because a call on the old one may have been lost.
  virtual void set_call(std::uint16_t index, std::shared_ptr<const EventFd> call) = 0;
  /// Another memory map, for all running rings. With Drain::yes it returns only after everything
  /// that was in flight has ended: a region of the old map is about to be unmapped.
  virtual void move_to(std::shared_ptr<const MemoryMap> memory, Drain drain) = 0;
};

inline Result<void> Device::set_mtu(std::uint64_t) {
  return fail(Fault::unsupported, "this device has no MTU");
}

inline Result<void> Device::announce(std::array<std::byte, 6>) {
  return fail(Fault::unsupported, "this device has no address to announce");
}

}  // namespace vhost
