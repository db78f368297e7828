#pragma once
#include <memory>
#include <string>

#include "libvhost/frontend/blk_queue.hpp"
#include "libvhost/frontend/device.hpp"

/*
 * A virtio block driver without a VM: any program that wants the disk behind a vhost-user socket.
 *
 *   SharedMemory memory;
 *   memory.add_region(64 << 20);
 *   auto disk = BlkDriver::attach(*Connection::connect(path), memory, {});
 *   (*disk)->read(0, bytes);
 *
 * Asynchronously: queue(i).submit() requests whose data lies in `memory`, queue(i).kick(), and
 * queue(i).poll() until they are back. The synchronous helpers below copy through a buffer of their
 * own, use queue 0, and must not be mixed with asynchronous requests on it.
 *
 * Thread: as Device says.
 */
namespace vhost::frontend {

struct BlkOptions {
  std::size_t queues = 1;
  QueueOptions queue{.ring = {.size = 128, .indirect = 130}};
  /// Beside those of `wishes`: every block feature that a driver can use.
  Wishes wishes{};
  /// How long a synchronous request may take.
  std::chrono::milliseconds request_deadline{10000};
};

class BlkDriver {
 public:
  /// Negotiates, makes the queues and starts them. `memory` needs a region with room for them.
  [[nodiscard]] static Result<std::unique_ptr<BlkDriver>> attach(Connection connection,
                                                                 SharedMemory& memory,
                                                                 BlkOptions options = {});
  /// Detaches; see Device::detach() for what is lost.
  ~BlkDriver();

  [[nodiscard]] Device& device() { return device_; }
  [[nodiscard]] const BlkConfig& config() const { return config_; }
  [[nodiscard]] std::uint64_t capacity_bytes() const {
    return config_.capacity_sectors * sector_bytes;
  }
  /// Reads the configuration again, e.g. after Device::take_config_changed().
  [[nodiscard]] Result<void> refresh_config();
  /// Turns the device's write cache on or off (CONFIG_WCE).
  [[nodiscard]] Result<void> set_write_cache(bool on);

  [[nodiscard]] std::size_t queue_count() const { return queues_.size(); }
  [[nodiscard]] BlkQueue& queue(std::size_t index) { return queues_[index]; }
  [[nodiscard]] std::span<BlkQueue> queues() { return queues_; }

  /// Synchronous requests. Sizes are whole sectors; a status other than ok is an error.
  [[nodiscard]] Result<void> read(std::uint64_t sector, std::span<std::byte> bytes);
  [[nodiscard]] Result<void> write(std::uint64_t sector, std::span<const std::byte> bytes);
  [[nodiscard]] Result<void> flush();
  [[nodiscard]] Result<void> discard(std::uint64_t sector, std::uint32_t sectors);
  [[nodiscard]] Result<void> write_zeroes(std::uint64_t sector, std::uint32_t sectors, bool unmap);
  /// The disk's serial, up to 20 bytes.
  [[nodiscard]] Result<std::string> get_id();
  /// Submits one request on queue 0 and waits for its status.
  [[nodiscard]] Result<BlkStatus> perform(const BlkRequest& request);

  /// See Device. The cookies that detach() returns are those of the requests.
  [[nodiscard]] Result<void> stop() { return device_.stop(); }
  [[nodiscard]] Result<void> start() { return device_.start(); }
  [[nodiscard]] Result<void> reconnect(Connection connection) {
    return device_.reconnect(std::move(connection));
  }
  [[nodiscard]] std::vector<ReturnedChain> detach();

 private:
  BlkDriver(Connection connection, SharedMemory& memory, const BlkOptions& options)
      : device_(std::move(connection), memory), options_(options) {}
  [[nodiscard]] Result<void> set_up();
  [[nodiscard]] Result<void> transfer(BlkType type, std::uint64_t sector,
                                      std::span<std::byte> bytes);
  [[nodiscard]] Result<void> perform_ok(const BlkRequest& request);

  Device device_;
  BlkOptions options_;
  BlkConfig config_{};
  std::vector<BlkQueue> queues_;
};

}  // namespace vhost::frontend
