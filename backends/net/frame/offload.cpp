#include "backends/net/frame/offload.hpp"

#include "backends/net/frame/checksum.hpp"
#include "backends/net/frame/headers.hpp"

namespace net {
namespace {

/// What a segmentation type says of the frame.
struct Kind {
  bool ipv4;
  bool ipv6;
  std::uint8_t protocol;
  std::uint16_t csum_offset;
  bool taken;  // by the receiver
};

/// Nothing: there is no such type.
std::optional<Kind> kind_of(std::uint8_t gso_type, const Accepts& accepts) {
  const bool ecn = (gso_type & gso::ecn) != 0;
  const bool ecn_taken = accepts.ecn || !ecn;
  switch (gso_type & ~gso::ecn) {
    case gso::tcp4: return Kind{true, false, ip::tcp, tcp_checksum, accepts.tso4 && ecn_taken};
    case gso::tcp6: return Kind{false, true, ip::tcp, tcp_checksum, accepts.tso6 && ecn_taken};
    case gso::udp:
      if (ecn) return std::nullopt;
      return Kind{true, true, ip::udp, udp_checksum, accepts.ufo};
    default: return std::nullopt;
  }
}

/// Room in the head for what the headers may grow by: a tag, and IPv6's fragment header.
constexpr std::size_t longest_headers = Frame::longest_head - vlan_tag_bytes - fragment_bytes;

/// Nothing: the request makes no sense for this frame, or may not be made.
std::optional<Headers> headers_to_segment(const Frame& frame, const VnetHeader& header,
                                          const Accepts& allowed) {
  const auto kind = kind_of(header.gso_type, allowed);
  if (!kind || !kind->taken || (header.flags & needs_csum) == 0) return std::nullopt;
  const auto headers = parse_headers(frame.head(), most_tags);
  if (!headers || !(headers->ipv6 ? kind->ipv6 : kind->ipv4)) return std::nullopt;
  if (headers->protocol != kind->protocol || headers->payload > longest_headers) {
    return std::nullopt;
  }
  if (header.csum_start != headers->transport || header.csum_offset != kind->csum_offset) {
    return std::nullopt;
  }
  if (headers->payload >= frame.length()) return std::nullopt;
  return headers;
}

/// The bytes that are cut into pieces, and how: TCP's payload into segments, or UDP's datagram,
/// header and all, into IP fragments.
struct Cut {
  std::uint32_t begin;
  std::uint32_t step;
  std::uint32_t added;  // to the bytes in front of each piece
};

Cut cut_of(const Headers& headers, std::uint16_t gso_size) {
  if (headers.protocol == ip::tcp) return {headers.payload, gso_size, 0};
  return {headers.transport, gso_size & ~7U, headers.ipv6 ? std::uint32_t{fragment_bytes} : 0};
}

std::optional<Drop> check_segmentation(Frame& frame, const VnetHeader& header,
                                       const Accepts& allowed) {
  const auto headers = headers_to_segment(frame, header, allowed);
  if (!headers) return Drop::bad_segmentation;
  const Cut cut = cut_of(*headers, header.gso_size);
  const std::uint32_t bytes = frame.length() - cut.begin;
  if (bytes <= header.gso_size) return std::nullopt;  // one segment: there is nothing to do
  // A step of 0 would be more segments than any number.
  if (bytes > most_segments * cut.step) return Drop::bad_segmentation;
  if (cut.begin + cut.added + cut.step > longest_plain_frame) return Drop::too_long;
  frame.offload.gso_type = header.gso_type;
  frame.offload.gso_size = header.gso_size;
  return std::nullopt;
}

/// A checksum over the Ethernet header has no meaning: every switch may change its tags.
bool lies_in_head(const Frame& frame, const VnetHeader& header) {
  const std::size_t field = std::size_t{header.csum_start} + header.csum_offset;
  return header.csum_start >= link_bytes(frame.head(), most_tags) &&
         field + sizeof(std::uint16_t) <= frame.head().size();
}

}  // namespace

std::optional<Drop> check_all(Frame& frame, const VnetHeader& header, const Accepts& allowed,
                              Sender sender) {
  frame.offload = {};
  if (frame.length() < ethernet_bytes) return Drop::too_short;
  if (frame.length() > longest_frame) return Drop::too_long;
  if ((header.flags & needs_csum) != 0) {
    if (!allowed.checksum || !lies_in_head(frame, header)) return Drop::bad_checksum;
    frame.offload.flags = needs_csum;
    frame.offload.csum_start = header.csum_start;
    frame.offload.csum_offset = header.csum_offset;
  } else if (sender == Sender::host) {
    frame.offload.flags = header.flags & data_valid;
  }
  if (header.gso_type != gso::none) {
    if (const auto bad = check_segmentation(frame, header, allowed)) return bad;
  }
  if (frame.offload.gso_type == gso::none && frame.length() > longest_plain_frame) {
    return Drop::too_long;
  }
  return std::nullopt;
}

std::uint32_t count_segments(const Frame& frame) {
  const VnetHeader& offload = frame.offload;
  assert(offload.gso_type != gso::none);
  const bool udp = offload.gso_type == gso::udp;  // as in cut_of()
  const std::uint32_t begin = udp ? offload.csum_start : bytes_of_headers(frame);
  const std::uint32_t step = udp ? offload.gso_size & ~7U : offload.gso_size;
  return (frame.length() - begin + step - 1) / step;
}

Missing missing_of(const VnetHeader& offload, const Accepts& accepts) {
  if ((offload.flags & needs_csum) == 0) return Missing::nothing;
  if (offload.gso_type != gso::none) {
    const bool taken = accepts.checksum && kind_of(offload.gso_type, accepts)->taken;
    return taken ? Missing::nothing : Missing::segmentation;
  }
  return accepts.checksum ? Missing::nothing : Missing::checksum;
}

std::uint16_t checksum_of(const Frame& frame) {
  assert((frame.offload.flags & needs_csum) != 0);
  Checksum checksum;
  checksum.add(frame.head().subspan(frame.offload.csum_start));
  for (const iovec& piece : frame.rest) {
    checksum.add({static_cast<const std::byte*>(piece.iov_base), piece.iov_len});
  }
  // UDP's 0 says that there is no checksum; 0xffff says the same number. No other protocol that
  // asks for its checksum has it there.
  const std::uint16_t value = checksum.value();
  return value == 0 && frame.offload.csum_offset == udp_checksum ? 0xffff : value;
}

void complete_checksum(Frame& frame) {
  assert(frame.offload.gso_type == gso::none);
  const std::size_t field = std::size_t{frame.offload.csum_start} + frame.offload.csum_offset;
  frame.set_field(field, checksum_of(frame));
  frame.offload = {};
}

std::uint16_t bytes_of_headers(const Frame& frame) {
  const std::uint16_t l4 = frame.offload.csum_start;
  if (frame.offload.gso_type == gso::udp) return static_cast<std::uint16_t>(l4 + udp_bytes);
  const auto words = frame.field<std::uint8_t>(l4 + std::size_t{12}) >> 4;
  return static_cast<std::uint16_t>(l4 + words * 4);
}

}  // namespace net
