#pragma once
#include <memory>

#include "libvhost/frontend/device.hpp"
#include "libvhost/frontend/net_queue.hpp"

/*
 * A virtio network driver without a VM: any program that wants to be a port of the switch behind
 * a vhost-user socket.
 *
 *   SharedMemory memory;
 *   memory.add_region(64 << 20);
 *   auto port = NetDriver::attach(*Connection::connect(path), memory, {});
 *   (*port)->send(frame);
 *
 * A pair is two rings: ring 2i takes frames to the guest, ring 2i + 1 from the guest, and the guest
 * is us. queue(i) has the asynchronous verbs, for frames that lie in `memory`. The synchronous
 * helpers below copy, use pair 0, and must not be mixed with asynchronous use of it.
 *
 * There is no control queue, as QEMU shows none to a back-end; features that need one are not
 * asked for. Every pair is enabled from the start.
 *
 * Thread: as Device says; each pair may be handed to a thread of its own between start() and
 * stop(), which then waits on queue(i).to_guest(), not on the device.
 */
namespace vhost::frontend {

/// Every feature that this driver can use, or leaves to the caller to use.
inline constexpr Wishes net_wishes{
    .features = Wishes{}.features | bit(feature::any_layout) | bit(net_feature::csum) |
                bit(net_feature::guest_csum) | bit(net_feature::mtu) | bit(net_feature::mac) |
                bit(net_feature::guest_tso4) | bit(net_feature::guest_tso6) |
                bit(net_feature::guest_ecn) | bit(net_feature::guest_ufo) |
                bit(net_feature::host_tso4) | bit(net_feature::host_tso6) |
                bit(net_feature::host_ecn) | bit(net_feature::host_ufo) |
                bit(net_feature::mrg_rxbuf) | bit(net_feature::status),
    .protocol_features = bit(protocol_feature::mq) | bit(protocol_feature::log_shmfd) |
                         bit(protocol_feature::backend_req) | bit(protocol_feature::rarp) |
                         bit(protocol_feature::reply_ack) | bit(protocol_feature::mtu) |
                         bit(protocol_feature::reset_device) |
                         bit(protocol_feature::configure_mem_slots) |
                         bit(protocol_feature::status)};

struct NetOptions {
  std::size_t pairs = 1;
  QueueOptions queue{.ring = {.size = 256, .indirect = 34}};
  Wishes wishes = net_wishes;
  /// Receive buffers for each pair; 0: as many as the ring holds.
  std::uint16_t buffers = 0;
  /// Bytes of each, the header included; 0: 2048, but the longest frame where segments arrive
  /// whole and cannot be spread over several buffers.
  std::uint32_t buffer_bytes = 0;
  /// Cuts receive buffers into descriptors of this size; 0: whole.
  std::uint32_t descriptor_bytes = 0;
  /// How long a synchronous send may take.
  std::chrono::milliseconds send_deadline{10000};
};

class NetDriver {
 public:
  /// A frame that was copied out of its buffers.
  struct Received {
    NetHeader header{};
    std::vector<std::byte> bytes;
  };

  /// Negotiates, makes the pairs, posts their receive buffers and starts them. `memory` needs a
  /// region with room for them.
  [[nodiscard]] static Result<std::unique_ptr<NetDriver>> attach(Connection connection,
                                                                 SharedMemory& memory,
                                                                 NetOptions options = {});
  /// Detaches; see Device::detach() for what is lost.
  ~NetDriver();

  [[nodiscard]] Device& device() { return device_; }
  [[nodiscard]] std::size_t pair_count() const { return queues_.size(); }
  [[nodiscard]] NetQueue& queue(std::size_t pair) { return queues_[pair]; }
  [[nodiscard]] std::span<NetQueue> queues() { return queues_; }
  [[nodiscard]] bool mergeable() const { return has(device_.features(), net_feature::mrg_rxbuf); }

  /// NET_SET_MTU: the largest packet that the front-end will have the guest send.
  [[nodiscard]] Result<void> set_mtu(std::uint16_t bytes);
  /// SEND_RARP: the back-end is to announce this address, after a migration.
  [[nodiscard]] Result<void> send_rarp(const MacAddress& mac);

  /// Sends one frame and waits until the device has taken it.
  [[nodiscard]] Result<void> send(std::span<const std::byte> frame, const NetHeader& header = {});
  /// The next frame. None within this time is an error.
  [[nodiscard]] Result<Received> receive(std::chrono::milliseconds time);

  /// See Device. What detach() returns are sends, with their cookies; receive buffers go back into
  /// the ring with start(), but for those that the caller holds.
  [[nodiscard]] Result<void> stop() { return device_.stop(); }
  [[nodiscard]] Result<void> start();
  [[nodiscard]] Result<void> reconnect(Connection connection) {
    return device_.reconnect(std::move(connection));
  }
  [[nodiscard]] std::vector<ReturnedChain> detach();

 private:
  NetDriver(Connection connection, SharedMemory& memory, const NetOptions& options)
      : device_(std::move(connection), memory), options_(options) {}
  [[nodiscard]] Result<void> set_up();
  [[nodiscard]] NetQueueOptions queue_options() const;

  Device device_;
  NetOptions options_;
  std::vector<NetQueue> queues_;
};

}  // namespace vhost::frontend
