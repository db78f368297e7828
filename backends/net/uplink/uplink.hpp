#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/net/forwarding/sink.hpp"
#include "backends/net/forwarding/source.hpp"
#include "backends/net/frame/traffic.hpp"
#include "libvhost/wire/error.hpp"

/*
 * Uplinks: the ways out of the daemon that are no guests.
 *
 * An uplink is a sink, and has one source per queue. There are no more queues than workers: worker
 * w sends on queue w modulo queues, under a spin lock where two share one. Which worker serves
 * which source is the daemon's to choose; one at a time.
 *
 * Uplinks are opened before the workers start and closed after they ended. The control thread calls
 * what is not of Sink and Source.
 */
namespace net {

/// What --uplink says.
struct UplinkSpec {
  enum class Kind : std::uint8_t {
    tap,      ///< argument: the interface
    macvtap,  ///< argument: the interface
    fds,      ///< fds: of a TAP, opened by who started us
    pci,      ///< argument: the address
    vdev,     ///< argument: DPDK's device with its arguments
  };

  std::string text;  ///< as it was typed: the uplink's name
  Kind kind = Kind::tap;
  std::string argument{};
  std::vector<int> fds{};

  [[nodiscard]] bool needs_dpdk() const { return kind == Kind::pci || kind == Kind::vdev; }
  [[nodiscard]] bool needs_pci() const { return kind == Kind::pci; }
};

/// Reads "tap:tap0", "macvtap:mv0", "fd:5+6", "pci:0000:01:00.0", a short name for one of DPDK's
/// devices ("null", "ring", "pcap:ARGS", "af_packet:IFACE", "af_xdp:IFACE", "memif:ARGS",
/// "virtio_user:IFACE"), or such a device as DPDK writes it ("net_null0,size=64"). A refusal has no
/// option's name in front.
[[nodiscard]] vhost::Result<UplinkSpec> parse_uplink(std::string_view text);

/// What is the same for all kinds.
struct UplinkSetup {
  PortId port{};
  unsigned workers = 1;
  std::optional<std::uint16_t> mtu{};  ///< wanted; otherwise as the interface has it, or 1500
  bool allow_no_iommu = false;         ///< a PCI device may write to all of the host's memory
};

/// A number that the uplink's driver counts.
struct DriverCounter {
  std::string name;
  std::uint64_t value;
};

class Uplink : public Sink {
 public:
  [[nodiscard]] virtual const std::string& name() const = 0;
  /// "tap", or the name of DPDK's driver ("net_null").
  [[nodiscard]] virtual std::string_view driver() const = 0;
  [[nodiscard]] unsigned queues() const { return static_cast<unsigned>(sources_.size()); }
  /// One per queue.
  [[nodiscard]] std::span<Source* const> sources() const { return sources_; }

  /// The longest frame without Ethernet header and tag that it takes.
  [[nodiscard]] virtual std::uint16_t mtu() const = 0;
  /// Asks the driver; says in the log if it is not as it was. About once a second.
  [[nodiscard]] virtual bool link_up() = 0;

  /// What went towards it, as counted by one worker.
  [[nodiscard]] const Traffic& to_uplink(unsigned worker) const { return to_uplink_[worker]; }
  /// What the driver counts itself.
  [[nodiscard]] virtual std::vector<DriverCounter> driver_counters() const = 0;

  /// Where sources have no wake_fd(): sleep no longer than this between two looks, so that its
  /// queue does not overflow. 0: all sources have one.
  [[nodiscard]] virtual std::chrono::microseconds longest_pause() const = 0;

 protected:
  explicit Uplink(unsigned workers) : to_uplink_(workers) {}

  std::vector<Source*> sources_;
  std::vector<Traffic> to_uplink_;  ///< by worker
};

/// Opens what `spec` says; for DPDK's devices after Eal::start(). Each error is one sentence with
/// cause and cure, the option in front.
[[nodiscard]] vhost::Result<std::unique_ptr<Uplink>> open_uplink(const UplinkSpec& spec,
                                                                 const UplinkSetup& setup);

/// The memory that open_uplink() will take of DPDK's: Eal::start() wants the sum.
[[nodiscard]] std::size_t uplink_memory(const UplinkSpec& spec, const UplinkSetup& setup);

}  // namespace net
