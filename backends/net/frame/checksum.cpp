#include "backends/net/frame/checksum.hpp"

#include <bit>
#include <cstring>

namespace net {
namespace {

/// 64-bit lanes, as many as fit the registers that every machine of this kind has.
using Lanes = std::uint64_t __attribute__((vector_size(16)));

Lanes load(const std::byte* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

/// Both halves of each lane, added: 32 bits each, so that a lane has room for 2^31 turns.
Lanes halves(Lanes lanes) {
  return (lanes & 0xffff'ffff) + (lanes >> 32);
}

std::uint64_t fold(std::uint64_t sum) {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/// The sum of the bytes as 16-bit words of this machine; at most 35 bits for a frame's bytes, and
/// the last byte, if it is alone, with a zero behind it.
std::uint64_t sum_of(std::span<const std::byte> bytes) {
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t sum = 0;
  if (left >= 64) {
    Lanes first{};
    Lanes second{};
    for (; left >= 64; left -= 64, at += 64) {
      first += halves(load(at)) + halves(load(at + 16));
      second += halves(load(at + 32)) + halves(load(at + 48));
    }
    first += second;
    sum = fold(first[0]) + fold(first[1]);
  }
  for (; left >= 4; left -= 4, at += 4) {
    std::uint32_t word;
    std::memcpy(&word, at, sizeof word);
    sum += word;
  }
  if (left > 0) {
    std::uint32_t word = 0;
    std::memcpy(&word, at, left);
    sum += word;
  }
  return sum;
}

}  // namespace

void Checksum::add(std::span<const std::byte> bytes) {
  const auto sum = static_cast<std::uint16_t>(fold(sum_of(bytes)));
  sum_ += odd_ ? std::byteswap(sum) : sum;
  odd_ ^= (bytes.size() & 1) != 0;
}

std::uint16_t Checksum::sum() const {
  return static_cast<std::uint16_t>(fold(sum_));
}

}  // namespace net
