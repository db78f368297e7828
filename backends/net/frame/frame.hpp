#pragma once
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cassert>
#include <cstring>
#include <span>
#include <type_traits>

#include "backends/net/frame/virtio_net.hpp"

/*
 * A frame on its way through the daemon: a view of bytes that lie where their sender put them.
 *
 * Its first bytes, the head, no guest can write: a copy in the frame itself, or a buffer of our own
 * that it came in. Everything that is looked at to decide (MAC and IP addresses, VLAN tag, protocol
 * headers, the checksum field) lies there, so what was checked stays. The rest, the payload, is
 * copied once, by the sink that the frame is delivered to.
 *
 * A VLAN tag can be put in or taken out at no cost: the head has room in front.
 *
 * A frame lives as long as the burst that it came in. Nobody keeps one.
 */
namespace net {

class Frame {
 public:
  Frame() = default;
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  /// What is copied of each frame: the headers of TCP over IPv6 with options and a tag fit.
  static constexpr std::size_t usual_head = 128;
  /// What is copied at most, where a checksum field lies further behind (tunnels).
  static constexpr std::size_t longest_head = 256;

  /// What the sender asks for, checked; its positions count from begin of the frame.
  VnetHeader offload{};
  /// The bytes behind the head.
  std::span<const iovec> rest{};

  /// Makes the frame one of `length` bytes, of which the first `head_bytes` are about to be written
  /// to head().
  void start(std::size_t head_bytes, std::uint32_t length) {
    assert(head_bytes <= longest_head);
    start(bytes_.data() + vlan_tag_bytes, head_bytes, length);
  }
  /// The same, but its head is at `begin`, where nobody else writes, with room for a tag in front.
  void start(std::byte* begin, std::size_t head_bytes, std::uint32_t length) {
    assert(head_bytes <= length);
    begin_ = begin;
    room_ = vlan_tag_bytes;
    head_bytes_ = static_cast<std::uint16_t>(head_bytes);
    length_ = length;
    rest = {};
    offload = {};
  }

  /// All bytes of the frame, without any virtio-net header.
  [[nodiscard]] std::uint32_t length() const { return length_; }
  [[nodiscard]] std::span<std::byte> head() { return {begin_, head_bytes_}; }
  [[nodiscard]] std::span<const std::byte> head() const { return {begin_, head_bytes_}; }

  /// A field in the head, in the order it has there. The caller has seen that it lies in it.
  template <class T>
  [[nodiscard]] T field(std::size_t offset) const {
    assert(offset + sizeof(T) <= head_bytes_);
    T value;
    std::memcpy(&value, begin_ + offset, sizeof value);
    return value;
  }
  template <class T>
  void set_field(std::size_t offset, T value) {
    assert(offset + sizeof(T) <= head_bytes_);
    std::memcpy(begin_ + offset, &value, sizeof value);
  }

  [[nodiscard]] bool plain() const { return offload.flags == 0 && offload.gso_type == gso::none; }

  /// Puts a tag (TPID 0x8100) behind the MAC addresses. There is room for one.
  void push_tag(std::uint16_t tci);
  /// Takes the tag out that is there.
  void pop_tag();

 private:
  void move_checksum(int bytes);

  std::byte* begin_ = nullptr;
  std::uint32_t length_ = 0;
  std::uint16_t head_bytes_ = 0;
  std::uint16_t room_ = 0;  // in front of begin_
  alignas(16) std::array<std::byte, vlan_tag_bytes + longest_head> bytes_;
};

/// Takes the first `bytes` off `pieces`, which must hold that many: calls move(place, bytes) for
/// each run of them. The pieces are then what lies behind.
template <class Move>
void for_front(std::span<iovec>& pieces, std::size_t bytes, Move move) {
  while (bytes > 0) {
    iovec& piece = pieces.front();
    const std::size_t run = piece.iov_len < bytes ? piece.iov_len : bytes;
    move(static_cast<std::byte*>(piece.iov_base), run);
    bytes -= run;
    piece.iov_base = static_cast<std::byte*>(piece.iov_base) + run;
    piece.iov_len -= run;
    if (piece.iov_len == 0) pieces = pieces.subspan(1);
  }
}

/// Copies the first bytes of `pieces` to `to`, and takes them off.
inline void take_front(std::span<iovec>& pieces, std::span<std::byte> to) {
  std::byte* next = to.data();
  for_front(pieces, to.size(), [&](const std::byte* from, std::size_t bytes) {
    std::memcpy(next, from, bytes);
    next += bytes;
  });
  // What was read is not read again: the compiler must not go back to memory that a guest can
  // write.
  std::atomic_signal_fence(std::memory_order_acq_rel);
}

/// Copies up to Frame::usual_head bytes, in blocks of lengths that the compiler knows; they lie
/// over each other where they must.
inline void copy_short(std::byte* to, const std::byte* from, std::size_t bytes) {
  assert(bytes <= Frame::usual_head);
  const auto twice = [&]<std::size_t block>(std::integral_constant<std::size_t, block>) {
    std::memcpy(to, from, block);
    std::memcpy(to + bytes - block, from + bytes - block, block);
  };
  if (bytes >= 64) return twice(std::integral_constant<std::size_t, 64>{});
  if (bytes >= 32) return twice(std::integral_constant<std::size_t, 32>{});
  std::memcpy(to, from, bytes);
}

/// Fills a frame that lies at `from` in one piece: its head, of the usual length at most, and with
/// `piece` its rest.
inline void fill(Frame& frame, std::byte* from, iovec& piece) {
  const auto to = frame.head();
  copy_short(to.data(), from, to.size());
  piece = {from + to.size(), frame.length() - to.size()};
  if (piece.iov_len > 0) frame.rest = {&piece, 1};
  std::atomic_signal_fence(std::memory_order_acq_rel);  // as in take_front()
}

/// Fills a frame whose bytes are in `pieces`.
inline void fill(Frame& frame, std::span<iovec> pieces) {
  take_front(pieces, frame.head());
  frame.rest = pieces;
}

/// Copies `from` to the first bytes of `pieces`, and takes them off.
inline void put_front(std::span<iovec>& pieces, std::span<const std::byte> from) {
  const std::byte* next = from.data();
  for_front(pieces, from.size(), [&](std::byte* to, std::size_t bytes) {
    std::memcpy(to, next, bytes);
    next += bytes;
  });
}

/// Copies the whole frame to `to`, which has at least frame.length() bytes in all. A guest with two
/// ports can have a frame copied over itself: what comes of it then is the guest's own affair.
void copy_frame(const Frame& frame, std::span<const iovec> to);

/// The same, to bytes in one piece.
inline void copy_frame(const Frame& frame, std::byte* to) {
  const auto head = frame.head();
  if (head.size() <= Frame::usual_head) {
    copy_short(to, head.data(), head.size());
  } else {
    std::memcpy(to, head.data(), head.size());
  }
  to += head.size();
  for (const iovec& piece : frame.rest) {
    std::memmove(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
}

}  // namespace net
