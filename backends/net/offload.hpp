#pragma once
#include <cstdint>
#include <optional>

#include "backends/net/frame.hpp"
#include "backends/net/traffic.hpp"

/*
 * Checksums and segmentation: what a sender left to us, and what a sink takes.
 *
 * check() runs once, where a frame enters. From then on a frame's offload is consistent: its
 * checksum field lies in the head, a segmentation request names TCP or UDP over the IP version that
 * the headers have, all headers lie in the head, and the segment size is not 0.
 *
 * missing() runs at the sink, where the request is passed on, or carried out in software: the
 * checksum by complete_checksum(), segmentation by a Segmenter.
 */
namespace net {

/// What a sink's receiver takes undone.
struct Accepts {
  bool checksum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;
  bool ufo = false;
};

/// Checks what the sender asks for against the frame itself and against what may be asked
/// (`allowed`, as negotiated). Clears what has no meaning (unknown flags, hdr_len). `header` is as
/// the sender wrote it; on success frame.offload is set. Nothing: all is well.
[[nodiscard]] std::optional<Drop> check(Frame& frame, const VnetHeader& header,
                                        const Accepts& allowed);

enum class Missing : std::uint8_t { nothing, checksum, segmentation };
[[nodiscard]] Missing missing(const Frame& frame, const Accepts& accepts);

/// Sums the frame, writes the checksum into its head and clears the request.
void complete_checksum(Frame& frame);

}  // namespace net
