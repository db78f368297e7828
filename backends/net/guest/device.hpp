#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/net/forwarding/guard.hpp"
#include "backends/net/forwarding/worker.hpp"
#include "backends/net/guest/from_guest.hpp"
#include "backends/net/guest/to_guest.hpp"
#include "libvhost/session/device.hpp"

/*
 * virtio-net as libvhost sees a device: one guest's port. What it offers, which worker serves which
 * queue, and what a front-end may ask beside rings (the MTU, an announcement after a migration).
 *
 * Ring 2i is receive queue i (to_guest), ring 2i + 1 transmit queue i (from_guest). A transmit
 * queue belongs to a worker; the port's first queue to worker `port` modulo workers, the next to
 * the next. Receive queues are everybody's (to_guest.hpp).
 *
 * The features offered depend on nothing but the operator's settings: a driver that negotiated them
 * finds the same after a restart. What a peer lacks is done in software.
 *
 * Thread: the control thread.
 */
namespace net {

class Device final : public vhost::Device {
 public:
  static constexpr std::uint16_t most_pairs = 64;
  static constexpr std::uint16_t least_mtu = 68;  // VIRTIO 5.1.4.1
  static constexpr std::uint16_t most_mtu = 9216 - ethernet_bytes;

  struct Setup {
    std::string name{};
    PortId port{};
    std::uint16_t pairs = 1;  ///< of queues, that a front-end may use
    std::optional<MacAddress> mac{};
    /// Front-ends that leave the configuration space to us get it, and no control queue. QEMU has
    /// both itself and would warn.
    bool serves_config = false;
  };

  /// All of the others must outlive the device.
  Device(Setup setup, ToGuest& to_guest, std::vector<Worker*> workers);
  ~Device() override;

  std::uint64_t features() const override;
  std::uint64_t protocol_features() const override;
  /// Twice what a front-end that counts rings may use, so that one that counts pairs finds them.
  std::uint16_t max_queues() const override { return static_cast<std::uint16_t>(4 * setup_.pairs); }
  std::uint16_t queues_offered() const override {
    return static_cast<std::uint16_t>(2 * setup_.pairs);
  }
  bool discards_disabled(std::uint16_t index) const override { return index % 2 == 1; }
  void set_features(std::uint64_t accepted) override;
  void read_config(std::uint32_t offset_bytes, std::span<std::byte> out) override;
  vhost::Result<void> write_config(std::uint32_t offset_bytes,
                                   std::span<const std::byte> bytes) override;
  vhost::Result<void> set_mtu(std::uint64_t bytes) override;
  vhost::Result<void> announce(std::array<std::byte, 6> mac) override;
  void start_ring(std::uint16_t index, vhost::StartedRing ring) override;
  vhost::Result<vhost::AnyRing> stop_ring(std::uint16_t index) override;
  void set_call(std::uint16_t index, std::shared_ptr<const vhost::EventFd> call) override;
  void move_to(std::shared_ptr<const vhost::MemoryMap> memory, vhost::Drain drain) override;

  [[nodiscard]] const Setup& setup() const { return setup_; }
  [[nodiscard]] const ToGuest& to_guest() const { return to_guest_; }
  /// By pair; null if it never ran.
  [[nodiscard]] const std::vector<std::unique_ptr<QueueStats>>& from_guest_stats() const {
    return from_guest_stats_;
  }
  /// What the front-end asked for; most_mtu if it did not, or the driver has not accepted it.
  [[nodiscard]] std::uint16_t mtu() const { return mtu_; }
  /// Announcements that were made for the guest.
  [[nodiscard]] const Traffic& announced() const { return announced_; }
  /// A worker did not come round before the process had to end: leave without cleaning up.
  [[nodiscard]] bool abandoned() const { return abandoned_; }

 private:
  [[nodiscard]] Worker& worker_of(std::uint16_t pair) const;
  void post(Worker& worker, std::function<void()> task);
  void let_all_come_round();

  const Setup setup_;
  ToGuest& to_guest_;
  const std::vector<Worker*> workers_;
  std::uint64_t accepted_ = 0;
  std::uint16_t mtu_ = most_mtu;
  bool abandoned_ = false;
  std::vector<std::unique_ptr<QueueStats>> from_guest_stats_;
  std::vector<std::unique_ptr<FromGuest>> from_guest_;  // by pair, while it runs
  Traffic announced_;
};

}  // namespace net
