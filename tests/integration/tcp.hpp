#pragma once
#include <cstring>

#include "tests/integration/net_fixture.hpp"

namespace integration {

inline constexpr std::size_t tcp_headers = 14 + 20 + 20;

/// What is asked for a TCP frame: its checksum, and segments of so many bytes.
[[nodiscard]] inline vhost::frontend::NetHeader tcp_request(std::uint16_t segment) {
  return {.flags = vhost::frontend::net_needs_csum,
          .gso_type = vhost::frontend::net_gso_tcp4,
          .hdr_len = tcp_headers,
          .gso_size = segment,
          .csum_start = 14 + 20,
          .csum_offset = 16};
}

/// A TCP frame over IPv4 with a payload that counts. Its TCP checksum is not there.
[[nodiscard]] inline Bytes tcp_frame(const MacAddress& source, const MacAddress& destination,
                                     std::uint16_t payload) {
  Bytes all = frame(source, destination, tcp_headers + payload);
  const auto total = static_cast<std::uint16_t>(20 + 20 + payload);
  const std::array<std::uint8_t, 42> headers{0x08,
                                             0,  // IPv4
                                             0x45,
                                             0,
                                             static_cast<std::uint8_t>(total >> 8),
                                             static_cast<std::uint8_t>(total & 0xff),
                                             0,
                                             1,
                                             0x40,
                                             0,
                                             64,
                                             6,
                                             0,
                                             0,
                                             10,
                                             0,
                                             0,
                                             1,
                                             10,
                                             0,
                                             0,
                                             2,  // TCP, from .1 to .2
                                             0x10,
                                             0,
                                             0x20,
                                             0,
                                             0,
                                             0,
                                             0,
                                             1,
                                             0,
                                             0,
                                             0,
                                             0,
                                             0x50,
                                             0x10,
                                             1,
                                             0,
                                             0,
                                             0,
                                             0,
                                             0};
  std::memcpy(all.data() + 12, headers.data(), headers.size());
  std::uint32_t sum = 0;
  for (std::size_t at = 14; at < 34; at += 2) {
    sum +=
        std::to_integer<std::uint32_t>(all[at]) << 8 | std::to_integer<std::uint32_t>(all[at + 1]);
  }
  sum = (sum & 0xffff) + (sum >> 16);
  sum = ~((sum & 0xffff) + (sum >> 16));
  all[24] = static_cast<std::byte>(sum >> 8 & 0xff);
  all[25] = static_cast<std::byte>(sum & 0xff);
  return all;
}

[[nodiscard]] inline Bytes tcp_payload(const Bytes& frame) {
  if (frame.size() < tcp_headers) throw std::runtime_error("no TCP frame");
  return {frame.begin() + tcp_headers, frame.end()};
}

/// The checksum of a TCP frame over IPv4 is that of its bytes (RFC 9293, 3.1).
[[nodiscard]] inline bool tcp_checksum_holds(const Bytes& frame) {
  const auto word = [&](std::size_t at) {
    const auto low = at + 1 < frame.size() ? std::to_integer<std::uint32_t>(frame[at + 1]) : 0;
    return std::to_integer<std::uint32_t>(frame[at]) << 8 | low;
  };
  std::uint32_t sum = 6 + static_cast<std::uint32_t>(frame.size() - 34);  // the pseudo header
  for (std::size_t at = 26; at < frame.size(); at += 2) sum += word(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum == 0xffff;
}

}  // namespace integration
