#pragma once
#include <rte_mbuf.h>

#include <memory>
#include <string>
#include <string_view>

#include "backends/net/frame/offload.hpp"
#include "backends/net/uplink/uplink.hpp"

/*
 * One of DPDK's devices: found, configured, and stopped again. All that is asked of the driver
 * before frames flow.
 */
namespace net {

struct FreePool {
  void operator()(rte_mempool* pool) const { ::rte_mempool_free(pool); }
};
using Pool = std::unique_ptr<rte_mempool, FreePool>;

/// Frames in a queue of the device, each way, where the driver lets us choose.
inline constexpr std::uint16_t usual_descriptors = 1024;

struct DpdkDevice {
  /// Attaches the device of `spec` to this process, unless it is already, and starts it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<DpdkDevice>> open(const UplinkSpec& spec,
                                                                       const UplinkSetup& setup);
  /// Starts a device that somebody else has attached, and will remove.
  [[nodiscard]] static vhost::Result<std::unique_ptr<DpdkDevice>> adopt(std::uint16_t port,
                                                                        const UplinkSpec& spec,
                                                                        const UplinkSetup& setup);
  DpdkDevice() = default;
  DpdkDevice(const DpdkDevice&) = delete;
  DpdkDevice& operator=(const DpdkDevice&) = delete;
  ~DpdkDevice();

  std::uint16_t port = 0;
  std::string name;  ///< of the uplink
  std::string driver;
  unsigned queues = 1;
  std::uint16_t mtu = 1500;
  Accepts accepts;      ///< what the driver takes undone
  bool chains = false;  ///< it takes a frame in several mbufs
  bool lends = false;   ///< it frees mbufs while it transmits: guest memory may be lent to it
  bool foreign_writers = false;  ///< others can write to frames that were received
  Pool rx_pool;
  Pool tx_pool;

 private:
  [[nodiscard]] vhost::Result<void> start(const UplinkSetup& setup);
  [[nodiscard]] vhost::Result<void> make_pools(std::uint16_t rx, std::uint16_t tx,
                                               unsigned workers);

  bool attached_ = false;  // by us
  bool started_ = false;
};

/// What the pools of a device take, with the descriptors that it usually has. `device` as DPDK
/// names it, or its driver alone.
[[nodiscard]] std::size_t pool_memory(std::string_view device, unsigned workers, std::uint16_t mtu);

}  // namespace net
