#include "backends/blk/queue.hpp"

#include "backends/blk/config_space.hpp"

namespace blk {
namespace {

constexpr std::size_t long_chains = 8;

// The longest request that is offered may lie in any pages.
static_assert(std::size_t{advertised_seg_max} * advertised_size_max <= vhost::most_scattered_bytes);

std::uint16_t size_of(const vhost::AnyRing& ring) {
  return std::visit([](const auto& r) { return r.size(); }, ring);
}

}  // namespace

Queue::Queue(std::uint16_t index, vhost::StartedRing ring, const Disk& disk, QueueStats& stats)
    : index_(index),
      ring_(std::move(ring.ring)),
      kick_(std::move(ring.kick)),
      call_(std::move(ring.call)),
      error_(std::move(ring.error)),
      disk_(disk),
      stats_(stats),
      slots_(size_of(ring_)),
      open_(!ring.owed_only) {
  finished_.reserve(size_of(ring_));
  for (std::size_t i = 0; i < long_chains; ++i) {
    free_long_pieces_.push_back(
        long_pieces_.emplace_back(std::make_unique<std::vector<iovec>>()).get());
  }
  disarm_kick();
}

void Queue::release(Slot& slot) {
  if (slot.long_pieces != nullptr) {
    free_long_pieces_.push_back(std::exchange(slot.long_pieces, nullptr));
    slot.chain = vhost::Chain(slot.pieces);
  }
  slots_.release(slot);
}

void Queue::broke() {
  if (!open_) return;
  open_ = false;
  just_broke_ = true;
  stats_.broken.add();
  if (error_) error_->signal_with_care();
}

void Queue::finish(Slot& slot, Status status, std::uint64_t now_ns) {
  const Request& request = slot.request;
  if (request.status != nullptr) *request.status = static_cast<std::byte>(status);
  finished_.push_back({slot.chain.head, used_length(request, status)});
  --in_flight_;

  QueueStats::PerOp& op = stats_.of(request.op);
  op.requests.add();
  op.latency.record(now_ns - slot.started_ns);
  if (status == Status::ok) {
    op.bytes.add(request.total_bytes());
  } else if (status == Status::unsupported) {
    op.unsupported.add();
  } else if (request.status != nullptr) {
    op.io_errors.add();
  } else {
    stats_.unanswerable.add();
  }
  if (const auto parts = std::exchange(slot.progress.bounced, 0); parts != 0) {
    stats_.bounced.add(parts);
  }
  release(slot);
}

const vhost::EventFd* Queue::publish() {
  if (finished_.empty()) return nullptr;
  const vhost::Notify notify = std::visit(
      [this](auto& ring) {
        for (const Finished& done : finished_) ring.push(done.head, done.written_bytes);
        return ring.publish();
      },
      ring_);
  finished_.clear();
  stats_.in_flight.store(in_flight_, std::memory_order_relaxed);
  if (notify == vhost::Notify::no || !call_) {
    stats_.calls_suppressed.add();
    return nullptr;
  }
  stats_.calls.add();
  return call_.get();
}

bool Queue::arm_kick() {
  if (short_of_room_) return false;  // a completion will wake us, and a kick could only annoy
  if (!open_) {
    return !suspended_ && std::visit([](const auto& ring) { return ring.owes(); }, ring_);
  }
  return std::visit([](auto& ring) { return ring.arm_kick(); }, ring_);
}

void Queue::disarm_kick() {
  std::visit([](auto& ring) { ring.disarm_kick(); }, ring_);
}

std::vector<Slot*> Queue::suspend() {
  open_ = false;
  suspended_ = true;
  return slots_.in_use();
}

void Queue::leave() {
  std::visit([](auto& ring) { ring.leave(); }, ring_);
  stats_.left.add(std::exchange(in_flight_, 0));
  stats_.in_flight.store(0, std::memory_order_relaxed);
}

bool Queue::drained() const {
  return in_flight_ == 0 && !std::visit([](const auto& ring) { return ring.owes(); }, ring_);
}

void Queue::move_to(const std::shared_ptr<const vhost::MemoryMap>& memory) {
  if (!std::visit([&](auto& ring) { return ring.move_to(memory); }, ring_)) broke();
}

}  // namespace blk
