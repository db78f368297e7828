#pragma once
#include <rte_mbuf.h>

#include <optional>
#include <span>

#include "backends/net/frame/headers.hpp"
#include "backends/net/frame/offload.hpp"

/*
 * Frames and DPDK's packet buffers (mbufs): one made of the other.
 */
namespace net {

/// The longest plain frame in one mbuf: with this much room. Also what af_packet writes to one
/// without looking how long it is (its framesz of 2048).
[[nodiscard]] std::uint16_t mbuf_room(std::uint16_t mtu);

/// Bytes of a frame that one mbuf of the pool holds.
[[nodiscard]] inline std::uint32_t room_of(rte_mempool& pool) {
  return std::uint32_t{::rte_pktmbuf_data_room_size(&pool)} - RTE_PKTMBUF_HEADROOM;
}
/// Makes the frame the content of a fresh mbuf, which holds it.
inline void copy_to_mbuf(const Frame& frame, rte_mbuf& mbuf) {
  mbuf.data_len = static_cast<std::uint16_t>(frame.length());
  mbuf.pkt_len = frame.length();
  copy_frame(frame, rte_pktmbuf_mtod(&mbuf, std::byte*));
}
/// The frame's bytes in a chain of mbufs. Null: the pool is empty, or the frame too long.
[[nodiscard]] rte_mbuf* copy_to_chain(const Frame& frame, rte_mempool& pool);

/// Whether the driver can be asked to carry out what the frame leaves undone: TCP or UDP right
/// behind IP. It finds the headers by their lengths, where virtio names positions.
[[nodiscard]] std::optional<Headers> headers_for_driver(const Frame& frame);

/// Asks the driver for it.
void set_tx_offload(rte_mbuf& mbuf, const Frame& frame, const Headers& headers);

/// Makes `frame` a view of `mbuf`, with the pieces of its rest in `room`, which begins behind them
/// afterwards. Its head is copied if somebody else may write there. A reason: it is dropped.
[[nodiscard]] std::optional<Drop> view_mbuf(Frame& frame, const rte_mbuf& mbuf,
                                            std::span<iovec>& room, bool foreign_writers);

/// Guest memory that mbufs lend, and whether some of it is still out.
///
/// Drivers that copy or write out a frame inside their transmit function free its mbufs there.
/// Only with those may a frame be lent: once its burst is over, the guest may do with the memory
/// what it likes. all_back() is asked after each transmission; to a driver that ever kept an mbuf,
/// nothing is lent any more.
class Loan {
 public:
  /// Worth it from here on: below, a copy costs less than a second mbuf and counting (measured at
  /// 1518 bytes: 6 %).
  static constexpr std::uint32_t shortest = 4096;
  /// More pieces than this are copied.
  static constexpr std::size_t most_pieces = 32;

  Loan();
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

  [[nodiscard]] static bool fits(const Frame& frame);
  /// The frame with its head copied, and its rest lent. Null: the pool is empty.
  [[nodiscard]] rte_mbuf* lend(const Frame& frame, rte_mempool& pool);
  /// Nobody refers to lent memory any more.
  [[nodiscard]] bool all_back() const { return ::rte_mbuf_ext_refcnt_read(&shared_) == 1; }

 private:
  // References: our own, and one for each mbuf that lent memory is attached to.
  rte_mbuf_ext_shared_info shared_{};
};

}  // namespace net
