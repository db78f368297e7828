#include "backends/net/uplink/dpdk_queue.hpp"

#include <rte_ethdev.h>
#include <rte_log.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <string>

#include "backends/net/frame/segment.hpp"
#include "common/log.hpp"

namespace net {
namespace {

/// The segments of a received frame: drivers give one or a few, other processes may chain more.
constexpr std::size_t usual_segments = 8;

/// What a driver that frees mbufs while it transmits gets at once: they are filled again while they
/// are in the first cache, and such a driver has no doorbell that is rung for each group.
constexpr std::uint16_t small_group = 8;

/// The driver's descriptor for receive interrupts; -1 if it has none. It is asked in silence: that
/// most have none is no error.
int interrupt_fd(std::uint16_t device, std::uint16_t queue) {
  const auto type = static_cast<std::uint32_t>(std::max(::rte_log_register("lib.ethdev"), 0));
  const int level = ::rte_log_get_level(type);
  ::rte_log_set_level(type, RTE_LOG_CRIT);
  int fd = ::rte_eth_dev_rx_intr_ctl_q_get_fd(device, queue);
  if (fd >= 0) {
    // One that cannot be switched is always on: tap's.
    const int error = ::rte_eth_dev_rx_intr_enable(device, queue);
    if (error != 0 && error != -ENOTSUP) fd = -1;
    (void)::rte_eth_dev_rx_intr_disable(device, queue);
  }
  ::rte_log_set_level(type, static_cast<std::uint32_t>(level));
  return fd;
}

bool is_eventfd(int fd) {
  std::array<char, 64> target{};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t bytes = ::readlink(path.c_str(), target.data(), target.size());
  return bytes > 0 &&
         std::string_view(target.data(), static_cast<std::size_t>(bytes)) == "anon_inode:[eventfd]";
}

}  // namespace

DpdkSource::DpdkSource(const DpdkDevice& device, std::uint16_t queue, PortId port)
    : device_(device.port),
      queue_(queue),
      port_(port),
      foreign_writers_(device.foreign_writers),
      wake_fd_(interrupt_fd(device.port, queue)),
      counts_(wake_fd_ >= 0 && is_eventfd(wake_fd_)) {}

DpdkSource::~DpdkSource() {
  release();
}

bool DpdkSource::take(Burst& burst) {
  burst.count = 0;
  if (held_ == 0) held_ = ::rte_eth_rx_burst(device_, queue_, mbufs_.data(), Burst::most);
  std::span<iovec> room(burst.room);
  Tally tally;
  for (const rte_mbuf* const mbuf : std::span(mbufs_).first(held_)) {
    Frame& frame = burst.frames[burst.count];
    if (const auto why = view_mbuf(frame, *mbuf, room, foreign_writers_)) {
      traffic_.drop(*why);
      continue;
    }
    tally.add(frame.length());
    ++burst.count;
  }
  tally.flush(traffic_);
  return held_ > 0;
}

void DpdkSource::release() {
  ::rte_pktmbuf_free_bulk(mbufs_.data(), held_);
  held_ = 0;
}

std::size_t DpdkSource::room_needed() const {
  return Burst::most * usual_segments;
}

/// One look more finds frames that came before the interrupt was armed; they wait for take().
bool DpdkSource::arm() {
  if (wake_fd_ >= 0) (void)::rte_eth_dev_rx_intr_enable(device_, queue_);
  if (held_ == 0) held_ = ::rte_eth_rx_burst(device_, queue_, mbufs_.data(), Burst::most);
  return held_ > 0;
}

void DpdkSource::disarm() {
  if (wake_fd_ >= 0) (void)::rte_eth_dev_rx_intr_disable(device_, queue_);
}

void DpdkSource::woken() {
  std::uint64_t times = 0;
  if (counts_) (void)!::read(wake_fd_, &times, sizeof times);
}

DpdkSink::DpdkSink(const DpdkDevice& device, std::uint16_t queue)
    : device_(device),
      queue_(queue),
      longest_(device.mtu + std::uint32_t{ethernet_bytes} + 2 * vlan_tag_bytes),
      room_(room_of(*device.tx_pool)),
      usual_(std::min({longest_, room_, Loan::shortest - 1})),
      group_(device.lends ? small_group : std::uint16_t{Burst::most}),
      lends_(device.lends) {}

DpdkSink::~DpdkSink() {
  ::rte_pktmbuf_free_bulk(spare_.data(), static_cast<unsigned>(spares_));
}

void DpdkSink::send(std::span<Frame* const> frames, Traffic& traffic) {
  const std::lock_guard lock(lock_);
  traffic_ = &traffic;
  for (Frame* const frame : frames) {
    if (!put_plain(*frame)) send_one(*frame);
  }
  transmit();
  tally_.flush(traffic);
}

/// Takes mbufs from the pool for a group; none, if it has not as many.
void DpdkSink::refill() {
  if (::rte_pktmbuf_alloc_bulk(device_.tx_pool.get(), spare_.data(), group_) == 0) spares_ = group_;
}

/// As nearly always: the frame asks for nothing, and a spare mbuf holds it. False: not so, and
/// nothing is done.
bool DpdkSink::put_plain(const Frame& frame) {
  if (!frame.plain() || frame.length() > usual_) return false;
  if (spares_ == 0) refill();
  if (spares_ == 0) return false;
  rte_mbuf* const mbuf = spare_[--spares_];
  copy_to_mbuf(frame, *mbuf);
  gather(*mbuf, frame);
  return true;
}

/// Any frame.
void DpdkSink::send_one(Frame& frame) {
  const bool understood = frame.plain() || headers_for_driver(frame).has_value();
  const Accepts accepts = understood ? device_.accepts : Accepts{};
  switch (missing(frame, accepts)) {
    case Missing::checksum:
      complete_checksum(frame);
      traffic_->summed.add();
      [[fallthrough]];
    case Missing::nothing: put(frame, Bytes::stay); return;
    case Missing::segmentation: break;
  }
  Segmenter segments(frame, accepts);
  traffic_->segmented.add();
  Frame part;
  while (segments.next(part)) put(part, Bytes::go);
}

void DpdkSink::put(const Frame& frame, Bytes bytes) {
  if (frame.offload.gso_type == gso::none && frame.length() > longest_) {
    traffic_->drop(Drop::too_big);
    return;
  }
  rte_mbuf* mbuf = make(frame, bytes);
  if (mbuf == nullptr) {
    transmit();  // some drivers give mbufs back then
    mbuf = make(frame, bytes);
  }
  if (mbuf == nullptr) {
    traffic_->drop(Drop::full);
    return;
  }
  if ((frame.offload.flags & needs_csum) != 0) {
    set_tx_offload(*mbuf, frame, *headers_for_driver(frame));
    offloaded_ = true;
  }
  gather(*mbuf, frame);
}

void DpdkSink::gather(rte_mbuf& mbuf, const Frame& frame) {
  mbufs_[gathered_] = &mbuf;
  lengths_[gathered_] = frame.length();
  if (++gathered_ == group_) transmit();
}

rte_mbuf* DpdkSink::make(const Frame& frame, Bytes bytes) {
  if (bytes == Bytes::stay && lends() && Loan::fits(frame)) {
    return loan_.lend(frame, *device_.tx_pool);
  }
  if (frame.length() > room_) {
    return device_.chains ? copy_to_chain(frame, *device_.tx_pool) : nullptr;
  }
  if (spares_ == 0) refill();
  if (spares_ == 0) return nullptr;
  rte_mbuf* const mbuf = spare_[--spares_];
  copy_to_mbuf(frame, *mbuf);
  return mbuf;
}

void DpdkSink::transmit() {
  if (offloaded_) prepare();
  offloaded_ = false;
  const std::uint16_t sent = ::rte_eth_tx_burst(device_.port, queue_, mbufs_.data(), gathered_);
  for (const std::uint32_t length : std::span(lengths_).first(sent)) tally_.add(length);
  if (sent < gathered_) {
    traffic_->drop(Drop::full, gathered_ - sent);
    ::rte_pktmbuf_free_bulk(&mbufs_[sent], static_cast<unsigned>(gathered_ - sent));
  }
  gathered_ = 0;
  look_after_loan();
}

/// Lets the driver finish headers as it wants them. A frame that it refuses is dropped.
void DpdkSink::prepare() {
  std::uint16_t good = 0;
  while (good < gathered_) {
    good = static_cast<std::uint16_t>(
        good + ::rte_eth_tx_prepare(device_.port, queue_, &mbufs_[good],
                                    static_cast<std::uint16_t>(gathered_ - good)));
    if (good == gathered_) return;
    traffic_->drop(Drop::refused);
    ::rte_pktmbuf_free(mbufs_[good]);
    std::copy(mbufs_.begin() + good + 1, mbufs_.begin() + gathered_, mbufs_.begin() + good);
    std::copy(lengths_.begin() + good + 1, lengths_.begin() + gathered_, lengths_.begin() + good);
    --gathered_;
  }
}

/// What the driver kept cannot be had back: it may send bytes that the guest has changed meanwhile.
/// It gets no more of them.
void DpdkSink::look_after_loan() {
  if (!lends() || loan_.all_back()) return;
  lends_.store(false, std::memory_order_relaxed);
  common::log::error(
      "--uplink {}: {} keeps frames that it was expected to be done with; from now on each one is "
      "copied for it",
      device_.name, device_.driver);
}

}  // namespace net
