#pragma once
#include <atomic>
#include <memory>
#include <string>

#include "backends/net/forwarding/source.hpp"
#include "backends/net/frame/offload.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * One queue of a TAP: a descriptor that gives and takes one frame per call, a virtio-net header of
 * 12 bytes in front.
 *
 * What is received lies in one buffer, a frame behind the other: small ones share few cache lines,
 * and a burst of 64 KiB frames ends when the buffer is full.
 */
namespace net {

/// The header as it lies in front of a frame.
struct TapHeader {
  VnetHeader offload;
  std::uint16_t num_buffers;
};
static_assert(vhost::Wire<TapHeader> && sizeof(TapHeader) == header_bytes);

class TapQueue final : public Source {
 public:
  /// `fd` does not block. `name` is for the log.
  TapQueue(vhost::UniqueFd fd, PortId port, std::string name);

  [[nodiscard]] bool take(Burst& burst) override;
  void release() override {}
  [[nodiscard]] bool arm() override;
  void disarm() override {}
  [[nodiscard]] int wake_fd() const override { return gone() ? nothing_comes : fd_.get(); }
  void woken() override {}
  [[nodiscard]] std::size_t room_needed() const override { return Burst::most; }
  [[nodiscard]] Traffic& traffic() override { return traffic_; }
  [[nodiscard]] PortId port() const override { return port_; }

  enum class Sent : std::uint8_t { sent, full, link_down, refused };
  /// Sends a frame of which nothing is missing to a kernel that takes `accepts` undone. `bounce` is
  /// for one that is in too many pieces: longest_frame bytes. Any thread.
  [[nodiscard]] Sent send(const Frame& frame, const Accepts& accepts, std::span<std::byte> bounce);

  /// Whether the interface was deleted. Any thread.
  [[nodiscard]] bool gone() const { return gone_.load(std::memory_order_relaxed); }

  /// Room for a frame beyond its head, and one byte to see that it is longer than any may be.
  static constexpr std::size_t room_bytes = longest_frame - Frame::longest_head + 1;

 private:
  enum class Received : std::uint8_t { frame, dropped, nothing };
  Received receive(Frame& frame, iovec& piece);
  void let_go();

  vhost::UniqueFd fd_;
  PortId port_;
  std::string name_;
  Traffic traffic_;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t used_ = 0;  // of the buffer, by this burst
  std::atomic<bool> gone_ = false;
};

}  // namespace net
