/*
 * A virtio entropy device (VIRTIO 5.4) over vhost-user: all that a device of your own needs.
 *
 *   entropy SOCKET
 *
 * and for QEMU -chardev socket,id=rng,path=SOCKET -device vhost-user-rng-pci,chardev=rng
 *
 * libvhost does the protocol, the memory and the rings. The device says what it is, takes rings
 * over and gives them back. This one serves its ring on the control thread: there is nothing to
 * wait for, so no request is ever in flight between two callbacks, and a ring can be stopped or
 * moved to other memory at any time. A device that waits for storage has threads of its own
 * (docs/libvhost.md, "Threads").
 *
 * The front-end and its guest are not trusted. What the driver offers is checked by the ring; a
 * ring that breaks the rules is left alone until it is started anew.
 */
#include <sys/random.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <vector>

#include "libvhost/session/server.hpp"

namespace {

/// Bytes for one chain at most, so that a huge one cannot keep the thread.
constexpr std::size_t most_bytes = 64 << 10;
/// Chains in a row, before messages of the front-end get their turn.
constexpr unsigned most_chains = 64;

/// The queue while it runs.
class Queue {
 public:
  explicit Queue(vhost::StartedRing started)
      : started_(std::move(started)),
        pieces_(std::visit([](auto& ring) { return ring.longest_chain(); }, started_.ring)) {}

  [[nodiscard]] const vhost::EventFd* kick() const { return started_.kick.get(); }
  [[nodiscard]] vhost::AnyRing give_up_ring() { return std::move(started_.ring); }

  void call() const {
    if (started_.call) started_.call->signal_with_care();
  }
  void set_call(std::shared_ptr<const vhost::EventFd> descriptor) {
    started_.call = std::move(descriptor);
    call();
  }
  void move_to(const std::shared_ptr<const vhost::MemoryMap>& memory) {
    if (!std::visit([&](auto& ring) { return ring.move_to(memory); }, started_.ring)) broke();
  }

  /// Answers what is there. True: there is more, come again.
  bool serve() {
    return std::visit([this](auto& ring) { return serve(ring); }, started_.ring);
  }

 private:
  template <vhost::Ring R>
  bool serve(R& ring) {
    vhost::Chain chain(pieces_);
    vhost::Pop popped = vhost::Pop::ready;
    for (unsigned i = 0; i < most_chains; ++i) {
      popped = ring.pop(chain);
      if (popped != vhost::Pop::ready) break;
      ring.push(chain.head, fill(chain.writable()));
    }
    if (ring.publish() == vhost::Notify::yes) call();
    if (popped == vhost::Pop::ready) return true;
    if (popped != vhost::Pop::empty) {
      broke();
      return false;
    }
    return ring.arm_kick();
  }

  /// Random bytes, straight into the guest's buffers. How many.
  static std::uint32_t fill(std::span<const iovec> pieces) {
    std::size_t total = 0;
    for (const iovec& piece : pieces) {
      const std::size_t wanted = std::min(piece.iov_len, most_bytes - total);
      const ssize_t got = ::getrandom(piece.iov_base, wanted, 0);
      if (got > 0) total += static_cast<std::size_t>(got);
      if (got != static_cast<ssize_t>(wanted) || total == most_bytes) break;
    }
    return static_cast<std::uint32_t>(total);
  }

  void broke() const {
    if (started_.error) started_.error->signal_with_care();
  }

  vhost::StartedRing started_;
  std::vector<iovec> pieces_;
};

class Entropy final : public vhost::Device {
 public:
  explicit Entropy(vhost::EventLoop& loop) : loop_(loop) {}

  std::uint64_t features() const override { return 0; }  // VIRTIO 5.4.3: none
  std::uint16_t max_queues() const override { return 1; }
  void set_features(std::uint64_t) override {}

  void read_config(std::uint32_t, std::span<std::byte> out) override {
    std::ranges::fill(out, std::byte{0});  // VIRTIO 5.4.4: none
  }
  vhost::Result<void> write_config(std::uint32_t, std::span<const std::byte>) override {
    return vhost::fail(vhost::Fault::front_end, "the device has no configuration to write");
  }

  void start_ring(std::uint16_t, vhost::StartedRing ring) override {
    queue_.emplace(std::move(ring));
    queue_->call();
    if (queue_->kick() == nullptr) {  // a driver that never kicks: look now and then
      if (auto timer =
              loop_.every(std::chrono::milliseconds(1), [this] { (void)queue_->serve(); })) {
        timer_ = std::move(*timer);
      }
      return;
    }
    (void)loop_.watch(queue_->kick()->get(), [this] {
      queue_->kick()->drain();
      serve();
    });
    serve();
  }

  vhost::Result<vhost::AnyRing> stop_ring(std::uint16_t) override {
    if (queue_->kick() != nullptr) loop_.forget(queue_->kick()->get());
    loop_.forget(timer_.get());
    timer_ = {};
    auto ring = queue_->give_up_ring();
    queue_.reset();
    return ring;
  }

  void set_call(std::uint16_t, std::shared_ptr<const vhost::EventFd> call) override {
    queue_->set_call(std::move(call));
  }

  void move_to(std::shared_ptr<const vhost::MemoryMap> memory, vhost::Drain) override {
    if (queue_) queue_->move_to(memory);  // nothing is in flight: there is nothing to drain
  }

 private:
  /// With more to do we kick ourselves: others get their turn on the loop first.
  void serve() {
    if (queue_->serve()) queue_->kick()->signal_with_care();
  }

  vhost::EventLoop& loop_;
  std::optional<Queue> queue_;
  vhost::UniqueFd timer_;
};

void log_line(vhost::LogLevel, std::string_view line) {
  std::fprintf(stderr, "entropy: %.*s\n", static_cast<int>(line.size()), line.data());
}

vhost::Result<void> run(const char* socket) {
  auto loop = vhost::EventLoop::create();
  if (!loop) return std::unexpected(loop.error());
  Entropy device(*loop);
  auto endpoint = vhost::Endpoint::listen(socket);
  if (!endpoint) return std::unexpected(endpoint.error());
  auto server = vhost::Server::start(*loop, device, std::move(*endpoint), log_line);
  if (!server) return std::unexpected(server.error());
  return loop->run();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: entropy SOCKET\n", stderr);
    return 2;
  }
  const auto ended = run(argv[1]);
  if (ended) return 0;
  log_line(vhost::LogLevel::error, ended.error().what);
  return 1;
}
