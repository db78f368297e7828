#pragma once
#include <initializer_list>
#include <optional>
#include <vector>

#include "backends/net/forwarding/guard.hpp"
#include "backends/net/frame/vlan.hpp"

namespace net::tests {

using Bytes = std::vector<std::byte>;

inline void append(Bytes& to, std::initializer_list<unsigned> bytes) {
  for (const unsigned byte : bytes) to.push_back(static_cast<std::byte>(byte));
}
inline void append16(Bytes& to, unsigned number) {
  append(to, {number >> 8 & 0xff, number & 0xff});
}
template <class Range>
void append_all(Bytes& to, const Range& bytes) {
  for (const auto byte : bytes) to.push_back(static_cast<std::byte>(byte));
}

/// The n-th of many stations: 52:54:00 and n.
inline MacAddress station(unsigned n) {
  const auto byte = [n](unsigned shift) { return static_cast<std::uint8_t>(n >> shift & 0xff); };
  return {0x52, 0x54, byte(24), byte(16), byte(8), byte(0)};
}
inline constexpr MacAddress broadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/// A tag as it is in a frame.
struct Tag {
  unsigned tci;
  unsigned type = 0x8100;
};

/// An Ethernet frame with tags, outermost first.
inline Bytes ethernet(const MacAddress& to, const MacAddress& from, unsigned type,
                      const Bytes& payload, std::initializer_list<Tag> tags = {}) {
  Bytes bytes;
  append_all(bytes, to);
  append_all(bytes, from);
  for (const Tag& tag : tags) {
    append16(bytes, tag.type);
    append16(bytes, tag.tci);
  }
  append16(bytes, type);
  append_all(bytes, payload);
  return bytes;
}

/// A frame of 60 bytes and its tags. `mark` tells it from others.
inline Bytes plain_frame(const MacAddress& to, const MacAddress& from, unsigned mark = 0,
                         std::initializer_list<Tag> tags = {}) {
  Bytes payload(46);
  payload[0] = static_cast<std::byte>(mark);
  return ethernet(to, from, 0x88b5, payload, tags);  // IEEE 802, local experiment
}

/// A trunk of these VLANs.
inline VlanPolicy trunk_of(std::initializer_list<VlanId> ids, std::optional<VlanId> native = {}) {
  VlanPolicy::Ids set;
  for (const VlanId id : ids) set.set(id);
  return VlanPolicy::trunk(set, native);
}

}  // namespace net::tests
