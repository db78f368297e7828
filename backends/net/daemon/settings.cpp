#include "backends/net/daemon/settings.hpp"

#include <unistd.h>

#include <fmt/core.h>

#include "backends/net/daemon/port_list.hpp"
#include "common/cpu.hpp"
#include "common/options.hpp"

namespace net {
namespace {

using common::Options;
using vhost::Fault;
using vhost::Result;

/// As QEMU's conventions for back-end programs want it: type and what the flags can do.
constexpr const char* capabilities = R"({
  "type": "net",
  "features": []
})";

constexpr std::array<std::pair<std::string_view, Polling>, 2> polling_names{{
    {"adaptive", Polling::adaptive},
    {"always", Polling::always},
}};

std::unexpected<vhost::Error> refuse(std::string what) {
  return vhost::fail(Fault::operator_, std::move(what));
}

/// The one port of the flags that QEMU's conventions have.
struct Shorthand {
  std::string socket;
  int fd = -1;
};

void declare_ports(Options& options, Settings& settings, Shorthand& shorthand) {
  options.repeated(
      "--port",
      [&settings](std::string_view typed) -> Result<void> {
        auto port = parse_port(typed);
        if (!port) return std::unexpected(port.error());
        settings.ports.push_back(std::move(*port));
        return {};
      },
      "SPEC",
      "A guest: NAME,socket=PATH[,queues=N][,mac=ADDRESS][,vlan=N][,trunk=1+5-9][,guard]"
      "[,ip=A+B][,client][,owner=USER][,group=GROUP][,mode=0660][,capture=PATH][,config]"
      "[,postcopy]. Any number of times.");
  options.text("--ports", settings.ports_file, "PATH",
               "A file with more of them, each line a SPEC; read again at SIGHUP.");
  options.number("--most-ports", settings.most_ports, 1, most_ports,
                 "With --ports: how many ports there may be at a time. Default: 64.");
  options.repeated(
      "--uplink",
      [&settings](std::string_view typed) -> Result<void> {
        auto uplink = parse_uplink_plan(typed);
        if (!uplink) return std::unexpected(uplink.error());
        settings.uplinks.push_back(std::move(*uplink));
        return {};
      },
      "SPEC",
      "A way out: tap:NAME, macvtap:NAME or fd:N[+N] with [,name=NAME][,mtu=N][,vlan=N]"
      "[,trunk=1+5-9][,capture=PATH] behind; or pci:ADDRESS, null, ring, pcap:ARGS, "
      "af_packet:INTERFACE, af_xdp:INTERFACE, memif:ARGS, virtio_user:INTERFACE or net_..., with "
      "those keys and a ';' in front. Any number of times.");
  options.text("--socket-path", shorthand.socket, "PATH",
               "Short for --port guest,socket=PATH, as QEMU's conventions have it.");
  options.number("--fd", shorthand.fd, 0, 1 << 20,
                 "An inherited socket instead, listening or connected, by its number.");
}

void declare_switch(Options& options, Settings& settings) {
  options.number("--workers", settings.workers, 1, 256,
                 "Threads that move frames; a queue belongs to one of them. Default: 1.");
  options.cpus("--cpus", settings.cpus, "CPUs for the workers, one each in turn: 0,2-3.");
  options.choice("--poll", settings.polling, polling_names,
                 "Sleep when nothing comes, or keep the CPUs busy. Default: adaptive.");
  options.duration("--mac-ageing", settings.mac_ageing, std::chrono::seconds(1),
                   std::chrono::hours(24),
                   "How long an address is known that sends nothing. Default: 300 s.");
  options.number("--storm-limit", settings.storm_limit, 0, 1'000'000'000,
                 "Frames a second that a port may send to all others; 0: any number. Default: "
                 "20000.");
}

void declare_dpdk(Options& options, Settings& settings) {
  options.text("--eal", settings.eal, "ARGS", "More arguments for DPDK's EAL, as they are.");
  options.toggle("--unsafe-no-iommu", settings.unsafe_no_iommu,
                 "Take PCI devices without an IOMMU: they can write to all memory of the host.");
}

void declare_service(Options& options, Settings& settings) {
  options.text("--stats-file", settings.stats_file, "PATH",
               "Write statistics there, as JSON (docs/stats.md).");
  options.duration("--stats-interval", settings.stats_interval, std::chrono::milliseconds(10),
                   std::chrono::hours(24), "How often. Default: 1 s.");
  options.choice("--log-level", settings.log_level, common::log::level_names,
                 "What is written to stderr. Default: info.");
}

/// Makes --socket-path or --fd the port that they stand for.
Result<void> expand(Settings& settings, const Shorthand& shorthand, bool fd_given) {
  const bool socket_given = !shorthand.socket.empty();
  if (socket_given && fd_given) {
    return refuse("--fd and --socket-path exclude each other; give one");
  }
  const bool from_file = !settings.ports_file.empty();
  if (socket_given || fd_given) {
    if (from_file || !settings.ports.empty()) {
      return refuse(fmt::format("{} and {} exclude each other; give all guests by {}",
                                socket_given ? "--socket-path" : "--fd",
                                from_file ? "--ports" : "--port",
                                from_file ? "--ports" : "--port"));
    }
    PortSpec port;
    port.name = "guest";
    port.socket = shorthand.socket;
    if (fd_given) port.fd = shorthand.fd;
    settings.ports.push_back(std::move(port));
  }
  if (settings.ports.empty() && !from_file) {
    return refuse("--port is missing; give one for each guest, as in --port web,socket=/run/web");
  }
  if (fd_given && shorthand.fd == STDERR_FILENO) {
    return refuse("--fd: 2 is where errors are written; hand the socket over as another");
  }
  return {};
}

void name_uplinks(Settings& settings) {
  for (std::size_t i = 0; i < settings.uplinks.size(); ++i) {
    std::string& name = settings.uplinks[i].name;
    if (name.empty()) name = "uplink" + std::to_string(i);
  }
}

Result<void> check_machine(const Settings& settings) {
  if (settings.cpus.empty()) return {};
  const auto allowed = common::allowed_cpus();
  if (!allowed) return std::unexpected(allowed.error());
  if (auto there = common::check_cpus(settings.cpus, *allowed); !there) {
    return refuse("--cpus: " + there.error().what);
  }
  return {};
}

}  // namespace

Result<std::optional<Settings>> read_settings(int argc, const char* const* argv) {
  Settings settings;
  Shorthand shorthand;
  Options options("vhost-user-net", VHOST_BACKENDS_VERSION,
                  "Connects QEMU guests with each other and the world over vhost-user.");
  declare_ports(options, settings, shorthand);
  declare_switch(options, settings);
  declare_dpdk(options, settings);
  declare_service(options, settings);
  options.prints("--print-capabilities", capabilities,
                 "Print what this back-end can do, for management software.");

  const auto next = options.parse(argc, argv);
  if (!next) return std::unexpected(next.error());
  if (*next == common::Next::done) return std::nullopt;

  if (auto expanded = expand(settings, shorthand, options.given("--fd")); !expanded) {
    return std::unexpected(expanded.error());
  }
  name_uplinks(settings);
  if (auto checked = check_uses(settings.ports, settings.uplinks); !checked) {
    return std::unexpected(checked.error());
  }
  if (auto checked = check_machine(settings); !checked) return std::unexpected(checked.error());
  return settings;
}

}  // namespace net
