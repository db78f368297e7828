#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/net/daemon/network.hpp"
#include "backends/net/daemon/port_list.hpp"
#include "libvhost/session/event_loop.hpp"
#include "libvhost/session/server.hpp"

/*
 * The guests' ports as front-ends see them: each a socket, and a server that has the network's
 * device served on it.
 *
 * A new list of ports is carried out port by port, the old ones first: their sockets, names and
 * places may be given to others by the same list. Ports that the list has as they are are not
 * looked at. What only the host can refuse (a socket, a capture) stands in the way of that one port
 * and of no other; it counts as missing, so the next list has it tried again.
 *
 * Thread: the control thread.
 */
namespace net {

class Ports {
 public:
  /// Both must outlive this.
  Ports(vhost::EventLoop& loop, Network& network) : loop_(loop), network_(network) {}

  /// Serves the ports that the network was created with. All sockets are there before the first
  /// front-end is served.
  [[nodiscard]] vhost::Result<void> serve(std::span<const PortSpec> specs);
  /// Makes the ports those of the list. Says in the log what became of each.
  void change_to(std::span<const PortSpec> wanted);

  [[nodiscard]] std::size_t count() const { return ports_.size(); }
  [[nodiscard]] std::vector<InService::Port> in_service() const;

 private:
  struct Port {
    PortSpec spec;
    PortId place;
    std::unique_ptr<vhost::Server> server;
  };

  [[nodiscard]] vhost::Result<void> serve(const PortSpec& spec, PortId place,
                                          vhost::Endpoint endpoint);
  [[nodiscard]] vhost::Result<void> add(const PortSpec& spec);
  void remove(const std::string& name);

  vhost::EventLoop& loop_;
  Network& network_;
  std::vector<Port> ports_;
};

}  // namespace net
