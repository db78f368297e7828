#pragma once
#include <bit>
#include <cstdint>
#include <span>

#include "backends/net/frame/frame.hpp"
#include "libvhost/wire/bytes.hpp"

/*
 * The virtio-net header on its way between a structure and guest memory.
 *
 * It is put together and taken apart in registers. A load that covers several stores before it, or
 * parts of them, waits until these have left the store buffer; in a loop that fills buffers which
 * another CPU owned a moment ago, that is hundreds of cycles a frame.
 */
namespace net {

static_assert(std::endian::native == std::endian::little, "the words below are in this order");

/// A header and its num_buffers, as they are written.
class HeaderBytes {
 public:
  HeaderBytes(const VnetHeader& header, std::uint16_t buffers)
      : first_(std::uint64_t{header.flags} | std::uint64_t{header.gso_type} << 8 |
               std::uint64_t{header.hdr_len} << 16 | std::uint64_t{header.gso_size} << 32 |
               std::uint64_t{header.csum_start} << 48),
        last_(std::uint32_t{header.csum_offset} | std::uint32_t{buffers} << 16) {}

  /// Writes the first `bytes` of it, and takes them off `to`.
  void put(std::span<iovec>& to, std::size_t bytes) const {
    iovec& piece = to.front();
    if (piece.iov_len <= header_bytes) {
      std::array<std::byte, header_bytes> whole;
      put(whole.data());
      put_front(to, std::span(whole).first(bytes));
      return;
    }
    auto* const at = static_cast<std::byte*>(piece.iov_base);
    put(at);
    piece = {at + bytes, piece.iov_len - bytes};
  }

  /// Writes all of it. Where the header is the short one, the frame overwrites what is too much.
  void put(std::byte* at) const {
    std::memcpy(at, &first_, sizeof first_);
    std::memcpy(at + sizeof first_, &last_, sizeof last_);
  }

 private:
  std::uint64_t first_;
  std::uint32_t last_;
};

/// Reads a header, once, from memory that a guest may be writing.
[[nodiscard]] inline VnetHeader unpack(const std::byte* at) {
  std::uint64_t first = 0;
  std::uint16_t last = 0;
  std::memcpy(&first, at, sizeof first);
  std::memcpy(&last, at + sizeof first, sizeof last);
  // The compiler is to keep the values, not their place: neither may be read again.
  asm volatile("" : "+r"(first), "+r"(last) : : "memory");
  return {static_cast<std::uint8_t>(first),        static_cast<std::uint8_t>(first >> 8),
          static_cast<std::uint16_t>(first >> 16), static_cast<std::uint16_t>(first >> 32),
          static_cast<std::uint16_t>(first >> 48), last};
}

/// Whether a header asks for anything: its flags and its gso_type.
[[nodiscard]] inline bool asks(const std::byte* at) {
  return vhost::read_once<std::uint16_t>(at) != 0;
}

/// Takes a header of `bytes` off `from`, which holds at least that many.
[[nodiscard]] inline VnetHeader take_header(std::span<iovec>& from, std::size_t bytes) {
  iovec& piece = from.front();
  if (piece.iov_len <= bytes) {
    std::array<std::byte, header_bytes> whole;
    take_front(from, std::span(whole).first(bytes));
    return unpack(whole.data());
  }
  const auto* const at = static_cast<const std::byte*>(piece.iov_base);
  piece = {static_cast<std::byte*>(piece.iov_base) + bytes, piece.iov_len - bytes};
  return unpack(at);
}

}  // namespace net
