#include "backends/net/uplink/tap_device.hpp"

#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include <net/if.h>

#include "common/log.hpp"

namespace net {
namespace {

using vhost::Fault, vhost::Result, vhost::UniqueFd;

constexpr short wanted_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

ifreq request_for(const std::string& interface) {
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  return request;
}

/// A socket for questions about interfaces: any kind will do, and this one no sandbox forbids.
UniqueFd any_socket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

std::unexpected<vhost::Error> refuse(const UplinkSpec& spec, const std::string& why) {
  return vhost::fail(Fault::operator_, "--uplink " + spec.text + ": " + why);
}

std::string with_text(const std::string& why, int error) {
  return why + " (" + std::strerror(error) + ")";
}

constexpr auto cure_permission =
    "give the daemon CAP_NET_ADMIN, or make the interface beforehand for its user (ip tuntap add "
    "NAME mode tap user USER multi_queue)";

Result<UniqueFd> open_node(const UplinkSpec& spec, const std::string& path) {
  UniqueFd node(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (node) return node;
  const int error = errno;
  const bool macvtap = spec.kind == UplinkSpec::Kind::macvtap;
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      if (macvtap) {
        return refuse(spec, "there is no " + path + ": make that device node in this container");
      }
      return refuse(spec, "there is no " + path +
                              ": load the kernel's module tun, or give this container the device");
    case EACCES:
    case EPERM:
      return refuse(spec, "no permission to open " + path +
                              (macvtap ? ": make it the daemon's user's (chown)"
                                       : ": its usual mode is 0666"));
    case EBUSY:
      return refuse(spec, path + " has no queue left: stop the other process that uses it");
    default: return refuse(spec, with_text("cannot open " + path, error));
  }
}

/// Attaches a descriptor to the interface as one of its queues; returns an errno.
int attach(int fd, const std::string& interface, bool multi_queue) {
  ifreq request = request_for(interface);
  request.ifr_flags = static_cast<short>(wanted_flags | (multi_queue ? IFF_MULTI_QUEUE : 0));
  return ::ioctl(fd, TUNSETIFF, &request) == 0 ? 0 : errno;
}

std::unexpected<vhost::Error> refuse_attaching(const UplinkSpec& spec, int error) {
  const std::string& interface = spec.argument;
  switch (error) {
    case EPERM:
      return refuse(spec, "no permission to make or use " + interface + ": " + cure_permission);
    case EBUSY:
      return refuse(spec, interface +
                              " is in use by another process: stop it, or choose another "
                              "interface");
    case E2BIG: return refuse(spec, interface + " has no queue left: use fewer --workers");
    case EINVAL:
      return refuse(spec, interface + " is an interface of another kind than " +
                              (spec.kind == UplinkSpec::Kind::macvtap ? "macvtap" : "TAP") +
                              ": choose another name");
    default: return refuse(spec, with_text("cannot attach to " + interface, error));
  }
}

/// The header's size, and which frames the kernel may give us undone. Returns what it takes undone
/// itself: all, but for what this kernel has no word for.
Result<Accepts> negotiate(const UplinkSpec& spec, int fd) {
  int size = header_bytes;
  if (::ioctl(fd, TUNSETVNETHDRSZ, &size) != 0) {
    return refuse(spec,
                  with_text("no virtio-net headers of 12 bytes: use Linux 3.10 or newer", errno));
  }
  constexpr unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  Accepts accepts{true, true, true, true, true};
  if (::ioctl(fd, TUNSETOFFLOAD, tcp | TUN_F_UFO) == 0) return accepts;
  accepts.ufo = false;
  if (::ioctl(fd, TUNSETOFFLOAD, tcp) == 0) return accepts;
  return refuse(spec, with_text("no checksum and segmentation offload on this interface", errno));
}

/// The first queue says whether there can be more. An interface that was made with one queue
/// cannot get more, and refuses the attempt.
Result<void> open_queues(TapDevice& device, const UplinkSpec& spec, const std::string& node,
                         unsigned wanted) {
  bool multi_queue = true;
  while (device.queues.size() < wanted) {
    auto fd = open_node(spec, node);
    if (!fd) return pass_on(fd);
    int error = attach(fd->get(), device.interface, multi_queue);
    if (error == EINVAL && device.queues.empty()) {
      multi_queue = false;
      wanted = 1;
      error = attach(fd->get(), device.interface, multi_queue);
    }
    if (error != 0) return refuse_attaching(spec, error);
    device.queues.push_back(std::move(*fd));
  }
  return {};
}

Result<void> set_mtu(const UplinkSpec& spec, const std::string& interface, std::uint16_t mtu) {
  const UniqueFd socket = any_socket();
  ifreq request = request_for(interface);
  request.ifr_mtu = mtu;
  if (::ioctl(socket.get(), SIOCSIFMTU, &request) == 0) return {};
  const int error = errno;
  const std::string subject = "cannot set an MTU of " + std::to_string(mtu) + " on " + interface;
  if (error == EPERM) {
    return refuse(spec, subject +
                            ": give the daemon CAP_NET_ADMIN, or set it beforehand (ip link "
                            "set NAME mtu NUMBER) and leave the option out");
  }
  if (error == EINVAL) return refuse(spec, subject + ": the kernel does not take that number");
  return refuse(spec, with_text(subject, error));
}

std::uint16_t mtu_of(const std::string& interface, std::uint16_t otherwise) {
  const UniqueFd socket = any_socket();
  ifreq request = request_for(interface);
  if (::ioctl(socket.get(), SIOCGIFMTU, &request) != 0) return otherwise;
  return static_cast<std::uint16_t>(request.ifr_mtu);
}

Result<void> bring_up(const UplinkSpec& spec, const std::string& interface) {
  const UniqueFd socket = any_socket();
  ifreq request = request_for(interface);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0) return {};
  }
  return refuse(spec, with_text("cannot set " + interface + " up", errno));
}

