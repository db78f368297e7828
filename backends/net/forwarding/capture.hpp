#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "backends/net/frame/frame.hpp"
#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * Writes the frames of a port to a pcapng file, for Wireshark or tcpdump.
 *
 * A worker must not wait for a disk: it appends to a buffer in memory, and the control thread
 * writes that to the file from a timer while workers append to another. A frame that does not fit
 * is not captured, and counted. Capturing is for finding faults: it copies every frame once more,
 * under a mutex.
 *
 * DPDK's rte_pcapng wants an ethdev port and an mbuf of its own for each frame; ports of guests are
 * neither.
 */
namespace net {

class Capture {
 public:
  enum class Direction : std::uint8_t { in = 1, out = 2 };  // as in epb_flags

  /// Of each of the two buffers: some milliseconds of full traffic, seconds of a slow port.
  static constexpr std::size_t buffer_bytes = std::size_t{2} << 20;
  /// As long as a frame can be.
  static constexpr std::uint32_t snap_bytes = longest_frame + vlan_tag_bytes;

  /// Makes (or empties) the file; only its owner may read it. `port` names the interface in it.
  [[nodiscard]] static vhost::Result<std::unique_ptr<Capture>> create(
      const std::filesystem::path& file, std::string_view port);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// Frames that come in from the port, or go out through it, as they are now. Any thread.
  void append(std::span<Frame* const> frames, Direction direction);

  /// Writes what was captured since the last time. Control thread. An error ends the capture and is
  /// told once.
  [[nodiscard]] vhost::Result<void> write_out();

  /// Frames that found no room, or came after an error. Any thread.
  [[nodiscard]] std::uint64_t lost() const;

 private:
  Capture(vhost::UniqueFd file, std::filesystem::path path, std::string_view port);

  void append_block(const Frame& frame, Direction direction, std::uint64_t now_ns);

  const vhost::UniqueFd file_;
  const std::filesystem::path path_;

  mutable std::mutex mutex_;  // guards filling_, lost_ and ended_; never held while writing
  std::vector<std::byte> filling_;
  std::uint64_t lost_ = 0;
  bool ended_ = false;

  std::vector<std::byte> writing_;  // control thread
};

}  // namespace net
