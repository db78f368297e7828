#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "backends/net/frame/virtio_net.hpp"

/*
 * Packets for the tests of offloads, built byte by byte, and what must become of them, done slowly:
 * none of the code under test is used here.
 */
namespace net::tests {

using Bytes = std::vector<std::byte>;

inline void put8(Bytes& bytes, std::size_t value) {
  bytes.push_back(static_cast<std::byte>(value & 0xff));
}
inline void put16(Bytes& bytes, std::size_t value) {
  put8(bytes, value >> 8);
  put8(bytes, value);
}
inline void put32(Bytes& bytes, std::size_t value) {
  put16(bytes, value >> 16);
  put16(bytes, value);
}
inline std::size_t get16(std::span<const std::byte> bytes, std::size_t at) {
  return (std::to_integer<std::size_t>(bytes[at]) << 8) |
         std::to_integer<std::size_t>(bytes[at + 1]);
}
inline std::size_t get32(std::span<const std::byte> bytes, std::size_t at) {
  return (get16(bytes, at) << 16) | get16(bytes, at + 2);
}
inline void set8(Bytes& bytes, std::size_t at, std::size_t value) {
  bytes[at] = static_cast<std::byte>(value & 0xff);
}
inline void set16(Bytes& bytes, std::size_t at, std::size_t value) {
  set8(bytes, at, value >> 8);
  set8(bytes, at + 1, value);
}
inline void set32(Bytes& bytes, std::size_t at, std::size_t value) {
  set16(bytes, at, value >> 16);
  set16(bytes, at + 2, value);
}

/// The ones' complement sum of 16-bit words in network byte order, as RFC 1071 has it.
inline std::size_t naive_sum(std::span<const std::byte> bytes, std::size_t sum = 0) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto byte = std::to_integer<std::size_t>(bytes[i]);
    sum += i % 2 == 0 ? byte << 8 : byte;
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/// How a packet is built, and so where its parts lie.
struct Shape {
  bool ipv6 = false;
  bool udp = false;
  std::size_t tags = 0;
  std::size_t extension = 0;  ///< bytes of IPv4 options (by 4) or of an IPv6 hop-by-hop header (8)
  std::size_t options = 0;    ///< bytes of TCP options, by 4
  std::size_t payload = 0;

  [[nodiscard]] std::size_t network() const { return 14 + 4 * tags; }
  [[nodiscard]] std::size_t transport() const { return network() + (ipv6 ? 40 : 20) + extension; }
  [[nodiscard]] std::size_t data() const { return transport() + (udp ? 8 : 20 + options); }
  [[nodiscard]] std::size_t checksum() const { return transport() + (udp ? 6 : 16); }
  [[nodiscard]] std::size_t protocol() const { return udp ? 17 : 6; }

