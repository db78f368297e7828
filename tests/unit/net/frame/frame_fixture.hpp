#pragma once
#include <algorithm>
#include <vector>

#include "backends/net/frame/frame.hpp"

namespace net::tests {

/// Bytes that differ from their neighbours: 0, 1, 2, ... modulo 251.
inline std::vector<std::byte> counting_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i % 251);
  return bytes;
}

/// A frame of these bytes, as a source makes it, with its rest in pieces of at most `piece_bytes`.
/// Not to be moved: the frame refers to it.
class OwnedFrame {
 public:
  explicit OwnedFrame(std::vector<std::byte> bytes, std::size_t piece_bytes = SIZE_MAX,
                      std::size_t head_bytes = Frame::usual_head)
      : bytes_(std::move(bytes)) {
    const std::size_t head = std::min(head_bytes, bytes_.size());
    frame.start(head, static_cast<std::uint32_t>(bytes_.size()));
    std::copy_n(bytes_.begin(), head, frame.head().begin());
    for (std::size_t at = head; at < bytes_.size(); at += pieces_.back().iov_len) {
      pieces_.push_back({bytes_.data() + at, std::min(piece_bytes, bytes_.size() - at)});
    }
    frame.rest = pieces_;
  }
  OwnedFrame(const OwnedFrame&) = delete;
  OwnedFrame& operator=(const OwnedFrame&) = delete;

  Frame frame;

 private:
  std::vector<std::byte> bytes_;
  std::vector<iovec> pieces_;
};

/// All bytes of a frame.
inline std::vector<std::byte> bytes_of(const Frame& frame) {
  std::vector<std::byte> bytes(frame.length());
  const iovec whole{bytes.data(), bytes.size()};
  copy_frame(frame, std::span(&whole, 1));
  return bytes;
}

}  // namespace net::tests
