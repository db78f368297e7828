#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "backends/blk/config_space.hpp"
#include "backends/blk/queue_stats.hpp"
#include "backends/blk/worker.hpp"
#include "libvhost/session/device.hpp"

/*
 * virtio-blk as libvhost sees a device: what it offers, what its configuration space says, and
 * which worker serves which queue (index modulo workers).
 *
 * The write cache that a driver turned off must stay off: over a reset, because QEMU shows the
 * driver a copy of its own, over a reconnect, and over our death, by a note in the inflight region.
 * Only a front-end that reads the configuration before it accepts features is a new machine, and
 * finds the cache as the operator set it.
 *
 * Everything that concerns a running queue is done by its worker, between two of its turns; this
 * class asks and waits. Thread: the control thread.
 */
namespace blk {

class Device final : public vhost::Device {
 public:
  struct Setup {
    Disk disk;
    std::uint16_t queues = 1;
    std::shared_ptr<const Image> image;  ///< null: a disk that keeps nothing
    bool hands_over = false;             ///< the image is locked only while a ring runs
    bool ignores_flush = false;
    std::uint16_t workers = 1;
    std::vector<unsigned> cpus;
    common::Patience patience;
  };

  [[nodiscard]] static vhost::Result<std::unique_ptr<Device>> create(Setup setup);

  std::uint64_t features() const override;
  std::uint16_t max_queues() const override { return setup_.queues; }
  std::uint64_t protocol_features() const override;
  void set_features(std::uint64_t accepted) override;
  void read_config(std::uint32_t offset_bytes, std::span<std::byte> out) override;
  vhost::Result<void> write_config(std::uint32_t offset_bytes,
                                   std::span<const std::byte> bytes) override;
  void keep_in(vhost::Keepsake keepsake) override;
  vhost::Result<void> begin() override;
  void rest() override;
  void start_ring(std::uint16_t index, vhost::StartedRing ring) override;
  vhost::Result<vhost::AnyRing> stop_ring(std::uint16_t index) override;
  vhost::Result<vhost::AnyRing> suspend_ring(std::uint16_t index) override;
  void set_call(std::uint16_t index, std::shared_ptr<const vhost::EventFd> call) override;
  void move_to(std::shared_ptr<const vhost::MemoryMap> memory, vhost::Drain drain) override;

  /// The image has another size; the caller notifies the front-end.
  void resize(std::uint64_t size_bytes);

  [[nodiscard]] const Disk& disk() const { return setup_.disk; }
  /// By queue; null if it never ran.
  [[nodiscard]] const std::vector<std::unique_ptr<QueueStats>>& stats() const { return stats_; }
  /// All workers have turned or slept since the last time this was asked.
  [[nodiscard]] bool alive();
  /// A worker did not come round before the process had to end: leave without cleaning up.
  [[nodiscard]] bool abandoned() const { return abandoned_; }

 private:
  explicit Device(Setup setup);

  [[nodiscard]] Worker& worker_of(std::uint16_t index) {
    return *workers_[index % workers_.size()];
  }
  void post(Worker& worker, std::function<void()> task);
  [[nodiscard]] vhost::Result<vhost::AnyRing> take_ring(
      std::uint16_t index, vhost::AnyRing (Worker::*how)(std::uint16_t index));
  void settle_durability();

  Setup setup_;
  ConfigSpace config_;
  std::optional<vhost::Keepsake> keepsake_;
  bool may_be_another_ = true;  // nobody has accepted features since the last front-end left
  std::uint64_t accepted_ = 0;
  std::atomic<bool> durable_writes_ = false;
  bool abandoned_ = false;
  std::vector<std::unique_ptr<QueueStats>> stats_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace blk
