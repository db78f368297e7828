#include "backends/net/frame/segment.hpp"

#include <chrono>

#include "backends/net/frame/checksum.hpp"

namespace net {
namespace {

constexpr std::uint8_t tcp_fin = 0x01;
constexpr std::uint8_t tcp_psh = 0x08;
constexpr std::uint8_t tcp_cwr = 0x80;
constexpr std::uint16_t more_fragments = 0x2000;  // IPv4's; IPv6 has bit 0 for it

void set_number(Frame& part, std::size_t offset, std::uint32_t number) {
  part.set_field(offset, big_endian(static_cast<std::uint16_t>(number)));
}

void copy_head(const Frame& frame, std::size_t from, std::size_t bytes, Frame& part,
               std::size_t to) {
  std::memcpy(part.head().subspan(to, bytes).data(), frame.head().subspan(from, bytes).data(),
              bytes);
}

/// IPv6 fragments of one datagram have a number in common that no other of late had between the
/// same hosts (RFC 8200, 4.5). Nanoseconds come again after four seconds, and then not at the
/// moment at which somebody still waits for fragments of the former.
std::uint32_t new_identification() {
  return static_cast<std::uint32_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

/// Options that are not to be copied to every fragment (RFC 791, 3.1) become NOPs.
void blank_options(std::span<std::byte> options) {
  constexpr std::byte end{0};
  constexpr std::byte nop{1};
  constexpr std::byte copied{0x80};
  while (!options.empty() && options[0] != end) {
    if (options[0] == nop) {
      options = options.subspan(1);
      continue;
    }
    const std::size_t length = options.size() > 1 ? std::to_integer<std::size_t>(options[1]) : 0;
    if (length < 2 || length > options.size()) return;  // no options that anybody understands
    if ((options[0] & copied) == std::byte{0}) std::ranges::fill(options.first(length), nop);
    options = options.subspan(length);
  }
}

}  // namespace

Payload::Payload(const Frame& frame, std::size_t begin) : behind_(frame.rest) {
  const auto in_head = frame.head().subspan(begin);
  // Nobody writes to what a frame's pieces refer to; iovec cannot say so.
  current_ = {const_cast<std::byte*>(in_head.data()), in_head.size()};
}

std::span<const iovec> Payload::take(std::size_t bytes) {
  std::size_t count = 0;
  while (bytes > 0) {
    if (current_.iov_len == 0) {
      current_ = behind_.front();
      behind_ = behind_.subspan(1);
      continue;
    }
    if (count == room_.size()) {
      gather();
      count = 1;
    }
    const std::size_t slice = std::min(current_.iov_len, bytes);
    room_[count++] = {current_.iov_base, slice};
    current_ = {static_cast<std::byte*>(current_.iov_base) + slice, current_.iov_len - slice};
    bytes -= slice;
  }
  return std::span(room_).first(count);
}

/// Brings what the room holds together as its first piece.
void Payload::gather() {
  std::span<const iovec> pieces(room_);
  std::size_t used = 0;
  if (room_[0].iov_base == buffer_.data()) {
    used = room_[0].iov_len;
    pieces = pieces.subspan(1);
  }
  for (const iovec& piece : pieces) {
    std::memcpy(buffer_.data() + used, piece.iov_base, piece.iov_len);
    used += piece.iov_len;
  }
  room_[0] = {buffer_.data(), used};
}

Segmenter::Segmenter(const Frame& frame, const Accepts& accepts)
    : frame_(frame),
      // The sender's tags, and one that the switch has put in. check() has found the same headers.
      headers_(*parse_headers(frame.head(), most_tags + 1)),
      checksum_taken_(accepts.checksum),
      step_(headers_.protocol == ip::tcp ? frame.offload.gso_size : frame.offload.gso_size & ~7U),
      total_(frame.length() -
             (headers_.protocol == ip::tcp ? headers_.payload : headers_.transport)),
      payload_(frame, headers_.payload) {
  assert(frame.offload.gso_type != gso::none);
  if (headers_.protocol == ip::tcp) return;
  udp_sum_ = checksum_of(frame);
  if (headers_.ipv6) identification_ = new_identification();
}

bool Segmenter::next(Frame& part) {
  if (behind_ == total_) return false;
  done_ = behind_;
  const std::uint32_t bytes = std::min(step_, total_ - done_);
  behind_ += bytes;
  if (headers_.protocol == ip::tcp) {
    make_segment(part, bytes);
  } else {
    make_fragment(part, bytes);
  }
  ++number_;
  return true;
}

void Segmenter::make_segment(Frame& part, std::uint32_t bytes) {
  part.start(headers_.payload, headers_.payload + bytes);
  copy_head(frame_, 0, headers_.payload, part, 0);
  part.rest = payload_.take(bytes);
  set_lengths(part);
  if (!headers_.ipv6) {
    const std::size_t id = headers_.network + std::size_t{4};
    set_number(part, id, number_at(part.head(), id) + std::uint32_t{number_});
    sum_ipv4_header(part);
  }

  const std::size_t tcp = headers_.transport;
  part.set_field(tcp + 4, std::byteswap(std::byteswap(part.field<std::uint32_t>(tcp + 4)) + done_));
  auto flags = part.field<std::uint8_t>(tcp + 13);
  if (behind_ < total_) flags &= static_cast<std::uint8_t>(~(tcp_fin | tcp_psh));
  if (done_ > 0) flags &= static_cast<std::uint8_t>(~tcp_cwr);
  part.set_field(tcp + 13, flags);

  Checksum pseudo_header;
  pseudo_header.add_field(part.field<std::uint16_t>(tcp + tcp_checksum));
  pseudo_header.add_field(~big_endian(static_cast<std::uint16_t>(frame_.length() - tcp)));
  pseudo_header.add_field(big_endian(static_cast<std::uint16_t>(part.length() - tcp)));
  part.set_field(tcp + tcp_checksum, pseudo_header.sum());
  part.offload = {needs_csum, gso::none, 0, 0, headers_.transport, tcp_checksum};
  if (!checksum_taken_) complete_checksum(part);
}

/// The first fragment's head has the UDP header as well, because the checksum is written to it.
void Segmenter::make_fragment(Frame& part, std::uint32_t bytes) {
  const std::size_t udp = headers_.transport + (headers_.ipv6 ? fragment_bytes : 0);
  const std::size_t udp_here = done_ == 0 ? udp_bytes : 0;
  part.start(udp + udp_here, static_cast<std::uint32_t>(udp + bytes));
  copy_head(frame_, 0, headers_.transport, part, 0);
  part.rest = payload_.take(bytes - udp_here);
  set_lengths(part);
  if (headers_.ipv6) {
    insert_fragment_header(part);
  } else {
    mark_fragment(part);
  }
  if (udp_here == 0) return;
  copy_head(frame_, headers_.transport, udp_bytes, part, udp);
  part.set_field(udp + udp_checksum, udp_sum_);
}

/// In front of the UDP header: any extension headers that there are go into every fragment.
void Segmenter::insert_fragment_header(Frame& part) const {
  const std::size_t at = headers_.transport;
  part.set_field(headers_.names_transport, ip::fragment);
  part.set_field(at, ip::udp);
  part.set_field(at + 1, std::uint8_t{0});
  set_number(part, at + 2, done_ | (behind_ < total_ ? 1U : 0U));
  part.set_field(at + 4, identification_);
}

void Segmenter::mark_fragment(Frame& part) const {
  const std::size_t ip_header = headers_.network;
  set_number(part, ip_header + 6, (done_ / 8) | (behind_ < total_ ? more_fragments : 0U));
  if (done_ > 0) {
    const std::size_t options = ip_header + ipv4_bytes;
    blank_options(part.head().subspan(options, headers_.transport - options));
  }
  sum_ipv4_header(part);
}

void Segmenter::set_lengths(Frame& part) const {
  const std::uint32_t whole = part.length() - headers_.network;
  if (headers_.ipv6) {
    set_number(part, headers_.network + std::size_t{4}, whole - std::uint32_t{ipv6_bytes});
  } else {
    set_number(part, headers_.network + std::size_t{2}, whole);
  }
}

void Segmenter::sum_ipv4_header(Frame& part) const {
  const std::size_t field = headers_.network + std::size_t{10};
  part.set_field(field, std::uint16_t{0});
  Checksum checksum;
  checksum.add(part.head().subspan(headers_.network, headers_.transport - headers_.network));
  part.set_field(field, checksum.value());
}

}  // namespace net
