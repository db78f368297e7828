#include "backends/net/to_guest.hpp"

#include <algorithm>
#include <mutex>

#include "backends/net/fetch.hpp"
#include "backends/net/flow.hpp"
#include "backends/net/header_bytes.hpp"
#include "backends/net/segment.hpp"

namespace net {

using vhost::Pop;

namespace {

/// Of a buffer; the CPU goes on by itself when it sees where we go.
constexpr std::size_t most_fetched = 4 * cache_line;

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

// --- one queue ----------------------------------------------------------------------------------

/// A receive queue that runs or ran. All but `stats`, `call_due` and `just_broke` is under the
/// lock.
class ToGuest::Queue {
 public:
  void start(vhost::StartedRing ring, const GuestForm& form);
  [[nodiscard]] vhost::AnyRing stop();
  std::shared_ptr<const vhost::EventFd> set_call(std::shared_ptr<const vhost::EventFd> call);
  void move_to(const std::shared_ptr<const vhost::MemoryMap>& memory);
  void set_longest_plain(std::uint32_t bytes);

  void deliver(std::span<Frame* const> frames);
  /// What to call now; null: nothing.
  [[nodiscard]] const vhost::EventFd* take_call();
  /// The driver broke the rules, and this was not asked before.
  [[nodiscard]] bool take_news_of_breaking() {
    return just_broke_.load(std::memory_order_relaxed) && just_broke_.exchange(false);
  }

  QueueStats stats;

 private:
  /// A chain of the ring that no frame has been put into yet.
  struct Popped {
    std::uint16_t head;
    std::size_t bytes;
    std::span<iovec> pieces;
  };

  template <vhost::Ring R>
  void deliver_one(R& ring, Frame& frame);
  template <vhost::Ring R>
  void put(R& ring, const Frame& frame);
  template <vhost::Ring R>
  void pop_ahead(R& ring, std::span<Frame* const> frames);
  template <vhost::Ring R>
  [[nodiscard]] Pop pop(R& ring);
  template <vhost::Ring R>
  [[nodiscard]] std::optional<Drop> gather(R& ring, std::size_t bytes);
  template <vhost::Ring R>
  void give_back(R& ring);
  void write(const Frame& frame);
  void broke();

  common::SpinLock lock_;
  std::optional<vhost::AnyRing> ring_;
  std::shared_ptr<const vhost::EventFd> call_;
  std::shared_ptr<const vhost::EventFd> error_;
  GuestForm form_;
  bool broken_ = false;
  Tally tally_;

  // Chains that were popped in this burst, and room for their pieces. Those before `next_` have
  // been given back to the driver with a frame; the frame at hand goes into the `taken_` behind.
  std::vector<Popped> popped_;
  std::size_t next_ = 0;
  std::size_t taken_ = 0;
  std::vector<iovec> room_;
  std::size_t pieces_ = 0;

