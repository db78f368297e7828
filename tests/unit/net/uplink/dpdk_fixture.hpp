#pragma once
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "backends/net/uplink/dpdk_queue.hpp"
#include "tests/unit/net/eal/eal_environment.hpp"
#include "tests/unit/net/frame/tcp_frame.hpp"

namespace net::tests {

/// All bytes of a chain of mbufs.
inline std::vector<std::byte> bytes_of(const rte_mbuf& mbuf) {
  std::vector<std::byte> bytes;
  for (const rte_mbuf* segment = &mbuf; segment != nullptr; segment = segment->next) {
    const auto* const begin = rte_pktmbuf_mtod(segment, const std::byte*);
    bytes.insert(bytes.end(), begin, begin + segment->data_len);
  }
  return bytes;
}

/// A device of DPDK's between two rings: what is sent to it lies in one, what it receives comes
/// from the other. So a test sees and makes the very mbufs.
class RingDevice {
 public:
  static constexpr unsigned slots = 64;

  explicit RingDevice(const std::string& name) : device_name_("net_ring_" + name) {
    to_device_ = ::rte_ring_create((name + "r").c_str(), slots, SOCKET_ID_ANY, 0);
    from_device_ = ::rte_ring_create((name + "t").c_str(), slots, SOCKET_ID_ANY, 0);
    port_ = ::rte_eth_from_rings(name.c_str(), &to_device_, 1, &from_device_, 1, 0);
    EXPECT_GE(port_, 0) << rte_errno;
  }
  RingDevice(const RingDevice&) = delete;
  RingDevice& operator=(const RingDevice&) = delete;
  ~RingDevice() {
    EXPECT_EQ(::rte_eal_hotplug_remove("vdev", device_name_.c_str()), 0);
    ::rte_ring_free(to_device_);
    ::rte_ring_free(from_device_);
  }

  [[nodiscard]] std::uint16_t port() const { return static_cast<std::uint16_t>(port_); }

  [[nodiscard]] bool put(rte_mbuf* mbuf) { return ::rte_ring_enqueue(to_device_, mbuf) == 0; }
  /// Null: nothing was sent.
  [[nodiscard]] rte_mbuf* get() {
    void* mbuf = nullptr;
    return ::rte_ring_dequeue(from_device_, &mbuf) == 0 ? static_cast<rte_mbuf*>(mbuf) : nullptr;
  }
  /// The bytes of the frame that was sent next; empty if there was none.
  [[nodiscard]] std::vector<std::byte> get_bytes() {
    rte_mbuf* const mbuf = get();
    if (mbuf == nullptr) return {};
    auto bytes = bytes_of(*mbuf);
    ::rte_pktmbuf_free(mbuf);
    return bytes;
  }

 private:
  std::string device_name_;
  rte_ring* to_device_;
  rte_ring* from_device_;
  int port_;
};

}  // namespace net::tests
