#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backends/net/uplink.hpp"

/*
 * A device of DPDK's: physical (vfio-pci) or one of its drivers in software.
 */
namespace net {

class DpdkPort final : public Uplink {
 public:
  /// Attaches the device that `spec` names and starts it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<DpdkPort>> open(const UplinkSpec& spec,
                                                                     const UplinkSetup& setup);
  /// Takes a port that exists already, by its number, and starts it; never detaches it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<DpdkPort>> adopt(std::uint16_t dpdk_port,
                                                                      const UplinkSpec& spec,
                                                                      const UplinkSetup& setup);
  ~DpdkPort() override;

  void deliver(std::span<Frame* const> frames, unsigned worker) override;
  void flush(unsigned worker) override;

  [[nodiscard]] const std::string& name() const override;
  [[nodiscard]] std::string_view driver() const override;
  [[nodiscard]] std::uint16_t mtu() const override;
  [[nodiscard]] bool link_up() override;
  [[nodiscard]] std::vector<DriverCounter> driver_counters() const override;
  [[nodiscard]] std::chrono::microseconds longest_pause() const override;

 private:
  struct Parts;
  class Queue;

  explicit DpdkPort(std::unique_ptr<Parts> parts, unsigned workers);

  std::unique_ptr<Parts> parts_;
};

}  // namespace net
