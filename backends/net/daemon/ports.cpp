#include "backends/net/daemon/ports.hpp"

#include <algorithm>

#include "common/daemon.hpp"
#include "common/log.hpp"

namespace net {
namespace {

using vhost::Endpoint;
using vhost::Result;

Result<Endpoint> open_endpoint(const PortSpec& port) {
  const auto blame = [](const std::string& origin, const vhost::Error& error) {
    return vhost::fail(vhost::Fault::operator_, origin + ": " + error.what);
  };
  if (port.fd) {
    auto endpoint = Endpoint::adopt(vhost::UniqueFd(*port.fd));
    if (!endpoint) return blame("--fd", endpoint.error());
    return endpoint;
  }
  auto endpoint =
      port.client ? Endpoint::connect(port.socket) : Endpoint::listen(port.socket, port.access);
  if (!endpoint) return blame(port.origin + ": " + port.name, endpoint.error());
  return endpoint;
}

}  // namespace

Result<void> Ports::serve(std::span<const PortSpec> specs) {
  std::vector<Endpoint> endpoints;
  for (const PortSpec& spec : specs) {
    auto endpoint = open_endpoint(spec);
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoints.push_back(std::move(*endpoint));
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const PortId place{static_cast<std::uint16_t>(i)};
    if (auto served = serve(specs[i], place, std::move(endpoints[i])); !served) return served;
  }
  return {};
}

Result<void> Ports::serve(const PortSpec& spec, PortId place, Endpoint endpoint) {
  auto server =
      vhost::Server::start(loop_, network_.device(place), std::move(endpoint),
                           common::library_log(spec.name + ": "), {.postcopy = spec.postcopy});
  if (!server) return std::unexpected(server.error());
  ports_.push_back({spec, place, std::move(*server)});
  return {};
}

void Ports::change_to(std::span<const PortSpec> wanted) {
  std::vector<PortSpec> now;
  now.reserve(ports_.size());
  for (const Port& port : ports_) now.push_back(port.spec);
  const PortChanges changes = compare(now, wanted);

  for (const std::string& name : changes.removed) remove(name);
  for (const PortSpec& spec : changes.changed) remove(spec.name);
  std::size_t missing = 0;
  for (const auto* const fresh : {&changes.changed, &changes.added}) {
    for (const PortSpec& spec : *fresh) {
      const auto added = add(spec);
      if (added) continue;
      ++missing;
      common::log::error("{}; all others are served, this one is tried again at the next SIGHUP",
                         added.error().what);
    }
  }
  common::log::info(
      "there are {} ports now; the list removed {}, changed {} and added {}, of which {} are "
      "missing",
      ports_.size(), changes.removed.size(), changes.changed.size(), changes.added.size(), missing);
}

Result<void> Ports::add(const PortSpec& spec) {
  auto endpoint = open_endpoint(spec);
  if (!endpoint) return std::unexpected(endpoint.error());
  const auto place = network_.add(spec);
  if (!place) return std::unexpected(place.error());
  auto served = serve(spec, *place, std::move(*endpoint));
  if (!served) network_.remove(*place);
  return served;
}

void Ports::remove(const std::string& name) {
  const auto port = std::ranges::find(ports_, name, [](const Port& one) { return one.spec.name; });
  port->server.reset();  // the front-end's rings end, and the socket is gone
  network_.remove(port->place);
  ports_.erase(port);
}

std::vector<InService::Port> Ports::in_service() const {
  std::vector<InService::Port> now;
  now.reserve(ports_.size());
  for (const Port& port : ports_) {
    now.push_back({port.spec, network_.device(port.place), *port.server});
  }
  return now;
}

}  // namespace net
