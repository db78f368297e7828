#include "backends/net/frame/frame.hpp"

#include <algorithm>

namespace net {
namespace {

constexpr std::size_t addresses_bytes = 12;  // destination and source

}  // namespace

void Frame::push_tag(std::uint16_t tci) {
  assert(room_ >= vlan_tag_bytes && head_bytes_ >= ethernet_bytes);
  room_ = static_cast<std::uint16_t>(room_ - vlan_tag_bytes);
  std::byte* const old = begin_;
  begin_ -= vlan_tag_bytes;
  std::memmove(begin_, old, addresses_bytes);
  const std::array tag{std::byte{0x81}, std::byte{0x00}, static_cast<std::byte>(tci >> 8),
                       static_cast<std::byte>(tci & 0xff)};
  std::memcpy(begin_ + addresses_bytes, tag.data(), tag.size());
  head_bytes_ = static_cast<std::uint16_t>(head_bytes_ + vlan_tag_bytes);
  length_ += vlan_tag_bytes;
  move_checksum(vlan_tag_bytes);
}

/// A checksum request counts from the begin of the frame.
void Frame::move_checksum(int bytes) {
  if ((offload.flags & needs_csum) == 0) return;
  offload.csum_start = static_cast<std::uint16_t>(offload.csum_start + bytes);
}

void Frame::pop_tag() {
  assert(head_bytes_ >= ethernet_bytes + vlan_tag_bytes);
  room_ = static_cast<std::uint16_t>(room_ + vlan_tag_bytes);
  std::byte* const old = begin_;
  begin_ += vlan_tag_bytes;
  std::memmove(begin_, old, addresses_bytes);
  head_bytes_ = static_cast<std::uint16_t>(head_bytes_ - vlan_tag_bytes);
  length_ -= vlan_tag_bytes;
  move_checksum(-vlan_tag_bytes);
}

namespace {

/// Writes one run of bytes after another to pieces of memory, which may lie over where they are.
class Writer {
 public:
  explicit Writer(std::span<const iovec> to) : to_(to) {}

  void write(const std::byte* from, std::size_t bytes) {
    while (bytes > 0) {
      const std::size_t room = to_.front().iov_len - used_;
      const std::size_t part = std::min(room, bytes);
      std::memmove(static_cast<std::byte*>(to_.front().iov_base) + used_, from, part);
      from += part;
      bytes -= part;
      used_ += part;
      if (part == room) {
        to_ = to_.subspan(1);
        used_ = 0;
      }
    }
  }

 private:
  std::span<const iovec> to_;
  std::size_t used_ = 0;  // of the first piece
};

}  // namespace

void copy_frame(const Frame& frame, std::span<const iovec> to) {
  Writer writer(to);
  writer.write(frame.head().data(), frame.head().size());
  for (const iovec& piece : frame.rest) {
    writer.write(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
  }
}

}  // namespace net