  std::atomic<bool> call_due_ = false;
  std::atomic<bool> just_broke_ = false;
};

void ToGuest::Queue::start(vhost::StartedRing started, const GuestForm& form) {
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

vhost::AnyRing ToGuest::Queue::stop() {
  const std::lock_guard hold(lock_);
  vhost::AnyRing ring = std::move(*ring_);
  ring_.reset();
  return ring;
}

std::shared_ptr<const vhost::EventFd> ToGuest::Queue::set_call(
    std::shared_ptr<const vhost::EventFd> call) {
  const std::lock_guard hold(lock_);
  call_due_ = true;  // one on the old descriptor may have been lost
  return std::exchange(call_, std::move(call));
}

void ToGuest::Queue::move_to(const std::shared_ptr<const vhost::MemoryMap>& memory) {
  const std::lock_guard hold(lock_);
  if (!ring_) return;
  if (!std::visit([&](auto& ring) { return ring.move_to(memory); }, *ring_)) broke();
}

void ToGuest::Queue::set_longest_plain(std::uint32_t bytes) {
  const std::lock_guard hold(lock_);
  form_.longest_plain = bytes;
}

void ToGuest::Queue::deliver(std::span<Frame* const> frames) {
  const std::lock_guard hold(lock_);
  if (!ring_) {
    stats.traffic.drop(Drop::link_down, frames.size());
    return;
  }
  std::visit(
      [&](auto& ring) {
        pop_ahead(ring, frames);
        for (Frame* const frame : frames) deliver_one(ring, *frame);
        give_back(ring);
        if (ring.publish() == vhost::Notify::yes) {
          call_due_.store(true, std::memory_order_relaxed);
        } else {
          stats.calls_suppressed.add();
        }
      },
      *ring_);
  tally_.flush(stats.traffic);
}

template <vhost::Ring R>
void ToGuest::Queue::deliver_one(R& ring, Frame& frame) {
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
void ToGuest::Queue::put(R& ring, const Frame& frame) {
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
    const std::size_t here = std::min(chain.bytes, left);
    ring.push(chain.head, static_cast<std::uint32_t>(here));
    left -= here;
  }
  next_ += taken_;
  tally_.add(frame.length());
}

/// Pops a chain for each frame that is about to come, so that the cache misses on their descriptors
/// and buffers overlap. What is not used is given back at the end of the burst.
template <vhost::Ring R>
void ToGuest::Queue::pop_ahead(R& ring, std::span<Frame* const> frames) {
  ring.look_ahead(static_cast<std::uint16_t>(frames.size()));
  for (const Frame* const frame : frames) {
    if (pop(ring) != Pop::ready) return;
    const auto pieces = popped_.back().pieces;
    const std::size_t bytes = form_.header_bytes + frame->length();
    if (!pieces.empty()) fetch_to_write(pieces.front(), std::min(bytes, most_fetched));
  }
}

/// Pops one more chain, behind those that were.
template <vhost::Ring R>
Pop ToGuest::Queue::pop(R& ring) {
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
std::optional<Drop> ToGuest::Queue::gather(R& ring, std::size_t bytes) {
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
      ring.push(chain.head, 0);
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
void ToGuest::Queue::give_back(R& ring) {
  for (std::size_t i = popped_.size(); i > next_; --i) ring.unpop(popped_[i - 1].head);
  popped_.clear();
  next_ = 0;
  pieces_ = 0;
}

void ToGuest::Queue::write(const Frame& frame) {
  // 1 without MRG_RXBUF (5.1.6.4.1).
  const HeaderBytes header(header_for(frame, form_.accepts), static_cast<std::uint16_t>(taken_));
  const Popped& last = popped_[next_ + taken_ - 1];
  std::span<iovec> to(popped_[next_].pieces.data(), last.pieces.data() + last.pieces.size());
  header.put(to, form_.header_bytes);
  copy_frame(frame, to);
}

const vhost::EventFd* ToGuest::Queue::take_call() {
  if (!call_due_.load(std::memory_order_relaxed)) return nullptr;
  const std::lock_guard hold(lock_);
  if (!call_due_.exchange(false) || !ring_ || !call_) return nullptr;
  stats.calls.add();
  return call_.get();
}

void ToGuest::Queue::broke() {
  if (std::exchange(broken_, true)) return;
  stats.broken.add();
  just_broke_ = true;
  if (error_) error_->signal_with_care();
}

// --- all queues of a guest ----------------------------------------------------------------------

ToGuest::ToGuest(std::string name, std::uint16_t queues, const Desks& desks)
    : name_(std::move(name)), desks_(desks), queues_(queues), is_running_(queues), order_(queues) {}

ToGuest::~ToGuest() = default;

void ToGuest::deliver(std::span<Frame* const> frames, unsigned) {
  const std::uint16_t running = running_.load(std::memory_order_acquire);
  if (running == 0) {
    link_down_.fetch_add(frames.size(), std::memory_order_relaxed);
    return;
  }
  const auto queue_at = [&](std::size_t place) -> Queue& {
    return *queues_[order_[place].load(std::memory_order_relaxed)];
  };
  if (running == 1) {
    queue_at(0).deliver(frames);
    return;
  }
  // Runs of frames for one queue go together; a burst is mostly one flow.
  std::size_t begin = 0;
  std::size_t place = flow_hash(*frames[0]) % running;
  for (std::size_t i = 1; i < frames.size(); ++i) {
    const std::size_t next = flow_hash(*frames[i]) % running;
    if (next == place) continue;
    queue_at(place).deliver(frames.subspan(begin, i - begin));
    begin = i;
    place = next;
  }
  queue_at(place).deliver(frames.subspan(begin));
}

void ToGuest::flush(unsigned worker) {
  Desk& desk = *desks_[worker];
  const std::uint16_t running = running_.load(std::memory_order_acquire);
  for (std::uint16_t i = 0; i < running; ++i) {
    const std::uint16_t number = order_[i].load(std::memory_order_relaxed);
    Queue& queue = *queues_[number];
    desk.mailbox->call(queue.take_call());
    if (queue.take_news_of_breaking()) {
      common::log::limited(desk.broken_rings, common::log::Level::warning,
                           "port {}: the driver broke the rules of receive queue {}; it is stopped "
                           "until the driver resets the device",
                           name_, number);
    }
  }
}

void ToGuest::make_room(std::uint16_t queue) {
  if (!queues_[queue]) queues_[queue] = std::make_unique<Queue>();
}

void ToGuest::start(std::uint16_t queue, vhost::StartedRing ring, const GuestForm& form) {
  queues_[queue]->start(std::move(ring), form);
  is_running_[queue] = true;
  list_running();
}

vhost::AnyRing ToGuest::stop(std::uint16_t queue) {
  is_running_[queue] = false;
  list_running();
  return queues_[queue]->stop();
}

/// Which queues run, for deliver().
void ToGuest::list_running() {
  std::uint16_t running = 0;
  for (std::uint16_t queue = 0; queue < queues_.size(); ++queue) {
    if (is_running_[queue]) order_[running++].store(queue, std::memory_order_relaxed);
  }
  running_.store(running, std::memory_order_release);
}

std::shared_ptr<const vhost::EventFd> ToGuest::set_call(
    std::uint16_t queue, std::shared_ptr<const vhost::EventFd> call) {
  return queues_[queue]->set_call(std::move(call));
}

void ToGuest::move_to(const std::shared_ptr<const vhost::MemoryMap>& memory) {
  for (const auto& queue : queues_) {
    if (queue) queue->move_to(memory);
  }
}

void ToGuest::set_longest_plain(std::uint32_t bytes) {
  for (const auto& queue : queues_) {
    if (queue) queue->set_longest_plain(bytes);
  }
}

const QueueStats* ToGuest::stats(std::uint16_t queue) const {
  return queues_[queue] ? &queues_[queue]->stats : nullptr;
}

}  // namespace net
