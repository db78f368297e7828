#pragma once
#include <array>

#include "backends/net/frame/frame.hpp"
#include "backends/net/frame/headers.hpp"
#include "backends/net/frame/offload.hpp"

/*
 * Segmentation in software: one long frame of a guest becomes the frames that its receiver takes.
 *
 * TCP becomes segments, each with its own headers, sequence number and checksum. A UDP datagram
 * becomes IP fragments (its checksum is that of the whole). Headers are made new for each part, in
 * the part's head; the payload stays where it is, and the part's rest refers to it. Only where a
 * segment lies in more pieces than there is room for are they brought together in a buffer first.
 *
 * Nothing is allocated, and the frame itself is not changed: it may be segmented again for another
 * receiver.
 *
 * What is as in Linux, because guests expect it: the IPv4 identification counts up over TCP's
 * segments, and is that of the datagram in fragments; they do not carry DF any more. FIN and PSH
 * are for the last segment, CWR for the first. The TCP checksum is made from what the guest left
 * in the field: its pseudo-header, with the new length instead of the old.
 */
namespace net {

/// The payload of a frame, taken off in slices from its front.
class Payload {
 public:
  /// What lies behind the first `begin` bytes, all of them in the head.
  Payload(const Frame& frame, std::size_t begin);
  Payload(const Payload&) = delete;
  Payload& operator=(const Payload&) = delete;

  /// The next bytes, at most longest_plain_frame, as pieces that are valid until the next call. The
  /// frame must have that many left.
  [[nodiscard]] std::span<const iovec> take(std::size_t bytes);

 private:
  void gather();

  // A guest's pieces are pages or more, but for the first: a jumbo frame has 4.
  static constexpr std::size_t most_pieces = 16;

  iovec current_;  // what is left of the piece that comes next
  std::span<const iovec> behind_;
  std::array<iovec, most_pieces> room_;
  std::array<std::byte, longest_plain_frame> buffer_;
};

class Segmenter {
 public:
  /// The frame has been checked and asks for segmentation. It stays as it is until the last part
  /// is done with. Parts have their checksum, or ask for it where `accepts` says so.
  Segmenter(const Frame& frame, const Accepts& accepts);

  /// Makes `part` the next of them. False: there are no more. The part's rest refers to the frame's
  /// bytes and to the segmenter, until the next call.
  [[nodiscard]] bool next(Frame& part);

 private:
  void make_segment(Frame& part, std::uint32_t bytes);
  void make_fragment(Frame& part, std::uint32_t bytes);
  void insert_fragment_header(Frame& part) const;
  void mark_fragment(Frame& part) const;
  void set_lengths(Frame& part) const;
  void sum_ipv4_header(Frame& part) const;

  const Frame& frame_;
  const Headers headers_;
  const bool checksum_taken_;
  const std::uint32_t step_;          // bytes of a part that is not the last
  const std::uint32_t total_;         // bytes of all parts: payload, or fragments
  std::uint32_t done_ = 0;            // of total_, before the part that is made now
  std::uint32_t behind_ = 0;          // of total_, with that part
  std::uint16_t number_ = 0;          // of that part
  std::uint16_t udp_sum_ = 0;         // UDP: the checksum of the datagram
  std::uint32_t identification_ = 0;  // IPv6 fragments
  Payload payload_;
};

}  // namespace net
