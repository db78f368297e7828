#pragma once
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cassert>
#include <cstring>
#include <span>

#include "backends/net/virtio_net.hpp"

/*
 * A frame on its way through the daemon: a view of bytes that lie where their sender put them.
 *
 * Its first bytes, the head, are a copy of our own: everything that is looked at to decide (MAC and
 * IP addresses, VLAN tag, protocol headers, the checksum field) lies there, and a guest that
 * rewrites its buffers cannot change it any more. The rest, the payload, is copied once, by the
 * sink that the frame is delivered to.
 *
 * A VLAN tag can be put in or taken out at no cost: the head has room in front.
 *
 * A frame lives as long as the burst that it came in. Nobody keeps one.
 */
namespace net {

class Frame {
 public:
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
    assert(head_bytes <= longest_head && head_bytes <= length);
    begin_ = usual_begin;
    head_bytes_ = static_cast<std::uint16_t>(head_bytes);
    length_ = length;
    rest = {};
    offload = {};
  }

  /// All bytes of the frame, without any virtio-net header.
  [[nodiscard]] std::uint32_t length() const { return length_; }
  [[nodiscard]] std::span<std::byte> head() { return {bytes_.data() + begin_, head_bytes_}; }
  [[nodiscard]] std::span<const std::byte> head() const {
    return {bytes_.data() + begin_, head_bytes_};
  }

  /// A field in the head, in the order it has there. The caller has seen that it lies in it.
  template <class T>
  [[nodiscard]] T field(std::size_t offset) const {
    assert(offset + sizeof(T) <= head_bytes_);
    T value;
    std::memcpy(&value, bytes_.data() + begin_ + offset, sizeof value);
    return value;
  }
  template <class T>
  void set_field(std::size_t offset, T value) {
    assert(offset + sizeof(T) <= head_bytes_);
    std::memcpy(bytes_.data() + begin_ + offset, &value, sizeof value);
  }

  [[nodiscard]] bool plain() const { return offload.flags == 0 && offload.gso_type == gso::none; }

  /// Puts a tag (TPID 0x8100) behind the MAC addresses. There is room for one.
  void push_tag(std::uint16_t tci);
  /// Takes the tag out that is there.
  void pop_tag();

 private:
  void move_checksum(int bytes);

  static constexpr std::uint16_t usual_begin = vlan_tag_bytes;

  std::uint32_t length_ = 0;
  std::uint16_t head_bytes_ = 0;
  std::uint16_t begin_ = usual_begin;
  alignas(16) std::array<std::byte, usual_begin + longest_head> bytes_;
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

/// The same, to the head of a frame.
inline void take_head(std::span<iovec>& pieces, Frame& frame) {
  const std::span<std::byte> to = frame.head();
  iovec& piece = pieces.front();
  if (to.size() != Frame::usual_head || piece.iov_len <= to.size()) {
    take_front(pieces, to);
    return;
  }
  // As of nearly every frame that is longer than its head: a copy whose length the compiler knows.
  std::memcpy(to.data(), piece.iov_base, Frame::usual_head);
  piece = {static_cast<std::byte*>(piece.iov_base) + to.size(), piece.iov_len - to.size()};
  std::atomic_signal_fence(std::memory_order_acq_rel);
}

/// Copies `from` to the first bytes of `pieces`, and takes them off.
inline void put_front(std::span<iovec>& pieces, std::span<const std::byte> from) {
  const std::byte* next = from.data();
  for_front(pieces, from.size(), [&](std::byte* to, std::size_t bytes) {
    std::memcpy(to, next, bytes);
    next += bytes;
  });
}

/// Copies the whole frame to `to`, which has at least frame.length() bytes in all.
void copy_frame(const Frame& frame, std::span<const iovec> to);

}  // namespace net
