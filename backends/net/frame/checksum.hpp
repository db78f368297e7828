#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

/*
 * The Internet checksum (RFC 1071) of bytes that come in pieces of any length.
 *
 * The sum is taken in the machine's byte order, and what comes out is stored as it is: the sum does
 * not care, as long as every piece begins where a 16-bit word does. A piece that begins in the
 * middle of one is summed as if it did not, and its sum's bytes are swapped.
 *
 * DPDK's rte_raw_cksum() takes one 16-bit word at a time where, as in this build, the compiler does
 * not vectorise it; here it is 64 bytes a turn.
 */
namespace net {

class Checksum {
 public:
  /// Adds what lies behind all that was added before.
  void add(std::span<const std::byte> bytes);
  /// Adds the bytes of a 16-bit field, in the order they have in the frame. Only after an even
  /// number of bytes.
  void add_field(std::uint16_t field) { sum_ += field; }

  /// The sum so far: what a pseudo-header leaves in a checksum field.
  [[nodiscard]] std::uint16_t sum() const;
  /// What goes into a checksum field.
  [[nodiscard]] std::uint16_t value() const { return static_cast<std::uint16_t>(~sum()); }

 private:
  std::uint64_t sum_ = 0;
  bool odd_ = false;  // an odd number of bytes so far
};

}  // namespace net
