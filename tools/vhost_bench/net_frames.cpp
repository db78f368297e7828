#include "tools/vhost_bench/net_frames.hpp"

#include <algorithm>
#include <charconv>
#include <string>

namespace bench {
namespace {

constexpr std::size_t ip_at = 14, ip_bytes = 20, l4_at = ip_at + ip_bytes;
constexpr std::size_t tcp_bytes = 20;
constexpr std::size_t tcp_checksum_at = 16;
constexpr std::uint8_t protocol_tcp = 6, protocol_udp = 17;
constexpr std::uint16_t first_port = 10000, sink_port = 9;
constexpr std::uint16_t segment_bytes = 1448;

void put8(std::span<std::byte> to, std::size_t at, std::uint8_t value) {
  to[at] = std::byte{value};
}
void put16(std::span<std::byte> to, std::size_t at, std::size_t value) {
  put8(to, at, static_cast<std::uint8_t>(value >> 8));
  put8(to, at + 1, static_cast<std::uint8_t>(value));
}

/// The Internet checksum's sum, not yet inverted (RFC 1071).
std::uint16_t sum(std::span<const std::byte> bytes, std::uint32_t value = 0) {
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    value += std::to_integer<std::uint32_t>(bytes[i]) << 8 |
             std::to_integer<std::uint32_t>(bytes[i + 1]);
  }
  while (value > 0xffff) value = (value & 0xffff) + (value >> 16);
  return static_cast<std::uint16_t>(value);
}

void write_ip(std::span<std::byte> frame, std::uint8_t protocol) {
  put8(frame, ip_at, 0x45);
  put16(frame, ip_at + 2, frame.size() - ip_at);
  put8(frame, ip_at + 8, 64);
  put8(frame, ip_at + 9, protocol);
  const std::uint8_t addresses[] = {10, 0, 0, 1, 10, 0, 0, 2};
  for (std::size_t i = 0; i < sizeof addresses; ++i) put8(frame, ip_at + 12 + i, addresses[i]);
  put16(frame, ip_at + 10, static_cast<std::uint16_t>(~sum(frame.subspan(ip_at, ip_bytes))));
}

}  // namespace

void write_frame(std::span<std::byte> frame, const MacAddress& source,
                 const MacAddress& destination, std::uint16_t flow) {
  std::ranges::fill(frame, std::byte{});
  const bool segmented = frame.size() > longest_whole_frame;
  std::ranges::copy(std::as_bytes(std::span(destination)), frame.begin());
  std::ranges::copy(std::as_bytes(std::span(source)), frame.begin() + 6);
  put16(frame, 12, 0x0800);
  write_ip(frame, segmented ? protocol_tcp : protocol_udp);

  const std::size_t l4_bytes = frame.size() - l4_at;
  put16(frame, l4_at, static_cast<std::size_t>(first_port) + flow);
  put16(frame, l4_at + 2, sink_port);
  if (segmented) {
    put8(frame, l4_at + 12, tcp_bytes / 4 << 4);
    put8(frame, l4_at + 13, 0x10);  // ACK
    put16(frame, l4_at + 14, 0xffff);
    const auto pseudo = static_cast<std::uint32_t>(protocol_tcp + l4_bytes);
    put16(frame, l4_at + tcp_checksum_at, sum(frame.subspan(ip_at + 12, 8), pseudo));
  } else {
    put16(frame, l4_at + 4, l4_bytes);
  }
}

vhost::frontend::NetHeader header_for(std::uint32_t frame_bytes) {
  if (frame_bytes <= longest_whole_frame) return {};
  return {.flags = vhost::frontend::net_needs_csum,
          .gso_type = vhost::frontend::net_gso_tcp4,
          .hdr_len = l4_at + tcp_bytes,
          .gso_size = segment_bytes,
          .csum_start = l4_at,
          .csum_offset = tcp_checksum_at};
}

vhost::Result<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  const auto wrong = [&] {
    return vhost::fail(vhost::Fault::operator_, "'" + std::string(text) +
                                                    "' is no MAC address: give six bytes like "
                                                    "02:00:00:00:00:01");
  };
  if (text.size() != 17) return wrong();
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const char* digits = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(digits, digits + 2, mac[i], 16);
    if (error != std::errc{} || end != digits + 2 || (i < 5 && digits[2] != ':')) return wrong();
  }
  return mac;
}

}  // namespace bench
