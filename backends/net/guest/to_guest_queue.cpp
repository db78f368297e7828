#include "backends/net/guest/to_guest_queue.hpp"

#include <algorithm>
#include <mutex>

#include "backends/net/forwarding/source.hpp"
#include "backends/net/frame/fetch.hpp"
#include "backends/net/frame/header_bytes.hpp"
#include "backends/net/frame/segment.hpp"

namespace net {

using vhost::Pop;

namespace {

/// Of a buffer; the CPU goes on by itself when it sees where we go.
constexpr std::size_t most_fetched = 4 * vhost::cache_line;

}  // namespace

GuestForm GuestForm::of(std::uint64_t features, std::uint16_t mtu) {
  const auto has = [&](std::uint64_t mask) { return (features & mask) != 0; };
  GuestForm form;
  form.header_bytes = header_bytes_of(features);
  form.mergeable = has(feature::mergeable_buffers);
  form.longest_plain = mtu + std::uint32_t{ethernet_bytes} + vlan_tag_bytes;
  if (!has(feature::guest_csum)) return form;  // the others build on it (5.1.3.1)
  form.accepts.checksum = true;
  form.accepts.tso4 = has(feature::guest_tso4);
  form.accepts.tso6 = has(feature::guest_tso6);
  form.accepts.ecn = has(feature::guest_ecn);
  form.accepts.ufo = has(feature::guest_ufo);
  return form;
}

std::size_t GuestForm::header_bytes_of(std::uint64_t features) {
  const bool with_count = (features & feature::mergeable_buffers) != 0 ||
                          vhost::has(features, vhost::feature::version_1);
  return with_count ? net::header_bytes : legacy_header_bytes;
}

void ToGuestQueue::start(vhost::StartedRing started, const GuestForm& form) {
  // Room for the longest chain, and for a frame of 64 KiB in buffers of 1.5 KiB that have a few
  // pieces each. Made before the lock is taken.
  std::size_t longest = 0;
  std::size_t size = 0;
  std::visit(
      [&](auto& ring) {
        ring.disarm_kick();  // that there are buffers is no reason to wake us
        longest = ring.longest_chain();
        size = ring.size();
      },
      started.ring);
  std::vector<iovec> room(longest + 1024);
  std::vector<Popped> popped;
  popped.reserve(size);

  const std::lock_guard hold(lock_);
  room_ = std::move(room);
  popped_ = std::move(popped);
  ring_.emplace(std::move(started.ring));
  call_ = std::move(started.call);
  error_ = std::move(started.error);
  form_ = form;
  broken_ = false;
  call_due_ = true;  // a predecessor may have died between its last frame and the call for it
}

vhost::StartedRing ToGuestQueue::stop() {
  const std::lock_guard hold(lock_);
  vhost::StartedRing stopped{std::move(*ring_), nullptr, std::move(call_), std::move(error_)};
  ring_.reset();
  return stopped;
}

std::shared_ptr<const vhost::EventFd> ToGuestQueue::set_call(
    std::shared_ptr<const vhost::EventFd> call) {
  const std::lock_guard hold(lock_);
  call_due_ = true;  // one on the old descriptor may have been lost
  return std::exchange(call_, std::move(call));
}

void ToGuestQueue::move_to(const std::shared_ptr<const vhost::MemoryMap>& memory) {
  const std::lock_guard hold(lock_);
  if (!ring_) return;
  if (!std::visit([&](auto& ring) { return ring.move_to(memory); }, *ring_)) broke();
}

void ToGuestQueue::set_longest_plain(std::uint32_t bytes) {
  const std::lock_guard hold(lock_);
  form_.longest_plain = bytes;
}

void ToGuestQueue::deliver(std::span<Frame* const> frames) {
  const std::lock_guard hold(lock_);
  if (!ring_) {
    stats.traffic.drop(Drop::link_down, frames.size());
    return;
  }
  std::visit(
      [&](auto& ring) {
        pop_ahead(ring, frames);
        for (Frame* const frame : frames) {
          if (!put_plain(ring, *frame)) deliver_one(ring, *frame);
        }
        give_back(ring);
        if (ring.publish() == vhost::Notify::yes) {
          call_due_.store(true, std::memory_order_relaxed);
        } else if (!tally_.empty()) {
          stats.calls_suppressed.add();
        }
      },
      *ring_);
  tally_.flush(stats.traffic);
}

/// As nearly always: the frame asks for nothing, and a chain waits that holds it in one piece.
/// False: not so, and nothing is done.
template <vhost::Ring R>
bool ToGuestQueue::put_plain(R& ring, const Frame& frame) {
  const std::size_t bytes = form_.header_bytes + frame.length();
  if (!frame.plain() || frame.length() > form_.longest_plain || next_ == popped_.size() ||
      !popped_[next_].holds(bytes)) {
    return false;
  }
  const Popped& chain = popped_[next_++];
  auto* const to = static_cast<std::byte*>(chain.pieces.front().iov_base);
  HeaderBytes(VnetHeader{}, 1).put(to);
  copy_frame(frame, to + form_.header_bytes);
  const auto written = static_cast<std::uint32_t>(bytes);
  ring.push(chain.head, written, written);
  tally_.add(frame.length());
  return true;
}

template <vhost::Ring R>
void ToGuestQueue::deliver_one(R& ring, Frame& frame) {
  switch (missing(frame, form_.accepts)) {
    case Missing::checksum:
      complete_checksum(frame);
      stats.traffic.summed.add();
      [[fallthrough]];
    case Missing::nothing: put(ring, frame); return;
    case Missing::segmentation: break;
  }
  Segmenter segments(frame, form_.accepts);
  stats.traffic.segmented.add();
  Frame part;
  while (segments.next(part)) put(ring, part);
}

template <vhost::Ring R>
void ToGuestQueue::put(R& ring, const Frame& frame) {
  if (frame.offload.gso_type == gso::none && frame.length() > form_.longest_plain) {
    stats.traffic.drop(Drop::too_big);
    return;
  }
  const std::size_t bytes = form_.header_bytes + frame.length();
  if (const auto why = gather(ring, bytes)) {
    stats.traffic.drop(*why);
    return;
  }
  write(frame);
  std::size_t left = bytes;
  for (const Popped& chain : std::span(popped_).subspan(next_, taken_)) {
    const auto here = static_cast<std::uint32_t>(std::min(chain.bytes, left));
    ring.push(chain.head, here, here);
    left -= here;
  }
  next_ += taken_;
  tally_.add(frame.length());
}

/// Pops a chain for each frame that is about to come, as long as they are single buffers, so that
/// the cache misses on them overlap. What is not used is given back at the end of the burst.
template <vhost::Ring R>
void ToGuestQueue::pop_ahead(R& ring, std::span<Frame* const> frames) {
  std::array<vhost::Single, Burst::most> singles;
  ring.look_ahead(static_cast<std::uint16_t>(frames.size()));
  const std::size_t most = std::min(frames.size(), singles.size());
  const std::size_t count = ring.pop_singles(std::span(singles).first(most));
  for (std::size_t i = 0; i < count; ++i) {
    const vhost::Single& single = singles[i];
    iovec& piece = room_[pieces_];
    piece = {single.begin, single.bytes};
    popped_.push_back({single.head, single.writable ? single.bytes : 0,
                       std::span(&piece, single.writable ? 1 : 0)});
    pieces_ += popped_.back().pieces.size();
    const std::size_t bytes = form_.header_bytes + frames[i]->length();
    fetch_to_write(piece, std::min(bytes, most_fetched));
  }
}

/// Pops one more chain, behind those that were.
template <vhost::Ring R>
Pop ToGuestQueue::pop(R& ring) {
  vhost::Chain chain{std::span(room_).subspan(pieces_)};
  const Pop answer = ring.pop(chain);
  if (answer == Pop::broken) broke();
  if (answer != Pop::ready) return answer;
  // What we may only read is of no use, and goes: a frame's pieces lie behind each other.
  const std::span<iovec> pieces(room_.data() + pieces_, chain.writable().size());
  if (!chain.readable().empty()) std::ranges::copy(chain.writable(), pieces.begin());
  pieces_ += pieces.size();
  std::size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  popped_.push_back({chain.head, bytes, pieces});
  return answer;
}

/// Takes as many chains as hold `bytes`. A reason: they do not, and none is used up, but for a
/// buffer that is of no use to anybody.
template <vhost::Ring R>
std::optional<Drop> ToGuestQueue::gather(R& ring, std::size_t bytes) {
  taken_ = 0;
  std::size_t have = 0;
  while (have < bytes) {
    if (next_ + taken_ == popped_.size()) {
      const Pop answer = pop(ring);
      if (answer == Pop::no_room && next_ != 0) {  // chains that are done with are in the way
        give_back(ring);
        return gather(ring, bytes);
      }
      if (answer != Pop::ready) {
        return answer == Pop::no_room ? Drop::bad_buffers : Drop::no_buffers;
      }
    }
    const Popped& chain = popped_[next_ + taken_];
    if (taken_ == 0 && chain.bytes < form_.header_bytes) {
      ring.push(chain.head, 0, 0);
      ++next_;
      return Drop::bad_buffers;
    }
    have += chain.bytes;
    ++taken_;
    if (!form_.mergeable && have < bytes) return Drop::too_big;
  }
  return std::nullopt;
}

/// Chains that no frame was put into are the ring's again; there is room for others.
template <vhost::Ring R>
void ToGuestQueue::give_back(R& ring) {
  for (std::size_t i = popped_.size(); i > next_; --i) ring.unpop(popped_[i - 1].head);
  popped_.clear();
  next_ = 0;
  pieces_ = 0;
}

void ToGuestQueue::write(const Frame& frame) {
  // 1 without MRG_RXBUF (5.1.6.4.1).
  const HeaderBytes header(header_for(frame, form_.accepts), static_cast<std::uint16_t>(taken_));
  const Popped& last = popped_[next_ + taken_ - 1];
  std::span<iovec> to(popped_[next_].pieces.data(), last.pieces.data() + last.pieces.size());
  header.put(to, form_.header_bytes);
  copy_frame(frame, to);
}

const vhost::EventFd* ToGuestQueue::take_call() {
  if (!call_due_.load(std::memory_order_relaxed)) return nullptr;
  const std::lock_guard hold(lock_);
  if (!call_due_.exchange(false) || !ring_ || !call_) return nullptr;
  stats.calls.add();
  return call_.get();
}

const vhost::EventFd* ToGuestQueue::error() {
  const std::lock_guard hold(lock_);
  return error_.get();
}

void ToGuestQueue::broke() {
  if (std::exchange(broken_, true)) return;
  stats.broken.add();
  just_broke_ = true;
}

}  // namespace net
