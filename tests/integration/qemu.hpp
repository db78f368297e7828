#pragma once
#include <memory>

#include "libvhost/frontend/queue.hpp"
#include "tests/integration/daemon.hpp"

/*
 * A front-end that says what QEMU says, in QEMU's order: which messages wait for an answer, when
 * the status is told, what is told once for a connection and what at each start. As QEMU 7.2.22
 * was seen to do it, and as the source of QEMU 10.0 has it (hw/virtio/vhost.c, vhost-user.c,
 * hw/block/vhost-user-blk.c, hw/net/vhost_net.c). Where the two differ it is this:
 *
 *   stop     7.2 says status 0 before the rings give their bases, 10 after that
 *   reset    10 says RESET_DEVICE after a stop, 7.2 nothing
 *   enable   10 waits until it is acknowledged, 7.2 goes on
 *
 * The rings are the caller's to fill: queue().
 */
namespace integration {

enum class Version : std::uint8_t { qemu_7_2, qemu_10 };
enum class Kind : std::uint8_t { blk, net };

struct QemuOptions {
  Version version = Version::qemu_7_2;
  Kind kind = Kind::blk;
  std::uint32_t rings = 2;
  std::uint16_t size = 64;
  std::uint64_t features = 0;  ///< beside those of the transport
  bool packed = false;
};

class Qemu {
 public:
  /// Connects; the device is there, and no driver yet.
  Qemu(const std::string& socket, const QemuOptions& options);

  /// The driver is ready, or the machine goes on: the rings go on where they were.
  void start();
  /// The driver resets the device, or the machine pauses.
  void stop();
  /// What comes after a stop that was a reset: the driver forgets its rings.
  void reset();

  [[nodiscard]] vhost::frontend::Queue& queue(std::uint32_t ring) { return *queues_[ring]; }
  [[nodiscard]] std::uint32_t base(std::uint32_t ring) const { return bases_[ring]; }
  [[nodiscard]] std::uint64_t status();
  [[nodiscard]] vhost::frontend::SharedMemory& memory() { return memory_; }
  [[nodiscard]] vhost::frontend::Connection& connection() { return connection_; }
  [[nodiscard]] std::uint64_t features() const { return features_; }

  /// Without an answer.
  template <class T>
  void say(vhost::Request request, const T& payload, std::span<const int> fds = {}) {
    connection_.acknowledge(false);
    must(connection_.tell(request, payload, fds));
  }
  /// With an answer that says yes.
  template <class T>
  void say_and_wait(vhost::Request request, const T& payload, std::span<const int> fds = {}) {
    connection_.acknowledge(true);
    must(connection_.tell(request, payload, fds));
    connection_.acknowledge(false);
  }

 private:
  void say_fd(vhost::Request request, std::uint32_t ring, int fd) {
    say(request, std::uint64_t{ring}, std::span(&fd, 1));
  }
  void accept_features();
  void add_status(std::uint8_t bits);
  void take_inflight();
  void share_memory();
  void start_ring(std::uint32_t ring);
  void enable(std::uint32_t ring, bool on);
  void stop_ring(std::uint32_t ring);

  QemuOptions options_;
  vhost::frontend::Connection connection_;
  vhost::frontend::SharedMemory memory_;
  std::uint64_t features_ = 0;
  std::vector<std::unique_ptr<vhost::frontend::Queue>> queues_;
  std::vector<std::uint32_t> bases_;
  vhost::UniqueFd inflight_fd_;
  vhost::InflightDescription inflight_{};
  bool shared_ = false;
};

}  // namespace integration
