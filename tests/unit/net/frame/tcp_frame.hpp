#pragma once
#include <initializer_list>

#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {

/// Ethernet, IPv4 and TCP headers in front of counting bytes; the TCP checksum field holds
/// what the sender of a checksum request leaves there, the pseudo-header's sum.
inline std::vector<std::byte> tcp4_frame(std::size_t length) {
  auto bytes = counting_bytes(length);
  const auto set = [&](std::size_t at, std::initializer_list<unsigned> values) {
    for (const unsigned value : values) bytes[at++] = static_cast<std::byte>(value);
  };
  const auto ip_length = static_cast<unsigned>(length - 14);
  set(12, {8, 0, 0x45, 0, ip_length >> 8, ip_length & 255, 0, 7, 0x40, 0, 64, 6, 0, 0});
  set(26, {10, 0, 0, 1, 10, 0, 0, 2});
  set(34 + 12, {0x50, 0x10});
  const unsigned sum = 0x0a00 + 1 + 0x0a00 + 2 + 6 + (ip_length - 20);
  set(34 + 16, {sum >> 8 & 255, sum & 255});
  return bytes;
}

}  // namespace net::tests
