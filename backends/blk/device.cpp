#include "backends/blk/device.hpp"

#include "backends/blk/image_lock.hpp"

namespace blk {
namespace {

/// What a successor must know of the driver, in the keepsake.
struct Note {
  std::uint32_t magic;
  std::uint32_t writeback;
};
constexpr std::uint32_t note_magic = 0x3162'7576;  // "vub1"

}  // namespace

Device::Device(Setup setup)
    : setup_(std::move(setup)), config_(setup_.disk, setup_.queues), stats_(setup_.queues) {
  settle_durability();
}

vhost::Result<std::unique_ptr<Device>> Device::create(Setup setup) {
  std::unique_ptr<Device> device(new Device(std::move(setup)));
  const Setup& made = device->setup_;
  for (std::uint16_t i = 0; i < made.workers; ++i) {
    WorkerSetup worker{"blk-worker-" + std::to_string(i), {}, made.patience};
    if (!made.cpus.empty()) worker.cpus = {made.cpus[i % made.cpus.size()]};
    auto started = made.image ? make_file_worker(worker, *made.image, device->durable_writes_)
                              : make_null_worker(worker);
    if (!started) return std::unexpected(started.error());
    device->workers_.push_back(std::move(*started));
  }
  return device;
}

std::uint64_t Device::features() const {
  return blk::features(setup_.disk, setup_.queues);
}

std::uint64_t Device::protocol_features() const {
  return vhost::Device::protocol_features() |
         vhost::bit(vhost::protocol_feature::get_vring_base_inflight) |
         vhost::bit(vhost::protocol_feature::get_vring_base_skip_drain);
}

void Device::set_features(std::uint64_t accepted) {
  accepted_ = accepted;
  may_be_another_ = accepted == 0;
  if (accepted == 0) keepsake_.reset();
  config_.start_driver(accepted);
  settle_durability();
}

void Device::keep_in(vhost::Keepsake keepsake) {
  const auto note = vhost::read_once<Note>(keepsake.bytes.data());
  keepsake_ = std::move(keepsake);
  if (note.magic == note_magic) {
    config_.set_writeback(note.writeback != 0);
    may_be_another_ = false;  // another machine would have brought a new region
  }
  settle_durability();
}

void Device::settle_durability() {
  durable_writes_.store(!setup_.ignores_flush && config_.durable_writes(accepted_));
  if (!keepsake_) return;
  const Note note{note_magic, config_.writeback() ? 1U : 0U};
  std::memcpy(keepsake_->bytes.data(), &note, sizeof note);
}

void Device::read_config(std::uint32_t offset_bytes, std::span<std::byte> out) {
  if (std::exchange(may_be_another_, false)) {
    config_.forget_writeback();
    settle_durability();
  }
  config_.read(offset_bytes, out);
}

vhost::Result<void> Device::write_config(std::uint32_t offset_bytes,
                                         std::span<const std::byte> bytes) {
  if (!config_.write(offset_bytes, bytes, accepted_)) {
    return vhost::fail(vhost::Fault::front_end,
                       "a write to a field of the configuration space that is not the driver's");
  }
  settle_durability();
  return {};
}

/// Does a task on a worker. Once one did not come round, none is asked any more.
void Device::post(Worker& worker, std::function<void()> task) {
  if (!abandoned_) abandoned_ = !worker.post(std::move(task));
}

vhost::Result<void> Device::begin() {
  return setup_.hands_over ? take_over_image(*setup_.image) : vhost::Result<void>{};
}

void Device::rest() {
  if (setup_.hands_over) hand_over_image(*setup_.image);
}

void Device::start_ring(std::uint16_t index, vhost::StartedRing ring) {
  if (!stats_[index]) stats_[index] = std::make_unique<QueueStats>();
  auto queue = std::make_shared<std::unique_ptr<Queue>>(
      std::make_unique<Queue>(index, std::move(ring), setup_.disk, *stats_[index]));
  Worker& worker = worker_of(index);
  post(worker, [&worker, queue] { worker.add(std::move(*queue)); });
}

vhost::Result<vhost::AnyRing> Device::stop_ring(std::uint16_t index) {
  return take_ring(index, &Worker::remove);
}

vhost::Result<vhost::AnyRing> Device::suspend_ring(std::uint16_t index) {
  return take_ring(index, &Worker::suspend);
}

vhost::Result<vhost::AnyRing> Device::take_ring(std::uint16_t index,
                                                vhost::AnyRing (Worker::*how)(std::uint16_t)) {
  // Shared with the task, which may outlive our patience.
  const auto ring = std::make_shared<std::optional<vhost::AnyRing>>();
  Worker& worker = worker_of(index);
  post(worker, [&worker, index, ring, how] { ring->emplace((worker.*how)(index)); });
  if (abandoned_) {
    return vhost::fail(vhost::Fault::host,
                       "requests are still with the storage; they are left to the next start");
  }
  return std::move(**ring);
}

void Device::set_call(std::uint16_t index, std::shared_ptr<const vhost::EventFd> call) {
  Worker& worker = worker_of(index);
  post(worker, [&worker, index, call] { worker.set_call(index, call); });
}

void Device::move_to(std::shared_ptr<const vhost::MemoryMap> memory, vhost::Drain drain) {
  for (const auto& worker : workers_) {
    Worker* const mover = worker.get();
    post(*mover, [mover, memory, drain] {
      if (drain == vhost::Drain::yes) mover->quiesce();
      for (const auto& queue : mover->queues()) queue->move_to(memory);
    });
  }
}

void Device::resize(std::uint64_t size_bytes) {
  setup_.disk.size_bytes = size_bytes;
  config_.set_capacity(setup_.disk.sectors());
  for (const auto& worker : workers_) {
    Worker* const one = worker.get();
    post(*one, [one, size_bytes] {
      for (const auto& queue : one->queues()) queue->resize(size_bytes);
    });
  }
}

bool Device::alive() {
  bool all = true;
  for (const auto& worker : workers_) all &= worker->alive();
  return all;
}

}  // namespace blk
