#include "backends/net/uplink/tap_queue.hpp"

#include <limits.h>
#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "common/log.hpp"
#include "libvhost/ring/fetch.hpp"

namespace net {
namespace {

/// Six of the longest, or a whole burst at MTU 9000.
constexpr std::size_t buffer_bytes = std::size_t{384} << 10;

/// The kernel asks for less than we can do: what a guest does not take is cut at the guest's sink.
constexpr Accepts all{true, true, true, true, true};

constexpr std::size_t most_pieces = IOV_MAX;

}  // namespace

TapQueue::TapQueue(vhost::UniqueFd fd, PortId port, std::string name)
    : fd_(std::move(fd)),
      port_(port),
      name_(std::move(name)),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(buffer_bytes)) {}

bool TapQueue::take(Burst& burst) {
  burst.count = 0;
  used_ = 0;
  if (gone()) return false;
  bool any = false;
  Tally tally;
  std::uint32_t segments = 0;  // of frames that are to be cut
  for (std::size_t i = 0; i < Burst::most && used_ + room_bytes <= buffer_bytes; ++i) {
    // The next may ask for as many as a frame may.
    if (segments > most_segments_of_burst - most_segments) break;
    Frame& frame = burst.frames[burst.count];
    const Received received = receive(frame, burst.room[burst.count]);
    if (received == Received::nothing) break;
    any = true;
    if (received == Received::dropped) continue;
    if (!frame.plain()) segments += segments_of(frame);
    tally.add(frame.length());
    ++burst.count;
  }
  tally.flush(traffic_);
  return any;
}

/// The frame's head is read to where it belongs; how long it is comes out afterwards.
TapQueue::Received TapQueue::receive(Frame& frame, iovec& piece) {
  TapHeader header;
  frame.start(Frame::longest_head, Frame::longest_head);
  piece = {buffer_.get() + used_, room_bytes};
  const std::array to{iovec{&header, sizeof header},
                      iovec{frame.head().data(), Frame::longest_head}, piece};
  ssize_t bytes = 0;
  do {
    bytes = ::readv(fd_.get(), to.data(), to.size());
  } while (bytes < 0 && errno == EINTR);
  if (bytes < 0) {
    if (errno == EBADFD) let_go();
    return Received::nothing;
  }
  const auto drop = [&](Drop why) {
    traffic_.drop(why);
    return Received::dropped;
  };
  if (static_cast<std::size_t>(bytes) < header_bytes + ethernet_bytes) return drop(Drop::too_short);
  const auto length = static_cast<std::uint32_t>(static_cast<std::size_t>(bytes) - header_bytes);
  if (length > longest_frame) return drop(Drop::too_long);

  const std::size_t head = std::min<std::size_t>(length, Frame::longest_head);
  frame.start(head, length);
  piece.iov_len = length - head;
  if (piece.iov_len > 0) frame.rest = {&piece, 1};
  if (const auto why = check(frame, header.offload, all, Sender::host)) return drop(*why);
  used_ += (piece.iov_len + vhost::cache_line - 1) / vhost::cache_line * vhost::cache_line;
  return Received::frame;
}

bool TapQueue::arm() {
  if (gone()) return false;
  pollfd look{fd_.get(), POLLIN, 0};
  return ::poll(&look, 1, 0) > 0;
}

/// A descriptor whose interface is gone is in error for ever. It stays open, so that its worker can
/// take it out of its epoll: that would not forget it while another process has it, too.
void TapQueue::let_go() {
  if (gone_.exchange(true)) return;
  common::log::error(
      "{}: the interface was deleted; frames to it are dropped. Make it again and restart", name_);
}

TapQueue::Sent TapQueue::send(const Frame& frame, const Accepts& accepts,
                              std::span<std::byte> bounce) {
  TapHeader header{header_for(frame, accepts), 0};
  // How much the kernel keeps in one piece. 0 would be all of it: memory that is hard to get.
  header.offload.hdr_len = static_cast<std::uint16_t>(frame.head().size());
  std::array<iovec, most_pieces> from;
  std::size_t pieces = 2;
  from[0] = {&header, sizeof header};
  if (frame.rest.size() + pieces <= from.size()) {
    from[1] = {const_cast<std::byte*>(frame.head().data()), frame.head().size()};
    std::ranges::copy(frame.rest, from.begin() + 2);
    pieces += frame.rest.size();
  } else {
    from[1] = {bounce.data(), frame.length()};
    copy_frame(frame, std::span(&from[1], 1));
  }
  for (;;) {
    if (gone()) return Sent::link_down;
    if (::writev(fd_.get(), from.data(), static_cast<int>(pieces)) >= 0) return Sent::sent;
    switch (errno) {
      case EINTR: continue;
      case EAGAIN:
      case ENOBUFS:
      case ENOMEM: return Sent::full;
      case EIO: return Sent::link_down;
      case EBADFD: let_go(); return Sent::link_down;
      default: return Sent::refused;
    }
  }
}

}  // namespace net
