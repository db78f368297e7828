#include "backends/net/uplink/dpdk_device.hpp"

#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf_pool_ops.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "backends/net/eal/eal.hpp"
#include "backends/net/uplink/dpdk_mbuf.hpp"
#include "backends/net/uplink/pci_device.hpp"
#include "common/log.hpp"

namespace net {
namespace {

using vhost::Fault, vhost::Result;

constexpr std::uint16_t longest_mtu = longest_plain_frame - ethernet_bytes - vlan_tag_bytes;
constexpr std::uint16_t shortest_mtu = 68;
constexpr unsigned cache_mbufs = 256;
constexpr std::size_t cache_line = RTE_CACHE_LINE_SIZE;

/// What is known of a driver beyond what it says of itself.
struct Known {
  std::string_view driver;
  /// It has freed every mbuf when its transmit function returns: it copies the frame (null,
  /// af_packet) or has written it (pcap, tap). The other drivers keep mbufs, or hand them on to who
  /// does (ring, memif as a client of another process, bonding), or mistake memory that is not from
  /// their pool for theirs (af_xdp).
  bool frees_at_once;
  /// It takes chains although it does not say so: null looks at nothing, pcap gathers.
  bool takes_chains;
  /// Its segmentation is done in software, and passes TCP over IPv6 through as it is.
  bool poor_segmentation;
  /// Another process can write where received frames lie, at any time: it has the memory mapped.
  bool foreign_writers;
  /// The argument that makes it have several queues.
  std::string_view queues_argument;
  /// What a receive queue keeps, if that is more than its descriptors: two rings full, one for the
  /// kernel to fill and one that it has filled.
  std::uint16_t rx_buffers = 0;
};
constexpr std::array known_drivers{
    Known{"net_af_xdp", false, false, false, false, "", 4096},
    Known{"net_null", true, true, false, false, ""},
    Known{"net_pcap", true, true, false, false, ""},
    Known{"net_af_packet", true, false, false, false, "qpairs"},
    Known{"net_tap", true, false, true, false, ""},
    Known{"net_virtio_user", false, false, false, true, "queues"},
    Known{"net_memif", false, false, false, true, ""},
    Known{"net_bonding", false, false, false, true, ""},   // of whatever devices
    Known{"net_failsafe", false, false, false, true, ""},  // likewise
};

Known known(std::string_view driver) {
  const auto found = std::ranges::find(known_drivers, driver, &Known::driver);
  return found != known_drivers.end() ? *found : Known{driver, false, false, false, false, ""};
}

std::unexpected<vhost::Error> refuse(const std::string& uplink, const std::string& why, int error) {
  const std::string said = take_eal_error();
  return vhost::fail(Fault::operator_, "--uplink " + uplink + ": " + why + " (" +
                                           (said.empty() ? ::rte_strerror(error) : said) + ")");
}

/// "net_null" of "net_null0,size=64".
std::string_view driver_of(std::string_view device) {
  device = device.substr(0, device.find(','));
  return device.substr(0, device.find_last_not_of("0123456789") + 1);
}

/// DPDK's name of a device is its driver's with a number, and nobody else's.
struct DeviceWords {
  std::string name;
  std::string arguments;
};
DeviceWords words_of(const UplinkSpec& spec, const UplinkSetup& setup) {
  const std::size_t comma = std::min(spec.argument.find(','), spec.argument.size());
  DeviceWords words{spec.argument.substr(0, comma), spec.argument.substr(comma)};
  if (!words.arguments.empty()) words.arguments.erase(0, 1);
  const std::string driver(driver_of(words.name));
  if (driver == words.name) words.name += std::to_string(static_cast<unsigned>(setup.port));
  const std::string_view queues = known(driver).queues_argument;
  if (setup.workers > 1 && !queues.empty() &&
      words.arguments.find(std::string(queues) + '=') == std::string::npos) {
    words.arguments += ',' + std::string(queues) + '=' + std::to_string(setup.workers);
  }
  return words;
}

Result<std::uint16_t> attach_pci(const UplinkSpec& spec, const UplinkSetup& setup) {
  if (const auto good = check_pci_device(spec.argument, setup.allow_no_iommu); !good) {
    return vhost::fail(good.error().fault, "--uplink " + spec.text + ": " + good.error().what);
  }
  std::uint16_t port = 0;
  if (::rte_eth_dev_get_port_by_name(spec.argument.c_str(), &port) == 0) return port;
  const int error = ::rte_eal_hotplug_add("pci", spec.argument.c_str(), "");
  if (error != 0 || ::rte_eth_dev_get_port_by_name(spec.argument.c_str(), &port) != 0) {
    return refuse(spec.text,
                  "DPDK has no driver for this device, or cannot open it: it needs /dev/vfio/ and "
                  "its group there",
                  error);
  }
  return port;
}

Result<std::uint16_t> attach_vdev(const UplinkSpec& spec, const UplinkSetup& setup) {
  const DeviceWords words = words_of(spec, setup);
  std::uint16_t port = 0;
  if (::rte_eth_dev_get_port_by_name(words.name.c_str(), &port) == 0) {
    return vhost::fail(Fault::operator_, "--uplink " + spec.text + ": there is a device " +
                                             words.name + " already: give this one another number");
  }
  const int error = ::rte_eal_hotplug_add("vdev", words.name.c_str(), words.arguments.c_str());
  if (error != 0) {
    return refuse(spec.text,
                  "DPDK cannot make this device: check its name and arguments, and that the "
                  "daemon may use what they name",
                  error);
  }
  if (::rte_eth_dev_get_port_by_name(words.name.c_str(), &port) != 0) {
    ::rte_eal_hotplug_remove("vdev", words.name.c_str());
    return refuse(spec.text, "this device is no network device", ENODEV);
  }
  return port;
}

/// The most that the driver takes. What it counts besides the MTU is its own business.
std::uint16_t mtu_limit(const rte_eth_dev_info& info) {
  std::uint32_t overhead = ethernet_bytes + vlan_tag_bytes;
  if (info.max_mtu != UINT16_MAX && info.max_rx_pktlen > info.max_mtu) {
    overhead = info.max_rx_pktlen - info.max_mtu;
  }
  const std::uint32_t by_frame = std::max(info.max_rx_pktlen, overhead) - overhead;
  return static_cast<std::uint16_t>(
      std::min({std::uint32_t{info.max_mtu}, by_frame, std::uint32_t{longest_mtu}}));
}

constexpr std::uint64_t tx_checksums = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
constexpr std::uint64_t tx_tso = RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;

bool has(std::uint64_t offered, std::uint64_t all) {
  return (offered & all) == all;
}

/// Uses what the driver offers and we have a use for.
rte_eth_conf configure(DpdkDevice& device, const rte_eth_dev_info& info) {
  const Known driver = known(device.driver);
  rte_eth_conf conf{};
  conf.rxmode.mtu = device.mtu;
  conf.rxmode.offloads =
      info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
  conf.intr_conf.rxq = 1;

  const std::uint64_t offered = info.tx_offload_capa;
  device.chains = has(offered, RTE_ETH_TX_OFFLOAD_MULTI_SEGS) || driver.takes_chains;
  device.accepts.checksum = has(offered, tx_checksums);
  device.accepts.tso4 = device.accepts.tso6 =
      device.accepts.checksum && device.chains && has(offered, tx_tso) && !driver.poor_segmentation;
  device.lends = driver.frees_at_once && device.chains;
  device.foreign_writers = driver.foreign_writers;
  conf.txmode.offloads = offered & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
  if (device.accepts.checksum) conf.txmode.offloads |= tx_checksums;
  if (device.accepts.tso4) conf.txmode.offloads |= tx_tso;

  const std::uint64_t spread =
      info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
  if (device.queues > 1 && spread != 0) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_hf = spread;
  }
  return conf;
}

/// Not all drivers can: a switch without it still sees broadcasts and its own address.
void see_all_frames(const DpdkDevice& device) {
  if (::rte_eth_promiscuous_enable(device.port) != 0) {
    common::log::info("--uplink {}: {} hands over no frames to other addresses than its own",
                      device.name, device.driver);
  }
}

unsigned rx_mbufs(unsigned queues, std::uint16_t descriptors, unsigned workers) {
  return queues * (descriptors + 2 * static_cast<unsigned>(Burst::most)) +
         workers * cache_mbufs * 2;
}

/// A burst of lent frames may need a whole chain for each.
unsigned tx_mbufs(unsigned queues, std::uint16_t descriptors, unsigned workers) {
  constexpr unsigned burst = Burst::most * (Loan::most_pieces + 1);
  return queues * descriptors + workers * (cache_mbufs * 2 + burst);
}

/// As rte_pktmbuf_pool_create() would, but where devices see our own addresses the mbufs lie behind
/// each other. In pages of 4 KiB there would be one in each, the beginnings of all in the same few
/// sets of the first cache, and every access a miss there.
Pool make_pool(const std::string& name, unsigned mbufs, std::uint16_t room) {
  const auto with_headroom = static_cast<std::uint16_t>(room + RTE_PKTMBUF_HEADROOM);
  rte_pktmbuf_pool_private data{};
  data.mbuf_data_room_size = with_headroom;
  const unsigned flags = ::rte_eal_iova_mode() == RTE_IOVA_VA ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0;
  Pool pool(::rte_mempool_create_empty(name.c_str(), mbufs, sizeof(rte_mbuf) + with_headroom,
                                       cache_mbufs, sizeof data, SOCKET_ID_ANY, flags));
  if (!pool) return nullptr;
  const int error =
      ::rte_mempool_set_ops_byname(pool.get(), ::rte_mbuf_best_mempool_ops(), nullptr);
  if (error != 0) return nullptr;
  ::rte_pktmbuf_pool_init(pool.get(), &data);
  if (::rte_mempool_populate_default(pool.get()) < 0) return nullptr;
  (void)::rte_mempool_obj_iter(pool.get(), ::rte_pktmbuf_init, nullptr);
  return pool;
}

}  // namespace

