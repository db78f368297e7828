// A guest controls the virtio-net header and every byte of a frame; a receiver takes anything or
// nothing.
#include <memory>

#include "backends/net/frame/segment.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"
#include "tests/unit/net/frame/packet_fixture.hpp"

using namespace net;
using namespace net::tests;

namespace {

void must(bool holds) {
  if (!holds) __builtin_trap();
}

Accepts accepts_of(unsigned bits) {
  return {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0, (bits & 16) != 0};
}

/// Input bytes, and zeros behind them.
class Input {
 public:
  explicit Input(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::size_t byte() {
    if (bytes_.empty()) return 0;
    const auto value = std::to_integer<std::size_t>(bytes_[0]);
    bytes_ = bytes_.subspan(1);
    return value;
  }
  std::size_t number() { return byte() | (byte() << 8); }
  /// Writes what is left over the first bytes of `to`.
  void overwrite(std::span<std::byte> to) {
    std::copy_n(bytes_.begin(), std::min(bytes_.size(), to.size()), to.begin());
  }

 private:
  std::span<const std::byte> bytes_;
};

Shape shape_of(Input& input) {
  const std::size_t bits = input.byte();
  const bool ipv6 = (bits & 1) != 0;
  return {.ipv6 = ipv6,
          .udp = (bits & 2) != 0,
          .tags = (bits >> 2) % 3,
          .extension = input.byte() % (ipv6 ? 26 : 6) * 8,
          .options = (bits >> 4) % 11 * 4,
          .payload = input.number()};
}

/// The request that is right for the shape, changed by what comes in.
VnetHeader header_of(Input& input, const Shape& shape) {
  const std::size_t changes = input.byte();
  VnetHeader header = shape.header(shape.gso_type(), input.number());
  if ((changes & 1) != 0) header.flags = static_cast<std::uint8_t>(input.byte());
  if ((changes & 2) != 0) header.gso_type = static_cast<std::uint8_t>(input.byte());
  if ((changes & 4) != 0) header.csum_start = static_cast<std::uint16_t>(input.number());
  if ((changes & 8) != 0) header.csum_offset = static_cast<std::uint16_t>(input.number());
  return header;
}

/// A checksum that counts from the frame's begin, over all bytes.
void complete(Frame& frame) {
  const Bytes before = bytes_of(frame);
  const VnetHeader asked = frame.offload;
  complete_checksum(frame);
  const Bytes after = bytes_of(frame);
  const std::size_t field = std::size_t{asked.csum_start} + asked.csum_offset;
  const std::size_t sum = naive_sum(std::span(before).subspan(asked.csum_start));
  const std::size_t value = get16(after, field);
  must(value == (0xffff ^ sum) || (sum == 0xffff && value == 0xffff));
  must(frame.plain());
  for (std::size_t i = 0; i < after.size(); ++i) {
    must(after[i] == before[i] || i == field || i == field + 1);
  }
}

void segment(const Frame& frame, const Accepts& accepts) {
  const Bytes before = bytes_of(frame);
  const Headers headers = *parse_headers(frame.head(), most_tags + 1);
  const bool udp = headers.protocol == ip::udp;
  const std::size_t begin = udp ? headers.transport : headers.payload;
  const std::size_t front = begin + (udp && headers.ipv6 ? fragment_bytes : 0);

  // The parts' payloads put together are the frame's, but for UDP's checksum.
  Bytes payload;
  Segmenter segmenter(frame, accepts);
  Frame part;
  std::size_t parts = 0;
  while (segmenter.next(part)) {
    ++parts;
    must(missing(part, accepts) == Missing::nothing);
    must(header_for(part, accepts).gso_type == gso::none);
    must(part.length() <= longest_plain_frame + vlan_tag_bytes);
    std::size_t bytes = part.head().size();
    for (const iovec& piece : part.rest) bytes += piece.iov_len;
    must(bytes == part.length());
    const Bytes copy = bytes_of(part);
    must(std::equal(copy.begin(), copy.begin() + 12, before.begin()));
    payload.insert(payload.end(), copy.begin() + static_cast<long>(front), copy.end());
  }
  must(parts >= 2 && parts <= most_segments);
  Bytes expected(before.begin() + static_cast<long>(begin), before.end());
  if (udp) set16(expected, udp_checksum, get16(payload, udp_checksum));
  must(payload == expected);
  must(bytes_of(frame) == before);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(std::as_bytes(std::span(data, size)));
  const Accepts allowed = accepts_of(static_cast<unsigned>(~input.byte()));
  const Accepts accepts = accepts_of(static_cast<unsigned>(input.byte()));
  const std::size_t bits = input.byte();
  const std::size_t piece = 1 + input.number();
  const Shape shape = shape_of(input);
  const VnetHeader header = header_of(input, shape);
  Bytes packet = make_packet(shape);
  if ((bits & 1) != 0) packet.resize(input.byte());
  if (packet.size() > 0) input.overwrite(std::span(packet).subspan(bits / 2 % packet.size()));

  const auto length = static_cast<std::uint32_t>(packet.size());
  OwnedFrame owned(packet, piece, head_bytes_for(header, length));
  Frame& frame = owned.frame;
  if (check(frame, header, allowed, (bits & 2) != 0 ? Sender::host : Sender::guest)) return 0;
  must(length >= ethernet_bytes && length <= longest_frame);
  must(bytes_of(frame) == packet);
  if ((bits & 4) != 0) frame.push_tag(100);

  // To one receiver, and then to another that takes nothing.
  for (const Accepts& taken : {accepts, Accepts{}}) {
    switch (missing(frame, taken)) {
      case Missing::checksum: complete(frame); [[fallthrough]];
      case Missing::nothing: (void)header_for(frame, taken); break;
      case Missing::segmentation: segment(frame, taken); break;
    }
  }
  return 0;
}
