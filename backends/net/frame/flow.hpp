#pragma once
#include <cstdint>

#include "backends/net/frame/frame.hpp"

namespace net {

/// A number that all frames of a flow have in common, and those of its other direction too: of IP
/// addresses, protocol and ports, where these are there, else of the MAC addresses. For choosing a
/// queue, so that a flow stays in order.
///
/// No fragment of a datagram counts its ports, as only the first has them. What lies behind IPv6
/// extension headers is not looked at.
[[nodiscard]] std::uint32_t flow_hash(const Frame& frame);

}  // namespace net
