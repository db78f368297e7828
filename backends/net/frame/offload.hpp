#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>

#include "backends/net/frame/frame.hpp"
#include "backends/net/frame/traffic.hpp"

/*
 * Checksums and segmentation: what a sender left to us, and what a sink takes.
 *
 * check() runs once, where a frame enters. From then on a frame's offload is consistent: its
 * checksum field lies in the head, a segmentation request names TCP or UDP over the IP version that
 * the headers have, all headers lie in the head, the payload is longer than a segment, and no
 * segment is longer than a plain frame may be.
 *
 * missing() runs at the sink, where the request is passed on, or carried out in software: the
 * checksum by complete_checksum(), segmentation by a Segmenter (segment.hpp). A frame that goes to
 * several sinks stays what it is: a Segmenter changes nothing in it, and a checksum that was
 * completed for one is right for all.
 *
 * The guest may rewrite the payload at any time. Then its checksum is wrong, and nothing else.
 */
namespace net {

/// What a sink's receiver takes undone. A receiver that does not take `checksum` takes nothing:
/// what is to be segmented has no checksum yet (VIRTIO 1.3, 5.1.6.4.1).
struct Accepts {
  bool checksum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;
  bool ufo = false;
};

/// Who wrote a virtio-net header: the host's kernel (a TAP) may also say that a checksum is known
/// to be good.
enum class Sender : std::uint8_t { guest, host };

/// A frame may ask to become this many segments, so that one frame of 64 KiB costs no more than
/// some thousand plain ones: 64 bytes each.
inline constexpr std::uint32_t most_segments = 1024;

/// And all frames of a burst together this many. A source that has taken more gives the rest back
/// and goes on in its next turn: cutting a burst takes a worker, and the lock of a receiver, no
/// longer than copying 32 frames of 64 KiB does (some 0.3 ms). No burst of segments of 1 KiB or
/// more ends before its time.
inline constexpr std::uint32_t most_segments_of_burst = 2048;
static_assert(most_segments <= most_segments_of_burst, "any frame is taken, alone at least");

/// How much of a frame of `length` bytes its source copies to the head before check(): all headers,
/// the checksum field. `header` may say anything.
[[nodiscard]] inline std::size_t head_bytes_for(const VnetHeader& header, std::uint32_t length) {
  std::size_t wanted = Frame::usual_head;
  if (header.gso_type != gso::none) {
    wanted = Frame::longest_head;
  } else if ((header.flags & needs_csum) != 0) {
    const std::size_t behind_field =
        std::size_t{header.csum_start} + header.csum_offset + sizeof(std::uint16_t);
    wanted = std::clamp(behind_field, Frame::usual_head, Frame::longest_head);
  }
  return std::min<std::size_t>(wanted, length);
}

/// Checks what the sender asks for against the frame itself and against what may be asked
/// (`allowed`, as negotiated). Clears what has no meaning (unknown flags, hdr_len, segmentation of
/// what fits into one segment). `header` is as the sender wrote it; on success frame.offload is
/// set. Nothing: all is well. The head is as long as head_bytes_for() says.
[[nodiscard]] std::optional<Drop> check_all(Frame& frame, const VnetHeader& header,
                                            const Accepts& allowed, Sender sender);
[[nodiscard]] inline std::optional<Drop> check(Frame& frame, const VnetHeader& header,
                                               const Accepts& allowed,
                                               Sender sender = Sender::guest) {
  const bool asks = header.flags != 0 || header.gso_type != gso::none;
  if (asks || frame.length() < ethernet_bytes || frame.length() > longest_plain_frame) {
    return check_all(frame, header, allowed, sender);
  }
  frame.offload = {};
  return std::nullopt;
}

/// How many frames it is, or asks to become. It has been checked.
[[nodiscard]] std::uint32_t count_segments(const Frame& frame);
[[nodiscard]] inline std::uint32_t segments_of(const Frame& frame) {
  return frame.offload.gso_type == gso::none ? 1 : count_segments(frame);
}

enum class Missing : std::uint8_t { nothing, checksum, segmentation };

/// Of a frame that is not plain.
[[nodiscard]] Missing missing_of(const VnetHeader& offload, const Accepts& accepts);
[[nodiscard]] inline Missing missing(const Frame& frame, const Accepts& accepts) {
  return frame.plain() ? Missing::nothing : missing_of(frame.offload, accepts);
}

/// What the checksum field must be, of a frame that asks for it.
[[nodiscard]] std::uint16_t checksum_of(const Frame& frame);

/// Sums the frame, writes the checksum into its head and clears the request. The frame asks for
/// its checksum, and not for segmentation.
void complete_checksum(Frame& frame);

/// The length of all headers of a frame that asks for segmentation.
[[nodiscard]] std::uint16_t bytes_of_headers(const Frame& frame);

/// What goes in front of the frame to a receiver that lacks nothing of it (num_buffers follows).
/// hdr_len is set where the frame is to be segmented, and 0 elsewhere.
[[nodiscard]] inline VnetHeader header_for(const Frame& frame, const Accepts& accepts) {
  assert(missing(frame, accepts) == Missing::nothing);
  if (frame.plain() || !accepts.checksum) return {};
  VnetHeader header = frame.offload;
  if (header.gso_type != gso::none) header.hdr_len = bytes_of_headers(frame);
  return header;
}

}  // namespace net
