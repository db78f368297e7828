#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backends/net/uplink/dpdk_device.hpp"
#include "backends/net/uplink/dpdk_queue.hpp"
#include "backends/net/uplink/uplink.hpp"

/*
 * A device of DPDK's: physical (vfio-pci) or one of its drivers in software.
 *
 * What the driver takes undone (checksums, segmentation of TCP, frames in several mbufs) is left to
 * it, the rest is done in software here. Frames are copied to mbufs once; large ones are lent
 * to drivers that are done with them when their transmit function returns (dpdk_mbuf.hpp, Loan).
 *
 * Never lent to: physical devices (they read later, and need the guest's memory in their IOMMU),
 * ring (its other end keeps the mbufs), memif and virtio_user (frames wait in their rings), af_xdp
 * (takes foreign memory for its own). There, a guest would have its memory back while it is read.
 */
namespace net {

class DpdkPort final : public Uplink {
 public:
  /// Attaches the device that `spec` names and starts it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<DpdkPort>> open(const UplinkSpec& spec,
                                                                     const UplinkSetup& setup);
  /// Takes a device that DPDK has already, by its number, and starts it; never detaches it. Who
  /// does must first give back the mbufs that it got from it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<DpdkPort>> adopt(std::uint16_t dpdk_port,
                                                                      const UplinkSpec& spec,
                                                                      const UplinkSetup& setup);

  void deliver(std::span<Frame* const> frames, unsigned worker) override;
  /// Every frame has left by itself.
  void flush(unsigned) override {}

  [[nodiscard]] const std::string& name() const override { return device_->name; }
  [[nodiscard]] std::string_view driver() const override { return device_->driver; }
  [[nodiscard]] std::uint16_t mtu() const override { return device_->mtu; }
  [[nodiscard]] bool link_up() override;
  [[nodiscard]] std::vector<DriverCounter> driver_counters() const override;
  [[nodiscard]] std::chrono::microseconds longest_pause() const override;

  /// Whether large frames are lent to the driver, not copied.
  [[nodiscard]] bool lends() const;

 private:
  DpdkPort(std::unique_ptr<DpdkDevice> device, const UplinkSetup& setup);

  std::unique_ptr<DpdkDevice> device_;
  std::vector<std::unique_ptr<DpdkSource>> from_;
  std::vector<std::unique_ptr<DpdkSink>> to_;
  bool was_up_ = true;
};

}  // namespace net
