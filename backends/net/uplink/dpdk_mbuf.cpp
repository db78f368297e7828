#include "backends/net/uplink/dpdk_mbuf.hpp"

#include <algorithm>
#include <utility>

#include "libvhost/ring/fetch.hpp"

namespace net {
namespace {

constexpr std::uint16_t shortest_room = 2048;
/// What may be in front of and behind the bytes that the MTU counts: two tags, and an FCS that some
/// drivers keep.
constexpr std::uint16_t link_overhead = ethernet_bytes + 2 * vlan_tag_bytes + 4;

/// The longest frame in the smallest mbufs.
constexpr std::size_t most_in_chain = longest_frame / shortest_room + 1;

/// What the driver found out about the checksum, in virtio-net's words; nothing, if it has not
/// looked.
std::optional<VnetHeader> checksum_state(const Frame& frame, const rte_mbuf& mbuf) {
  const std::uint64_t found = mbuf.ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
  VnetHeader header{};
  if (found == RTE_MBUF_F_RX_L4_CKSUM_GOOD) {
    header.flags = data_valid;
    return header;
  }
  if (found != RTE_MBUF_F_RX_L4_CKSUM_NONE) return std::nullopt;
  // A sender on this host has left it undone: the field holds the pseudo-header's sum.
  const auto headers = parse_headers(frame.head(), most_tags);
  if (!headers) return std::nullopt;
  header.flags = needs_csum;
  header.csum_start = headers->transport;
  header.csum_offset = headers->protocol == ip::tcp ? tcp_checksum : udp_checksum;
  return header;
}

}  // namespace

std::uint16_t mbuf_room(std::uint16_t mtu) {
  const std::uint32_t wanted = std::uint32_t{mtu} + link_overhead;
  const std::size_t whole_lines =
      (wanted + vhost::cache_line - 1) / vhost::cache_line * vhost::cache_line;
  return static_cast<std::uint16_t>(std::max<std::size_t>(shortest_room, whole_lines));
}

rte_mbuf* copy_to_chain(const Frame& frame, rte_mempool& pool) {
  const std::size_t room = room_of(pool);
  const std::size_t count = (frame.length() + room - 1) / room;
  std::array<rte_mbuf*, most_in_chain> mbufs;
  std::array<iovec, most_in_chain> to;
  if (count > mbufs.size() ||
      ::rte_pktmbuf_alloc_bulk(&pool, mbufs.data(), static_cast<unsigned>(count)) != 0) {
    return nullptr;
  }
  std::size_t left = frame.length();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t here = std::min(room, left);
    mbufs[i]->data_len = static_cast<std::uint16_t>(here);
    mbufs[i]->next = i + 1 < count ? mbufs[i + 1] : nullptr;
    to[i] = {rte_pktmbuf_mtod(mbufs[i], void*), here};
    left -= here;
  }
  mbufs[0]->nb_segs = static_cast<std::uint16_t>(count);
  mbufs[0]->pkt_len = frame.length();
  copy_frame(frame, std::span(to).first(count));
  return mbufs[0];
}

std::optional<Headers> headers_for_driver(const Frame& frame) {
  // The sender's tags, and one that the switch has put in.
  const auto headers = parse_headers(frame.head(), most_tags + 1);
  if (!headers || frame.offload.csum_start != headers->transport) return std::nullopt;
  const bool tcp = headers->protocol == ip::tcp;
  if (frame.offload.csum_offset != (tcp ? tcp_checksum : udp_checksum)) return std::nullopt;
  // Behind extension headers, drivers would sum another pseudo-header.
  if (headers->ipv6 && headers->transport - headers->network != ipv6_bytes) return std::nullopt;
  return headers;
}

void set_tx_offload(rte_mbuf& mbuf, const Frame& frame, const Headers& headers) {
  mbuf.l2_len = headers.network & 0x7f;
  mbuf.l3_len = (headers.transport - headers.network) & 0x1ff;
  mbuf.ol_flags |= headers.ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
  if (frame.offload.gso_type == gso::none) {
    mbuf.ol_flags |=
        headers.protocol == ip::tcp ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM;
    return;
  }
  mbuf.l4_len = static_cast<std::uint8_t>(headers.payload - headers.transport);
  mbuf.tso_segsz = frame.offload.gso_size;
  mbuf.ol_flags |= RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_TCP_CKSUM;
  if (!headers.ipv6) mbuf.ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
}

std::optional<Drop> view_mbuf(Frame& frame, const rte_mbuf& mbuf, std::span<iovec>& room,
                              bool foreign_writers) {
  if (mbuf.pkt_len < ethernet_bytes) return Drop::too_short;
  if (mbuf.pkt_len > longest_plain_frame || mbuf.nb_segs > room.size()) return Drop::too_long;
  const std::size_t head = std::min<std::size_t>(Frame::usual_head, mbuf.pkt_len);
  auto* const begin = rte_pktmbuf_mtod(&mbuf, std::byte*);
  const bool whole = mbuf.data_len == mbuf.pkt_len;
  if (whole && !foreign_writers && rte_pktmbuf_headroom(&mbuf) >= vlan_tag_bytes) {
    frame.start(begin, head, mbuf.pkt_len);
    room.front() = {begin + head, mbuf.pkt_len - head};
    if (room.front().iov_len > 0) frame.rest = room.first(1);
  } else {
    const rte_mbuf* segment = &mbuf;
    for (iovec& piece : room.first(mbuf.nb_segs)) {
      piece = {rte_pktmbuf_mtod(segment, void*), segment->data_len};
      segment = segment->next;
    }
    frame.start(head, mbuf.pkt_len);
    fill(frame, room.first(mbuf.nb_segs));
  }
  room = room.subspan(mbuf.nb_segs);
  const auto header = checksum_state(frame, mbuf);
  return header ? check(frame, *header, {.checksum = true}, Sender::host) : std::nullopt;
}

Loan::Loan() {
  shared_.free_cb = [](void*, void*) {};  // not before our own reference goes, which is never
  ::rte_mbuf_ext_refcnt_set(&shared_, 1);
}

bool Loan::fits(const Frame& frame) {
  return frame.length() >= shortest && frame.rest.size() <= most_pieces &&
         std::ranges::all_of(frame.rest, [](const iovec& piece) {
           return piece.iov_len > 0 && piece.iov_len <= UINT16_MAX;
         });
}

rte_mbuf* Loan::lend(const Frame& frame, rte_mempool& pool) {
  std::array<rte_mbuf*, most_pieces + 1> mbufs;
  const std::size_t count = 1 + frame.rest.size();
  if (::rte_pktmbuf_alloc_bulk(&pool, mbufs.data(), static_cast<unsigned>(count)) != 0) {
    return nullptr;
  }
  rte_mbuf* const first = mbufs[0];
  std::ranges::copy(frame.head(), rte_pktmbuf_mtod(first, std::byte*));
  first->data_len = static_cast<std::uint16_t>(frame.head().size());
  first->pkt_len = frame.length();
  first->nb_segs = static_cast<std::uint16_t>(count);
  ::rte_mbuf_ext_refcnt_update(&shared_, static_cast<std::int16_t>(count - 1));
  for (std::size_t i = 1; i < count; ++i) {
    const iovec& piece = frame.rest[i - 1];
    const auto bytes = static_cast<std::uint16_t>(piece.iov_len);
    ::rte_pktmbuf_attach_extbuf(mbufs[i], piece.iov_base, RTE_BAD_IOVA, bytes, &shared_);
    mbufs[i]->data_len = bytes;
    mbufs[i - 1]->next = mbufs[i];
  }
  return first;
}

}  // namespace net