std::size_t pool_memory(std::string_view device, unsigned workers, std::uint16_t mtu) {
  // Where an mbuf may not begin in one page and end in another, pages of 4 KiB hold one each.
  constexpr std::size_t page = 4096;
  constexpr std::size_t pool_bytes = std::size_t{2} << 20;  // what a pool needs itself
  const std::size_t mbuf = cache_line + sizeof(rte_mbuf) + RTE_PKTMBUF_HEADROOM + mbuf_room(mtu);
  const std::size_t mbufs =
      rx_mbufs(workers, std::max(usual_descriptors, known(driver_of(device)).rx_buffers), workers) +
      tx_mbufs(workers, usual_descriptors, workers);
  return mbufs * ((mbuf + page - 1) / page * page) + 2 * pool_bytes;
}

Result<void> DpdkDevice::make_pools(std::uint16_t rx, std::uint16_t tx, unsigned workers) {
  const std::uint16_t room = mbuf_room(mtu);
  const std::string number = std::to_string(port);
  rx_pool = make_pool("rx" + number,
                      rx_mbufs(queues, std::max(rx, known(driver).rx_buffers), workers), room);
  tx_pool = make_pool("tx" + number, tx_mbufs(queues, tx, workers), room);
  if (rx_pool && tx_pool) return {};
  return refuse(name,
                "DPDK has no " + std::to_string((pool_memory(driver, workers, mtu) >> 20) + 1) +
                    " MiB left for packet buffers: leave -m out of --eal, or add as much there",
                rte_errno);
}

