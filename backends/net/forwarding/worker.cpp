#include "backends/net/forwarding/worker.hpp"

#include <pthread.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <future>

#include "backends/net/eal/eal.hpp"
#include "common/cpu.hpp"

namespace net {
namespace {

using common::now_ns;

/// What an epoll entry without a source is: the mailbox.
constexpr Source* mail = nullptr;

vhost::Result<void> add_to(int epoll, int fd, Source* source) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = source;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return vhost::fail_errno(vhost::Fault::host, "a worker cannot wait for a descriptor");
}

}  // namespace

vhost::Result<std::unique_ptr<Worker>> Worker::start(WorkerSetup setup, Desk& desk,
                                                     Switch& fabric) {
  std::unique_ptr<Worker> worker(new Worker(std::move(setup), desk, fabric));
  std::promise<vhost::Result<void>> begun;
  auto outcome = begun.get_future();
  worker->thread_ = std::thread([&begun, it = worker.get()] {
    auto ready = it->prepare();
    const bool serves = ready.has_value();
    begun.set_value(std::move(ready));
    if (!serves) return;
    const EalThread registered;
    it->loop();
  });
  if (auto ready = outcome.get(); !ready) {
    worker->thread_.join();
    return std::unexpected(ready.error());
  }
  return worker;
}

Worker::~Worker() {
  if (!thread_.joinable()) return;
  // Whoever destroys workers has seen to it that all of them come round (post()).
  if (!post([this] { running_ = false; })) std::terminate();
  thread_.join();
}

vhost::Result<void> Worker::prepare() {
  common::name_this_thread("net-worker-" + std::to_string(setup_.number));
  if (!setup_.cpus.empty()) {
    if (auto pinned = common::pin_thread(::pthread_self(), setup_.cpus); !pinned) return pinned;
  }
  epoll_ = vhost::UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return vhost::fail_errno(vhost::Fault::host, "cannot create an epoll");
  return add_to(epoll_.get(), desk_.mailbox->wake_fd(), mail);
}

bool Worker::post(std::function<void()> task) {
  return desk_.mailbox->post(std::move(task), setup_.patience);
}

void Worker::add(Source& source) {
  burst_.room.resize(std::max(burst_.room.size(), source.room_needed()));
  sources_.push_back({&source, Source::look_again});
}

void Worker::remove(Source& source) {
  const auto found = std::ranges::find(sources_, &source, &Watched::source);
  if (found == sources_.end()) return;
  if (found->fd >= 0) (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->fd, nullptr);
  sources_.erase(found);
}

void Worker::serve_once(Source& source) {
  (void)serve(source);
  fabric_.flush(setup_.number);
}

bool Worker::alive() {
  const std::uint64_t turns = stats_.turns.value();
  const bool moved = turns != std::exchange(turns_seen_, turns);
  return moved || asleep_.load(std::memory_order_relaxed);
}

void Worker::loop() {
  now_ = now_ns();
  while (running_) {
    bool busy = turn();
    if (desk_.mailbox->full()) {
      desk_.mailbox->open();
      busy = true;
    }
    const std::uint64_t before = std::exchange(now_, now_ns());
    stats_.turns.add();
    (busy ? stats_.busy_ns : stats_.looking_ns).add(now_ - before);
    if (!busy) {
      idle();
      continue;
    }
    stats_.busy_turns.add();
    idle_since_ = 0;
  }
}

/// Takes and forwards one burst. False: there was nothing.
bool Worker::serve(Source& source) {
  burst_.count = 0;
  if (!source.take(burst_)) return false;
  if (burst_.count != 0) fabric_.forward(source, burst_.taken(), setup_.number);
  source.release();
  return true;
}

/// Each source once, without waiting. True if there was anything.
bool Worker::turn() {
  bool busy = false;
  for (const Watched& watched : sources_) busy |= serve(*watched.source);
  if (busy) fabric_.flush(setup_.number);
  return busy;
}

void Worker::idle() {
  if (idle_since_ == 0) idle_since_ = now_;
  if (setup_.polling == Polling::always || now_ - idle_since_ < spin_.ns()) {
    common::pause_briefly();
    return;
  }
  if (!arm()) sleep();
  for (const Watched& watched : sources_) watched.source->disarm();
}

/// Asks every source to wake us. True: there is something already.
bool Worker::arm() {
  bool work = false;
  for (Watched& watched : sources_) {
    work |= watched.source->arm();
    watch(watched);
  }
  return work;
}

/// Keeps the epoll to the descriptor that the source has now.
void Worker::watch(Watched& watched) {
  const int fd = watched.source->wake_fd();
  if (fd == watched.fd) return;
  if (watched.fd >= 0) (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched.fd, nullptr);
  const bool known = fd < 0 || add_to(epoll_.get(), fd, watched.source);
  watched.fd = known ? fd : Source::look_again;
}

/// Short after a frame, longer the longer nothing came.
std::chrono::nanoseconds Worker::next_pause() const {
  const std::chrono::nanoseconds silence(now_ - idle_since_);
  return std::clamp(silence / pauses_in_a_silence, shortest_pause, setup_.longest_pause);
}

void Worker::sleep() {
  // A source that nobody wakes us for is looked at after a while.
  const bool must_look = std::ranges::any_of(
      sources_, [](const Watched& watched) { return watched.fd == Source::look_again; });
  const timespec pause{0, static_cast<long>(next_pause().count())};
  std::array<epoll_event, 16> events;

  asleep_.store(true, std::memory_order_relaxed);
  const int ready = ::epoll_pwait2(epoll_.get(), events.data(), events.size(),
                                   must_look ? &pause : nullptr, nullptr);
  asleep_.store(false, std::memory_order_relaxed);

  const std::uint64_t slept = now_ns() - now_;
  now_ += slept;
  stats_.sleeps.add();
  stats_.sleeping_ns.add(slept);
  if (ready <= 0) {
    stats_.pauses.add();
    return;  // one look, and back to sleep: idle_since_ stays
  }
  stats_.wake_ups.add();
  spin_.slept(slept);
  idle_since_ = 0;
  for (const epoll_event& event : std::span(events).first(static_cast<std::size_t>(ready))) {
    if (event.data.ptr != mail) static_cast<Source*>(event.data.ptr)->woken();
  }
}

}  // namespace net
