#include "backends/net/guest/from_guest.hpp"

#include "backends/net/frame/fetch.hpp"
#include "backends/net/frame/header_bytes.hpp"

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

/// A burst on its way out of the ring.
struct FromGuest::Intake {
  Burst& burst;
  std::span<iovec> room;
  Tally tally;
  std::uint32_t segments = 0;  // that its frames ask to become, but for plain ones
};

template <vhost::Ring R>
bool FromGuest::take_from(R& ring, Burst& burst) {
  Intake intake{burst, burst.room, {}};
  ring.look_ahead(Burst::most);
  while (take_singles(ring, intake) && take_chain(ring, intake)) {
  }
  intake.tally.flush(stats_.traffic);
  return chains_ != 0;
}

/// Two rounds, so that the cache misses of a burst overlap: all of its bytes were written by
/// another CPU just now.
template <vhost::Ring R>
bool FromGuest::take_singles(R& ring, Intake& intake) {
  std::array<vhost::Single, Burst::most> singles;
  const std::size_t most = std::min(Burst::most - chains_, intake.room.size());
  const auto run = std::span(singles).first(ring.pop_singles(std::span(singles).first(most)));
  for (const vhost::Single& single : run) {
    fetch({single.begin, single.bytes}, header_bytes + Frame::usual_head);
  }
  std::uint16_t* head = &heads_[chains_];
  iovec* piece = intake.room.data();
  for (const vhost::Single& single : run) {
    *head++ = single.head;
    *piece = {single.begin, single.writable ? 0 : single.bytes};
    Frame& frame = intake.burst.frames[intake.burst.count];
    if (!discard_ && read_plain(*piece, frame)) {
      intake.tally.add(frame.length());
      ++intake.burst.count;
    } else if (!accept({piece, 1}, intake)) {
      const auto taken = static_cast<std::size_t>(piece - intake.room.data());
      for (std::size_t i = run.size(); i > taken; --i) ring.unpop(run[i - 1].head);
      chains_ += taken;
      return false;
    }
    ++piece;
  }
  chains_ += run.size();
  intake.room = intake.room.subspan(run.size());
  return true;
}

/// The next chain, whatever it is. False: there is none, or no place for it in this burst.
template <vhost::Ring R>
bool FromGuest::take_chain(R& ring, Intake& intake) {
  if (chains_ == Burst::most) return false;
  vhost::Chain chain(intake.room);
  const vhost::Pop popped = ring.pop(chain);
  if (popped == vhost::Pop::broken) broke();
  // no_room: there is enough for the longest chain, once the chains before it have gone.
  if (popped != vhost::Pop::ready) return false;
  heads_[chains_++] = chain.head;
  const auto pieces = chain.readable();
  intake.room = intake.room.subspan(pieces.size() + chain.writable().size());
  if (accept(pieces, intake)) return true;
  ring.unpop(heads_[--chains_]);
  return false;
}

/// Makes a frame of a piece that holds one that asks for nothing, as most do. False: it does not.
bool FromGuest::read_plain(iovec& piece, Frame& frame) const {
  // Too large a number, too, where the piece is shorter than what is taken from it.
  const std::size_t length = piece.iov_len - setup_.header_bytes;
  if (length - ethernet_bytes > longest_plain_frame - ethernet_bytes) return false;
  auto* const header = static_cast<std::byte*>(piece.iov_base);
  if (asks(header)) return false;
  frame.start(std::min(length, Frame::usual_head), static_cast<std::uint32_t>(length));
  fill(frame, header + setup_.header_bytes, piece);
  return true;
}

/// A chain's bytes become the next frame, or are dropped. False: they wait for the next burst.
bool FromGuest::accept(std::span<iovec> pieces, Intake& intake) {
  Frame& frame = intake.burst.frames[intake.burst.count];
  if (const auto why = discard_ ? std::optional(Drop::disabled) : read(pieces, frame)) {
    stats_.traffic.drop(*why);
    return true;
  }
  if (!frame.plain()) {
    const std::uint32_t segments = intake.segments + segments_of(frame);
    if (segments > most_segments_of_burst) return false;
    intake.segments = segments;
  }
  intake.tally.add(frame.length());
  ++intake.burst.count;
  return true;
}

std::optional<Drop> FromGuest::read(std::span<iovec> pieces, Frame& frame) const {
  std::size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  if (bytes < setup_.header_bytes + ethernet_bytes) return Drop::too_short;
  if (bytes > setup_.header_bytes + longest_frame) return Drop::too_long;

  const VnetHeader header = take_header(pieces, setup_.header_bytes);
  const auto length = static_cast<std::uint32_t>(bytes - setup_.header_bytes);
  frame.start(head_bytes_for(header, length), length);
  fill(frame, pieces);
  return check(frame, header, setup_.allowed);
}

void FromGuest::release() {
  if (chains_ == 0) return;
  const auto notify = std::visit(
      [&](auto& ring) {
        for (const std::uint16_t head : std::span(heads_).first(chains_)) ring.push(head, 0, 0);
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
