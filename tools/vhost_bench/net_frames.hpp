#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "libvhost/frontend/net_wire.hpp"
#include "libvhost/wire/error.hpp"

// The frames that "vhost-bench net" sends.
namespace bench {

using vhost::frontend::MacAddress;

/// The shortest and the longest frame. Lengths are without the frame check sequence, as virtio
/// counts them.
inline constexpr std::uint32_t shortest_frame = 64;
inline constexpr std::uint32_t longest_frame = vhost::frontend::net_longest_frame;
/// Longer ones are sent to be segmented: TCP instead of UDP.
inline constexpr std::uint32_t longest_whole_frame = 9216;

/// Fills `frame` (its size is the frame's) with Ethernet, IPv4 and UDP headers and a payload.
/// `flow` becomes the source port. All checksums that there are are right: UDP goes without, and
/// the TCP of a frame to be segmented has what NEEDS_CSUM wants there.
void write_frame(std::span<std::byte> frame, const MacAddress& source,
                 const MacAddress& destination, std::uint16_t flow);

/// The header that belongs to a frame of this length.
[[nodiscard]] vhost::frontend::NetHeader header_for(std::uint32_t frame_bytes);

/// "02:00:00:00:00:01"
[[nodiscard]] vhost::Result<MacAddress> parse_mac(std::string_view text);

}  // namespace bench
