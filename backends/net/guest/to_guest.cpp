#include "backends/net/guest/to_guest.hpp"

#include "backends/net/frame/flow.hpp"

namespace net {

ToGuest::ToGuest(std::string name, std::uint16_t queues, const Desks& desks)
    : name_(std::move(name)), desks_(desks), queues_(queues), is_running_(queues), order_(queues) {}

ToGuest::~ToGuest() = default;

void ToGuest::deliver(std::span<Frame* const> frames, unsigned) {
  const std::uint16_t running = running_.load(std::memory_order_acquire);
  if (running == 0) {
    link_down_.fetch_add(frames.size(), std::memory_order_relaxed);
    return;
  }
  const auto queue_at = [&](std::size_t place) -> ToGuestQueue& {
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
    ToGuestQueue& queue = *queues_[number];
    desk.mailbox->call(queue.take_call());
    if (queue.take_news_of_breaking()) {
      desk.mailbox->call(queue.error());
      common::log::limited(desk.broken_rings, common::log::Level::warning,
                           "port {}: the driver broke the rules of receive queue {}; it is stopped "
                           "until the driver resets the device",
                           name_, number);
    }
  }
}

void ToGuest::make_room(std::uint16_t queue) {
  if (!queues_[queue]) queues_[queue] = std::make_unique<ToGuestQueue>();
}

void ToGuest::start(std::uint16_t queue, vhost::StartedRing ring, const GuestForm& form) {
  queues_[queue]->start(std::move(ring), form);
  is_running_[queue] = true;
  list_running();
}

vhost::StartedRing ToGuest::stop(std::uint16_t queue) {
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
