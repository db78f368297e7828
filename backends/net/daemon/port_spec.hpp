#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "backends/net/daemon/spec_keys.hpp"
#include "libvhost/session/endpoint.hpp"
#include "libvhost/wire/error.hpp"

namespace net {

/// One port: a guest and what it may do.
struct PortSpec {
  static constexpr std::uint16_t most_queues = 64;

  std::string origin = "--port";  ///< whom to blame: that option, or file and line

  std::string name;
  std::string socket;     ///< empty: `fd` instead
  std::optional<int> fd;  ///< inherited, listening or connected
  bool client = false;    ///< connect to socket instead of listening there
  vhost::FileAccess access{};

  std::uint16_t queues = most_queues;  ///< pairs that a front-end may use
  std::optional<std::array<std::uint8_t, 6>> mac;
  bool postcopy = false;  ///< its guest may come while its memory is still elsewhere
  bool config = false;    ///< front-ends may leave the configuration space to us

  SpecVlans vlans;
  bool guard = false;       ///< frames must come from `mac`
  SpecAddresses addresses;  ///< and from these, if there are any
  std::string capture;      ///< a file for all frames of the port; empty: none

  bool operator==(const PortSpec&) const = default;
};

/// Reads "NAME,socket=PATH[,queues=N][,mac=..][,vlan=N][,trunk=1+5-9][,guard][,ip=A+B][,client]
/// [,owner=..][,group=..][,mode=..][,capture=PATH][,config][,postcopy]". Looks owner and group up.
/// A refusal begins with the port's name.
[[nodiscard]] vhost::Result<PortSpec> parse_port(std::string_view text);

}  // namespace net
