// A guest controls every byte of a ring of either layout, and rewrites it between the device's
// turns.
#include <algorithm>

#include "tests/fakes/fake_packed_driver.hpp"

using namespace vhost;

namespace {

/// Every byte that comes out of a chain must be there, and be writable where it says so.
void touch(const Chain& chain) {
  static volatile unsigned sum = 0;
  for (const iovec& piece : chain.readable()) {
    const auto* bytes = static_cast<const std::uint8_t*>(piece.iov_base);
    sum = sum + bytes[0] + bytes[piece.iov_len - 1];
  }
  for (const iovec& piece : chain.writable()) {
    auto* bytes = static_cast<volatile std::uint8_t*>(piece.iov_base);
    bytes[0] = 0x55;
    bytes[piece.iov_len - 1] = 0x55;
  }
}

template <class Driver>
void drive(const std::uint8_t* data, std::size_t size) {
  static fakes::GuestMemory memory;
  static const auto map = memory.map();
  static auto region = make_inflight_region(1, 64);
  static auto mapping = std::make_shared<const Mapping>(
      std::move(*Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes)));

  using Ring = typename Driver::DeviceRing;
  const auto ring_size = static_cast<std::uint16_t>(
      std::same_as<Ring, PackedRing> ? 1 + data[0] % 64 : 1 << (data[0] % 7));
  const Driver driver(
      memory, {.size = ring_size, .event_idx = (data[1] & 1) != 0, .indirect = (data[1] & 2) != 0});
  typename Driver::Section inflight;
  if ((data[1] & 4) != 0) inflight = {mapping, mapping->bytes(), 64};
  auto input = std::span(data, size).subspan(4);
  const auto rewrite = [&](std::byte* where, std::size_t most) {
    const std::size_t count = std::min(most, input.size());
    std::memcpy(where, input.data(), count);
    input = input.subspan(count);
  };
  std::memset(memory.at(fakes::GuestMemory::low), 0, 8192);
  if ((data[1] & 8) != 0) rewrite(mapping->bytes().data(), 256);
  rewrite(memory.at(fakes::GuestMemory::low), data[2] * 16u);

  const std::uint32_t base = std::same_as<Ring, PackedRing>
                                 ? data[3] % ring_size * 0x10001u | (data[3] & 1u) << 15
                                 : data[3];
  auto ring = Ring::create(driver.setup(base), map, std::move(inflight));
  if (!ring) return;
  std::vector<iovec> room(data[3] % 2 == 0 ? 16 : ring->longest_chain());
  Chain chain(room);
  std::vector<std::uint16_t> heads;
  for (int turn = 0; turn < 64; ++turn) {
    const Pop answer = ring->pop(chain);
    if (answer == Pop::ready) {
      touch(chain);
      heads.push_back(chain.head);
      if (ring->in_flight() > ring_size || heads.size() > ring_size) __builtin_trap();
    } else if (answer == Pop::broken || input.empty()) {
      break;
    }
    if (answer == Pop::ready && ring->in_flight() != heads.size()) __builtin_trap();
    if (turn % 3 == 2 && !heads.empty()) {
      ring->push(heads.back(), 1);
      heads.pop_back();
      (void)ring->publish();
      (void)ring->arm_kick();
    } else if (turn % 5 == 4 && !heads.empty() && answer == Pop::ready) {
      ring->unpop(heads.back());
      heads.pop_back();
    }
    rewrite(memory.at(fakes::GuestMemory::low), 64);
  }
  for (const auto head : heads) ring->push(head, 0);
  (void)ring->publish();
  if (ring->in_flight() != 0) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  if ((data[0] & 0x80) != 0) {
    drive<fakes::FakePackedDriver>(data, size);
  } else {
    drive<fakes::FakeSplitDriver>(data, size);
  }
  return 0;
}