Result<TapDevice> open_tap(const UplinkSpec& spec, const UplinkSetup& setup) {
  TapDevice device{.interface = spec.argument};
  const bool ours = ::if_nametoindex(spec.argument.c_str()) == 0;
  if (const auto opened = open_queues(device, spec, "/dev/net/tun", setup.workers); !opened) {
    return pass_on(opened);
  }
  if (setup.mtu) {
    if (const auto set = set_mtu(spec, device.interface, *setup.mtu); !set) return pass_on(set);
  }
  if (ours) {
    if (const auto up = bring_up(spec, device.interface); !up) return pass_on(up);
  }
  return device;
}

Result<TapDevice> open_macvtap(const UplinkSpec& spec, const UplinkSetup& setup) {
  TapDevice device{.interface = spec.argument};
  const unsigned index = ::if_nametoindex(spec.argument.c_str());
  if (index == 0) {
    return refuse(spec, "there is no interface " + spec.argument +
                            ": make it first (ip link add link LOWER name " + spec.argument +
                            " type macvtap mode bridge)");
  }
  const std::string node = "/dev/tap" + std::to_string(index);
  if (const auto opened = open_queues(device, spec, node, setup.workers); !opened) {
    return pass_on(opened);
  }
  if (setup.mtu) {
    if (const auto set = set_mtu(spec, device.interface, *setup.mtu); !set) return pass_on(set);
  }
  return device;
}

/// A descriptor that we were started with: attached, of the right kind, and all of one interface.
Result<void> inherit(TapDevice& device, const UplinkSpec& spec, int number) {
  const std::string subject = "descriptor " + std::to_string(number);
  const int flags = ::fcntl(number, F_GETFL);
  if (flags < 0) return refuse(spec, subject + " is not open: pass it on to the daemon");
  UniqueFd fd(number);
  ifreq request{};
  if (::ioctl(number, TUNGETIFF, &request) != 0) {
    return refuse(spec, subject + " is no TAP that is attached to an interface: TUNSETIFF first");
  }
  if ((request.ifr_flags & wanted_flags) != wanted_flags) {
    return refuse(spec, subject +
                            " has other flags than needed: attach it with IFF_TAP, "
                            "IFF_NO_PI and IFF_VNET_HDR");
  }
  const std::string interface(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
  if (!device.queues.empty() && interface != device.interface) {
    return refuse(spec, subject + " is of " + interface + ", the first one of " + device.interface +
                            ": give each interface an --uplink of its own");
  }
  device.interface = interface;
  if (::fcntl(number, F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(number, F_SETFD, FD_CLOEXEC) != 0) {
    return refuse(spec, with_text("cannot prepare " + subject, errno));
  }
  device.queues.push_back(std::move(fd));
  return {};
}

Result<TapDevice> open_inherited(const UplinkSpec& spec, const UplinkSetup& setup) {
  TapDevice device;
  for (const int number : spec.fds) {
    if (const auto taken = inherit(device, spec, number); !taken) return pass_on(taken);
  }
  if (device.queues.size() > setup.workers) {
    return refuse(spec, std::to_string(device.queues.size()) + " queues for " +
                            std::to_string(setup.workers) +
                            " workers, and none may be left unread: pass fewer descriptors, or "
                            "use more --workers");
  }
  if (setup.mtu) {
    if (const auto set = set_mtu(spec, device.interface, *setup.mtu); !set) return pass_on(set);
  }
  return device;
}

Result<TapDevice> open_any(const UplinkSpec& spec, const UplinkSetup& setup) {
  switch (spec.kind) {
    case UplinkSpec::Kind::macvtap: return open_macvtap(spec, setup);
    case UplinkSpec::Kind::fds: return open_inherited(spec, setup);
    default: return open_tap(spec, setup);
  }
}

}  // namespace

vhost::Result<TapDevice> TapDevice::open(const UplinkSpec& spec, const UplinkSetup& setup) {
  auto device = open_any(spec, setup);
  if (!device) return device;
  for (const UniqueFd& queue : device->queues) {
    const auto accepts = negotiate(spec, queue.get());
    if (!accepts) return pass_on(accepts);
    device->accepts = *accepts;
  }
  device->mtu = mtu_of(device->interface, setup.mtu.value_or(device->mtu));
  if (device->queues.size() < setup.workers) {
    common::log::info(
        "--uplink {}: {} of {} workers share its {} queue(s); an interface made with "
        "multi_queue would have one for each",
        spec.text, setup.workers - device->queues.size() + 1, setup.workers, device->queues.size());
  }
  return device;
}

TapState look_at_tap(const std::string& interface) {
  TapState state;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return state;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_name != interface || one->ifa_addr == nullptr ||
        one->ifa_addr->sa_family != AF_PACKET || one->ifa_data == nullptr) {
      continue;
    }
    state.up = (one->ifa_flags & IFF_UP) != 0;
    rtnl_link_stats stats;
    std::memcpy(&stats, one->ifa_data, sizeof stats);
    state.counters = {{"rx_errors", stats.rx_errors},
                      {"rx_dropped", stats.rx_dropped},
                      {"tx_errors", stats.tx_errors},
                      {"tx_dropped", stats.tx_dropped},
                      {"rx_frame_errors", stats.rx_frame_errors}};
  }
  ::freeifaddrs(all);
  return state;
}

}  // namespace net