  [[nodiscard]] std::uint8_t gso_type() const {
    return udp ? gso::udp : ipv6 ? gso::tcp6 : gso::tcp4;
  }
  /// What a driver writes in front of it.
  [[nodiscard]] VnetHeader header(std::uint8_t type = gso::none, std::size_t gso_size = 0) const {
    return {needs_csum,
            type,
            0,
            static_cast<std::uint16_t>(gso_size),
            static_cast<std::uint16_t>(transport()),
            static_cast<std::uint16_t>(udp ? 6 : 16)};
  }
};

/// The sum of the pseudo-header of a packet whose transport header and payload have `length` bytes.
inline std::size_t pseudo_header(const Shape& shape, const Bytes& packet, std::size_t length) {
  const std::span addresses =
      std::span(packet).subspan(shape.network() + (shape.ipv6 ? 8 : 12), shape.ipv6 ? 32 : 8);
  return naive_sum(addresses, shape.protocol() + length);
}

inline void fill_ipv4_checksum(const Shape& shape, Bytes& packet) {
  set16(packet, shape.network() + 10, 0);
  const auto header = std::span(packet).subspan(shape.network(), 20 + shape.extension);
  set16(packet, shape.network() + 10, 0xffff ^ naive_sum(header));
}

inline void put_ipv4(Bytes& packet, const Shape& shape, std::size_t length) {
  put8(packet, 0x40 | (5 + shape.extension / 4));
  put8(packet, 0);
  put16(packet, 20 + shape.extension + length);
  put16(packet, 0xfffe);  // the identification wraps at the third segment
  put16(packet, 0x4000);  // DF
  put8(packet, 64);
  put8(packet, shape.protocol());
  put16(packet, 0);
  put32(packet, 0xc0a80102);
  put32(packet, 0xc0a8fefd);
  if (shape.extension > 0) put32(packet, 0x94040000);  // router alert, which is copied
  for (std::size_t i = 4; i < shape.extension; i += 4) put32(packet, 0x07040400);  // is not
  fill_ipv4_checksum(shape, packet);
}

inline void put_ipv6(Bytes& packet, const Shape& shape, std::size_t length) {
  put32(packet, 0x60000000);
  put16(packet, shape.extension + length);
  put8(packet, shape.extension > 0 ? 0 : shape.protocol());
  put8(packet, 64);
  for (std::size_t i = 0; i < 8; ++i) put32(packet, 0xfd00f00d + i * 0x12345678);
  if (shape.extension == 0) return;
  put8(packet, shape.protocol());
  put8(packet, shape.extension / 8 - 1);
  for (std::size_t i = 2; i < shape.extension; ++i) put8(packet, 0);  // Pad1
}

inline void put_tcp(Bytes& packet, const Shape& shape) {
  put16(packet, 40000);
  put16(packet, 443);
  put32(packet, 0xffffff00);  // the sequence number wraps
  put32(packet, 0x01020304);
  put8(packet, (5 + shape.options / 4) << 4);
  put8(packet, 0x99);  // CWR, ACK, PSH, FIN
  put16(packet, 512);
  put32(packet, 0);
  for (std::size_t i = 0; i < shape.options; ++i) put8(packet, 1);
}

/// The packet, with the sum of its pseudo-header in its checksum field.
inline Bytes make_packet(const Shape& shape) {
  Bytes packet;
  for (std::size_t i = 0; i < 12; ++i) put8(packet, 0x02 + i);
  for (std::size_t i = 0; i < shape.tags; ++i) put32(packet, 0x81000064 + i);
  put16(packet, shape.ipv6 ? 0x86dd : 0x0800);
  const std::size_t length = shape.data() - shape.transport() + shape.payload;
  shape.ipv6 ? put_ipv6(packet, shape, length) : put_ipv4(packet, shape, length);
  if (shape.udp) {
    put32(packet, 0x10e11234);
    put16(packet, length);
    put16(packet, 0);
  } else {
    put_tcp(packet, shape);
  }
  for (std::size_t i = 0; i < shape.payload; ++i) put8(packet, i * 7 + i / 251);
  set16(packet, shape.checksum(), pseudo_header(shape, packet, length));
  return packet;
}

/// The packet with its checksum.
inline Bytes summed(const Shape& shape, Bytes packet) {
  const std::size_t value = 0xffff ^ naive_sum(std::span(packet).subspan(shape.transport()));
  set16(packet, shape.checksum(), value == 0 && shape.udp ? 0xffff : value);
  return packet;
}

/// Whether a receiver takes the packet's TCP or UDP checksum for right.
inline bool checksum_is_right(const Shape& shape, const Bytes& packet) {
  const std::size_t length = packet.size() - shape.transport();
  const auto transport = std::span(packet).subspan(shape.transport());
  return naive_sum(transport, pseudo_header(shape, packet, length)) == 0xffff;
}

inline void set_ip_length(const Shape& shape, Bytes& packet) {
  const std::size_t length = packet.size() - shape.network();
  if (shape.ipv6) {
    set16(packet, shape.network() + 4, length - 40);
  } else {
    set16(packet, shape.network() + 2, length);
    fill_ipv4_checksum(shape, packet);
  }
}

/// The TCP segments that the packet is to become.
inline std::vector<Bytes> expected_segments(const Shape& shape, const Bytes& packet,
                                            std::size_t size) {
  std::vector<Bytes> segments;
  for (std::size_t done = 0; done < shape.payload; done += size) {
    const auto from = packet.begin() + static_cast<long>(shape.data() + done);
    const std::size_t bytes = std::min(size, shape.payload - done);
    Bytes part(packet.begin(), packet.begin() + static_cast<long>(shape.data()));
    part.insert(part.end(), from, from + static_cast<long>(bytes));
    const bool last = done + bytes == shape.payload;
    const std::size_t tcp = shape.transport();
    set32(part, tcp + 4, get32(packet, tcp + 4) + done);
    set8(part, tcp + 13, 0x10 | (last ? 0x09 : 0) | (done == 0 ? 0x80 : 0));
    if (!shape.ipv6) set16(part, shape.network() + 4, 0xfffe + segments.size());
    set_ip_length(shape, part);
    set16(part, shape.checksum(), pseudo_header(shape, part, part.size() - tcp));
    segments.push_back(summed(shape, part));
  }
  return segments;
}

/// The IP fragments that the UDP packet is to become, with this IPv6 identification.
inline std::vector<Bytes> expected_fragments(const Shape& shape, const Bytes& packet,
                                             std::size_t size, std::size_t identification) {
  const Bytes whole = summed(shape, packet);
  const std::size_t total = whole.size() - shape.transport();
  size -= size % 8;
  std::vector<Bytes> fragments;
  for (std::size_t done = 0; done < total; done += size) {
    const auto from = whole.begin() + static_cast<long>(shape.transport() + done);
    const std::size_t bytes = std::min(size, total - done);
    const bool last = done + bytes == total;
    Bytes part(whole.begin(), whole.begin() + static_cast<long>(shape.transport()));
    if (shape.ipv6) {
      set8(part, shape.extension > 0 ? shape.network() + 40 : shape.network() + 6, 44);
      put16(part, 17 << 8);
      put16(part, done + (last ? 0 : 1));
      put32(part, identification);
    } else {
      set16(part, shape.network() + 6, done / 8 + (last ? 0 : 0x2000));
      for (std::size_t i = 4; done > 0 && i < shape.extension; i += 4) {
        set32(part, shape.network() + 20 + i, 0x01010101);
      }
    }
    part.insert(part.end(), from, from + static_cast<long>(bytes));
    set_ip_length(shape, part);
    fragments.push_back(part);
  }
  return fragments;
}

}  // namespace net::tests
