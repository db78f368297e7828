#pragma once
#include <atomic>
#include <cstring>
#include <initializer_list>
#include <random>

#include "libvhost/frontend/any_driver_ring.hpp"
#include "tests/integration/daemon.hpp"

/*
 * What no decent driver writes, in rings of either layout.
 */
namespace integration {

using vhost::PackedDesc;
using vhost::SplitDesc;
using vhost::frontend::AnyDriverRing;

/// A descriptor of either layout. With desc_next among its flags the next one follows it.
struct Piece {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  std::uint16_t flags = 0;
};

/// A chain of these, to be offered; its head.
inline std::uint16_t place_raw(AnyDriverRing& ring, std::span<const Piece> pieces) {
  std::vector<PackedDesc> packed;
  std::vector<SplitDesc> split;
  for (const Piece& piece : pieces) {
    const auto next = static_cast<std::uint16_t>(split.size() + 1);
    split.push_back({piece.address, piece.length, piece.flags, next});
    packed.push_back({piece.address, piece.length, 0, piece.flags});
  }
  const auto head =
      ring.is_packed() ? ring.packed().place_raw(packed, 0) : ring.split().place_raw(split, 0);
  if (!head) throw std::runtime_error("the raw chain does not fit");
  return *head;
}
inline std::uint16_t place_raw(AnyDriverRing& ring, std::initializer_list<Piece> pieces) {
  return place_raw(ring, std::span(pieces.begin(), pieces.size()));
}

/// Entry `index` of an indirect table.
inline void write_entry(const AnyDriverRing& ring, std::byte* table, std::uint16_t index,
                        const Piece& piece) {
  const auto next = static_cast<std::uint16_t>(index + 1);
  const SplitDesc split{piece.address, piece.length, piece.flags, next};
  const PackedDesc packed{piece.address, piece.length, 0, piece.flags};
  const void* const entry = ring.is_packed() ? static_cast<const void*>(&packed) : &split;
  std::memcpy(table + index * sizeof split, entry, sizeof split);
}

/// Changes every descriptor in the ring, where it lies, by `change(Piece&)`; whether it is
/// available stays as it is.
template <class Change>
void change_descriptors(AnyDriverRing& ring, Change change) {
  constexpr std::uint16_t marks = vhost::desc_available | vhost::desc_used;
  const auto area = ring.areas().descriptor_area();
  for (std::size_t at = 0; at < area.size(); at += sizeof(PackedDesc)) {
    const auto changed = [&](auto desc) {
      std::memcpy(&desc, area.data() + at, sizeof desc);
      Piece piece{desc.addr, desc.length, desc.flags};
      change(piece);
      desc.addr = piece.address;
      desc.length = piece.length;
      desc.flags = static_cast<std::uint16_t>((piece.flags & ~marks) | (desc.flags & marks));
      std::memcpy(area.data() + at, &desc, sizeof desc);
    };
    ring.is_packed() ? changed(PackedDesc{}) : changed(SplitDesc{});
  }
}

/// Rewrites one field of one descriptor in the ring, whoever reads it meanwhile; of the flags that
/// a driver may set, these.
inline void scramble(const AnyDriverRing& ring, std::minstd_rand& random, std::uint16_t flags) {
  const auto area = ring.areas().descriptor_area();
  auto* const desc = reinterpret_cast<std::uint16_t*>(area.data()) + random() % ring.size() * 8;
  const auto write = [&](int word, std::uint32_t value) {
    std::atomic_ref(desc[word]).store(static_cast<std::uint16_t>(value), std::memory_order_relaxed);
  };
  const auto value = static_cast<std::uint32_t>(random());
  const std::uint32_t marks = ring.is_packed() ? vhost::desc_available | vhost::desc_used : 0;
  switch (random() % 8) {
    case 0: write(0, value); break;  // of the address
    case 1:
    case 2: write(4, value % 4000); break;                                       // length
    case 3: write(ring.is_packed() ? 6 : 7, value % (ring.size() + 1U)); break;  // id or next
    default: write(ring.is_packed() ? 7 : 6, value & (flags | marks));
  }
}

}  // namespace integration