Result<void> DpdkDevice::start(const UplinkSetup& setup) {
  rte_eth_dev_info info{};
  if (const int error = ::rte_eth_dev_info_get(port, &info); error != 0) {
    return refuse(name, "the driver does not describe its device", -error);
  }
  driver = info.driver_name;
  queues = std::clamp<unsigned>(std::min(info.max_rx_queues, info.max_tx_queues), 1, setup.workers);
  const std::uint16_t limit = mtu_limit(info);
  mtu = std::min(setup.mtu.value_or(mtu), limit);
  if (setup.mtu && *setup.mtu != mtu) {
    common::log::warning("--uplink {}: {} takes an MTU of {} at most, not {}", name, driver, limit,
                         *setup.mtu);
  }
  if (mtu < shortest_mtu) return refuse(name, "an MTU below 68 is no use to IP", EINVAL);

  const rte_eth_conf conf = configure(*this, info);
  const auto count = static_cast<std::uint16_t>(queues);
  if (const int error = ::rte_eth_dev_configure(port, count, count, &conf); error != 0) {
    return refuse(name, "the driver cannot be configured", -error);
  }
  if (setup.mtu) (void)::rte_eth_dev_set_mtu(port, mtu);  // the interface below, if there is one

  std::uint16_t rx = usual_descriptors;
  std::uint16_t tx = usual_descriptors;
  (void)::rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx, &tx);
  if (const auto made = make_pools(rx, tx, setup.workers); !made) return made;
  const auto socket = static_cast<unsigned>(SOCKET_ID_ANY);
  rte_eth_rxconf rx_conf = info.default_rxconf;
  rte_eth_txconf tx_conf = info.default_txconf;
  rx_conf.offloads = conf.rxmode.offloads;
  tx_conf.offloads = conf.txmode.offloads;
  for (std::uint16_t queue = 0; queue < count; ++queue) {
    int error = ::rte_eth_rx_queue_setup(port, queue, rx, socket, &rx_conf, rx_pool.get());
    if (error == 0) error = ::rte_eth_tx_queue_setup(port, queue, tx, socket, &tx_conf);
    if (error != 0) return refuse(name, "the driver cannot set its queues up", -error);
  }
  if (const int error = ::rte_eth_dev_start(port); error != 0) {
    return refuse(name, "the driver does not start", -error);
  }
  started_ = true;
  see_all_frames(*this);
  return {};
}

Result<std::unique_ptr<DpdkDevice>> DpdkDevice::open(const UplinkSpec& spec,
                                                     const UplinkSetup& setup) {
  (void)take_eal_error();
  const auto port = spec.needs_pci() ? attach_pci(spec, setup) : attach_vdev(spec, setup);
  if (!port) return pass_on(port);
  auto device = std::make_unique<DpdkDevice>();
  device->port = *port;
  device->name = spec.text;
  device->attached_ = true;
  if (const auto started = device->start(setup); !started) return pass_on(started);
  return device;
}

Result<std::unique_ptr<DpdkDevice>> DpdkDevice::adopt(std::uint16_t port, const UplinkSpec& spec,
                                                      const UplinkSetup& setup) {
  auto device = std::make_unique<DpdkDevice>();
  device->port = port;
  device->name = spec.text;
  if (const auto started = device->start(setup); !started) return pass_on(started);
  return device;
}

DpdkDevice::~DpdkDevice() {
  rte_eth_dev_info info{};
  const bool known_device = attached_ && ::rte_eth_dev_info_get(port, &info) == 0;
  if (started_) (void)::rte_eth_dev_stop(port);
  if (!attached_) return;
  (void)::rte_eth_dev_close(port);
  if (known_device) (void)::rte_dev_remove(info.device);
}

}  // namespace net
