#pragma once
#include <cstring>
#include <memory>
#include <utility>

#include "libvhost/frontend/queue.hpp"
#include "tests/integration/daemon.hpp"

/*
 * Front-ends of other parentage than QEMU, played as their sources of August 2026 have it: which
 * messages they send in which order, and for which of them they wait.
 *
 *   cloud-hypervisor  virtio-devices/src/vhost_user, on rust-vmm's vhost. Wants everything
 *                     acknowledged, and sets that flag on questions, too. Says the sizes of all
 *                     rings first, of each ring the addresses before the base, and the available
 *                     index for a base. Counts rings. Pauses by disabling them. Has a table of
 *                     memory and adds plugged memory to it.
 *   crosvm            devices/src/virtio/vhost_user_frontend. Accepts REPLY_ACK, and asks for no
 *                     acknowledgement. Each read of its guest in the configuration space is a
 *                     GET_CONFIG of its own. Enables a ring before it speaks of the next; those
 *                     without an interrupt share a descriptor for calls. Sends the table at each
 *                     activation, running or not.
 *   SPDK              lib/virtio/virtio_vhost_user.c, the initiator. Knows MQ and CONFIG alone,
 *                     and accepts features before protocol features. Reads 256 bytes of
 *                     configuration each time. Enables rings before it says anything of them, and
 *                     disables none. Sends the table once for each piece of memory, the last times
 *                     when the rings are stopped, and then asks something, to be sure.
 *
 * What a driver does with the rings is the caller's: queue(). A driver makes them anew for each
 * activation, after which what was taken from queue() before is no more.
 */
namespace integration {

class FrontEnd {
 public:
  [[nodiscard]] vhost::frontend::SharedMemory& memory() { return memory_; }
  [[nodiscard]] vhost::frontend::Connection& connection() { return connection_; }
  [[nodiscard]] std::uint64_t offered() const { return offered_; }
  [[nodiscard]] std::uint64_t protocol_features() const { return protocol_features_; }
  [[nodiscard]] std::uint32_t rings() const { return static_cast<std::uint32_t>(queues_.size()); }
  [[nodiscard]] vhost::frontend::Queue& queue(std::uint32_t ring) { return *queues_[ring]; }

 protected:
  FrontEnd(const std::string& socket, std::uint64_t known_protocol_features);

  /// Rings of a driver that accepted these features.
  void make_rings(std::uint32_t count, std::uint16_t size, std::uint64_t features);
  void accept_protocol_features(bool asking = true);
  /// A message without a reply of its own; its acknowledgement if that is wanted.
  void say(vhost::Request request, std::span<const std::byte> payload = {},
           std::span<const int> fds = {});
  template <vhost::Wire T>
  void say(vhost::Request request, const T& payload, std::span<const int> fds = {}) {
    say(request, vhost::bytes_of(payload), fds);
  }
  [[nodiscard]] vhost::Message ask(vhost::Request request, std::span<const std::byte> payload = {});
  [[nodiscard]] std::uint64_t ask_number(vhost::Request request);
  /// The bytes of GET_CONFIG; throws where they are not those that were asked for.
  [[nodiscard]] std::vector<std::byte> ask_config(std::uint32_t offset, std::uint32_t size,
                                                  std::uint32_t flags);
  [[nodiscard]] std::uint32_t ask_base(std::uint32_t ring);
  void say_ring(vhost::Request request, std::uint32_t ring, std::uint32_t value) {
    say(request, vhost::VringState{ring, value});
  }
  void say_fd(vhost::Request request, std::uint32_t ring, int fd) {
    say(request, std::uint64_t{ring}, std::span(&fd, 1));
  }
  void say_addresses(std::uint32_t ring) {
    say(vhost::Request::set_vring_addr, queues_[ring]->ring().addresses(ring));
  }
  void say_table();

  static constexpr std::size_t memory_bytes = 16 << 20;

  vhost::frontend::Connection connection_;
  vhost::frontend::SharedMemory memory_;
  const std::uint64_t known_protocol_features_;
  std::uint64_t offered_ = 0;
  std::uint64_t protocol_features_ = 0;
  std::uint32_t flags_ = 0;  // of each message
  std::vector<std::unique_ptr<vhost::frontend::Queue>> queues_;
};

class CloudHypervisor : public FrontEnd {
 public:
  /// `known` are the features of the device that it passes on.
  CloudHypervisor(const std::string& socket, std::uint32_t rings, std::uint64_t known);

  /// What the back-end has of what it knows, with what the transport needs.
  [[nodiscard]] std::uint64_t passed_on() const;
  [[nodiscard]] std::vector<std::byte> read_config(std::uint32_t bytes) {
    return ask_config(0, bytes, writable);
  }
  void write_config(std::uint32_t offset, std::span<const std::byte> bytes);
  /// A driver came, and accepted these.
  void activate(std::uint64_t accepted, std::uint16_t size = 64);
  void reset();
  void pause() { enable_all(false); }
  void resume() { enable_all(true); }
  /// The id of the memory that was added.
  [[nodiscard]] std::size_t plug(std::size_t bytes);
  /// To the next back-end, after the last is gone.
  void reconnect(const std::string& socket);

 private:
  static constexpr std::uint32_t writable = 1;  // the flag that rust-vmm calls so

  void set_up(bool by_used_index);
  void enable_all(bool on);
  void take_inflight();
  [[nodiscard]] std::uint16_t index_of(std::span<const std::byte> area) const;

  const std::uint32_t count_;
  const std::uint64_t known_;
  std::uint64_t accepted_ = 0;
  vhost::UniqueFd inflight_fd_;
  vhost::InflightDescription inflight_{};
};

class Crosvm : public FrontEnd {
 public:
  explicit Crosvm(const std::string& socket);

  /// All of the device's own features, whatever they are, and some of the transport's.
  [[nodiscard]] std::uint64_t passed_on() const;
  /// Each is one of its guest's device.
  [[nodiscard]] std::uint64_t rings_offered() const { return rings_offered_; }
  [[nodiscard]] std::vector<std::byte> read_config(std::uint32_t offset, std::uint32_t bytes) {
    return ask_config(offset, bytes, 1);
  }
  void activate(std::uint64_t accepted, std::uint32_t rings, std::uint16_t size = 64);
  /// The machine sleeps, and wakes where it was.
  void sleep();
  void wake() { set_up(); }
  void reset() { sleep(); }

 private:
  void set_up();

  std::uint64_t rings_offered_ = 0;
  std::uint64_t accepted_ = 0;
  std::vector<std::uint32_t> bases_;
};

class Spdk : public FrontEnd {
 public:
  Spdk(const std::string& socket, std::uint64_t wanted);

  /// One field: the rest of what came is not looked at.
  template <class T>
  [[nodiscard]] T read_config(std::size_t offset) {
    const auto whole = ask_config(0, vhost::max_config_bytes, 0);
    return vhost::read_once<T>(whole.data() + offset);
  }
  void start(std::uint32_t rings, std::uint16_t size = 64);
  void stop();

 private:
  void share_memory();

  std::uint64_t accepted_;
};

}  // namespace integration
