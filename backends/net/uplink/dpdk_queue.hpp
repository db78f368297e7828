#pragma once
#include <array>
#include <atomic>

#include "backends/net/forwarding/source.hpp"
#include "backends/net/uplink/dpdk_device.hpp"
#include "backends/net/uplink/dpdk_mbuf.hpp"
#include "common/spin_lock.hpp"

/*
 * The queues of one of DPDK's devices.
 */
namespace net {

/// A receive queue. Frames are views of the mbufs, which go back in release().
class DpdkSource final : public Source {
 public:
  DpdkSource(const DpdkDevice& device, std::uint16_t queue, PortId port);
  ~DpdkSource() override;

  [[nodiscard]] bool take(Burst& burst) override;
  void release() override;
  [[nodiscard]] bool arm() override;
  void disarm() override;
  [[nodiscard]] int wake_fd() const override { return wake_fd_; }
  void woken() override;
  [[nodiscard]] std::size_t room_needed() const override;
  [[nodiscard]] Traffic& traffic() override { return traffic_; }
  [[nodiscard]] PortId port() const override { return port_; }

 private:
  const std::uint16_t device_;
  const std::uint16_t queue_;
  const PortId port_;
  const bool foreign_writers_;
  int wake_fd_ = -1;     // the driver's; -1: it has no receive interrupts
  bool counts_ = false;  // wake_fd_ is an eventfd: what made it ready has to be read
  Traffic traffic_;
  std::array<rte_mbuf*, Burst::most> mbufs_;
  std::uint16_t held_ = 0;  // of mbufs_: given out by take(), or found by arm()
};

/// A transmit queue. Workers that share it take turns.
class DpdkSink {
 public:
  DpdkSink(const DpdkDevice& device, std::uint16_t queue);
  ~DpdkSink();

  /// All frames are on their way, or dropped, when this returns. Counts into `traffic`, the
  /// caller's own.
  void send(std::span<Frame* const> frames, Traffic& traffic);

  /// Whether large frames are lent to the driver, not copied. Any thread.
  [[nodiscard]] bool lends() const { return lends_.load(std::memory_order_relaxed); }

 private:
  /// Whether a frame's pieces stay where they are until its burst has been transmitted.
  enum class Bytes : std::uint8_t { stay, go };

  void refill();
  [[nodiscard]] bool put_plain(const Frame& frame);
  void send_one(Frame& frame);
  void put(const Frame& frame, Bytes bytes);
  [[nodiscard]] rte_mbuf* make(const Frame& frame, Bytes bytes);
  void gather(rte_mbuf& mbuf, const Frame& frame);
  void prepare();
  void transmit();
  void look_after_loan();

  const DpdkDevice& device_;
  const std::uint16_t queue_;
  const std::uint32_t longest_;  // without segmentation
  const std::uint32_t room_;     // of an mbuf
  const std::uint32_t usual_;    // the longest that is simply copied to one
  const std::uint16_t group_;    // frames that are gathered and sent together
  std::atomic<bool> lends_;
  common::SpinLock lock_;

  // Under the lock.
  Loan loan_;
  Traffic* traffic_ = nullptr;  // of the worker that has the lock
  Tally tally_;
  std::array<rte_mbuf*, Burst::most> spare_;  // taken from the pool, not filled yet
  std::size_t spares_ = 0;
  std::array<rte_mbuf*, Burst::most> mbufs_;
  std::array<std::uint32_t, Burst::most> lengths_;
  std::uint16_t gathered_ = 0;
  bool offloaded_ = false;  // among those gathered
};

}  // namespace net
