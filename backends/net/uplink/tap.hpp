#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backends/net/uplink/tap_device.hpp"
#include "backends/net/uplink/tap_queue.hpp"
#include "backends/net/uplink/uplink.hpp"

/*
 * A TAP or macvtap interface of the host's kernel.
 *
 * Every frame carries the header of virtio-net, so checksums and segmentation are left undone for
 * the kernel as they are for a guest: a 64 KiB frame is one system call. The kernel copies straight
 * from the sender's buffers (one writev() a frame) and straight into the frame's head and the
 * queue's buffer (one readv() a frame).
 *
 * tap: attaches to the interface, and makes it first if there is none (CAP_NET_ADMIN). An interface
 * that was there keeps its state and, unless one is asked for, its MTU. fd: takes descriptors that
 * are attached already.
 *
 * If the interface is deleted under us, that is said once, frames to it are dropped, and its
 * queues never wake anybody again. Only a new start brings it back.
 */
namespace net {

class Tap final : public Uplink {
 public:
  [[nodiscard]] static vhost::Result<std::unique_ptr<Tap>> open(const UplinkSpec& spec,
                                                                const UplinkSetup& setup);

  void deliver(std::span<Frame* const> frames, unsigned worker) override;
  /// Every frame has left by itself.
  void flush(unsigned) override {}

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::string_view driver() const override { return "tap"; }
  [[nodiscard]] std::uint16_t mtu() const override { return mtu_; }
  [[nodiscard]] bool link_up() override;
  [[nodiscard]] std::vector<DriverCounter> driver_counters() const override;
  [[nodiscard]] std::chrono::microseconds longest_pause() const override { return {}; }

  /// The interface's name in the kernel.
  [[nodiscard]] const std::string& interface() const { return interface_; }

 private:
  Tap(const UplinkSpec& spec, const UplinkSetup& setup, TapDevice device);
  void send(const Frame& frame, unsigned worker, Tally& tally);

  std::string name_;
  std::string interface_;
  std::uint16_t mtu_;
  Accepts accepts_;
  bool was_up_ = true;
  std::vector<std::unique_ptr<TapQueue>> queues_;
  std::vector<std::unique_ptr<std::byte[]>> bounce_;  // by worker
};

}  // namespace net
