#include "backends/net/from_guest.hpp"

#include "backends/net/fetch.hpp"
#include "backends/net/header_bytes.hpp"

namespace net {

FromGuest::FromGuest(Setup setup, vhost::StartedRing ring, Desk& desk, QueueStats& stats)
    : setup_(std::move(setup)),
      discard_(ring.discard),
      ring_(std::move(ring.ring)),
      kick_(std::move(ring.kick)),
      call_(std::move(ring.call)),
      error_(std::move(ring.error)),
      desk_(desk),
      stats_(stats) {
  disarm();
}

std::size_t FromGuest::room_needed() const {
  return std::visit([](const auto& ring) { return ring.longest_chain(); }, ring_);
}

bool FromGuest::take(Burst& burst) {
  return std::visit([&](auto& ring) { return take_from(ring, burst); }, ring_);
}

/// Two rounds, so that the cache misses of a burst overlap: all of its bytes were written by
/// another CPU just now.
template <vhost::Ring R>
bool FromGuest::take_from(R& ring, Burst& burst) {
  pop_chains(ring, burst.room);
  if (discard_) {
    stats_.traffic.drop(Drop::disabled, chains_);
    return chains_ != 0;
  }
  Tally tally;
  std::uint32_t segments = 0;  // of frames that are to be cut
  for (std::size_t i = 0; i < chains_; ++i) {
    Frame& frame = burst.frames[burst.count];
    if (const auto why = read(pieces_[i], frame)) {
      stats_.traffic.drop(*why);
      continue;
    }
    if (!frame.plain() && (segments += segments_of(frame)) > most_segments_of_burst) {
      give_back(ring, i);
      break;
    }
    tally.add(frame.length());
    ++burst.count;
  }
  tally.flush(stats_.traffic);
  return chains_ != 0;
}

template <vhost::Ring R>
void FromGuest::pop_chains(R& ring, std::span<iovec> room) {
  ring.look_ahead(Burst::most);
  while (chains_ < Burst::most) {
    vhost::Chain chain(room);
    const vhost::Pop popped = ring.pop(chain);
    if (popped == vhost::Pop::broken) broke();
    // no_room: there is enough for the longest chain, once the chains before it have gone.
    if (popped != vhost::Pop::ready) return;
    const auto pieces = chain.readable();
    room = room.subspan(pieces.size() + chain.writable().size());
    for (const iovec& piece : pieces.first(std::min<std::size_t>(pieces.size(), 2))) {
      fetch(piece, header_bytes + Frame::usual_head);
    }
    pieces_[chains_] = pieces;
    heads_[chains_++] = chain.head;
  }
}

/// All chains but the first `kept` are as if they had never been popped.
template <vhost::Ring R>
void FromGuest::give_back(R& ring, std::size_t kept) {
  while (chains_ > kept) ring.unpop(heads_[--chains_]);
}

/// Makes a frame of a chain's bytes.
std::optional<Drop> FromGuest::read(std::span<iovec> pieces, Frame& frame) const {
  std::size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  if (bytes < setup_.header_bytes + ethernet_bytes) return Drop::too_short;
  if (bytes > setup_.header_bytes + longest_frame) return Drop::too_long;

  const VnetHeader header = take_header(pieces, setup_.header_bytes);
  const auto length = static_cast<std::uint32_t>(bytes - setup_.header_bytes);
  frame.start(head_bytes_for(header, length), length);
  take_head(pieces, frame);
  frame.rest = pieces;
  return check(frame, header, setup_.allowed);
}

void FromGuest::release() {
  if (chains_ == 0) return;
  const auto notify = std::visit(
      [&](auto& ring) {
        for (const std::uint16_t head : std::span(heads_).first(chains_)) ring.push(head, 0);
        return ring.publish();
      },
      ring_);
  chains_ = 0;
  if (notify == vhost::Notify::no || !call_) {
    stats_.calls_suppressed.add();
    return;
  }
  stats_.calls.add();
  call();
}

bool FromGuest::arm() {
  return std::visit([](auto& ring) { return ring.arm_kick(); }, ring_);
}

void FromGuest::disarm() {
  std::visit([](auto& ring) { ring.disarm_kick(); }, ring_);
}

void FromGuest::woken() {
  kick_->drain();
  stats_.kicks.add();
}

void FromGuest::move_to(const std::shared_ptr<const vhost::MemoryMap>& memory) {
  if (!std::visit([&](auto& ring) { return ring.move_to(memory); }, ring_)) broke();
}

std::shared_ptr<const vhost::EventFd> FromGuest::change_call(
    std::shared_ptr<const vhost::EventFd> call) {
  auto old = std::exchange(call_, std::move(call));
  this->call();
  return old;
}

void FromGuest::broke() {
  if (std::exchange(broken_, true)) return;
  stats_.broken.add();
  desk_.mailbox->call(error_.get());
  common::log::limited(desk_.broken_rings, common::log::Level::warning,
                       "port {}: the driver broke the rules of transmit queue {}; it is stopped "
                       "until the driver resets the device",
                       setup_.name, setup_.queue);
}

}  // namespace net
