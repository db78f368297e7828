#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/blk/queue.hpp"
#include "common/mailbox.hpp"
#include "libvhost/wire/error.hpp"

/*
 * A worker: one thread that owns some of the disk's queues, one io_uring and one engine.
 *
 *   turn    take what the drivers offer - start it - let completions in - publish
 *   idle    look on for a bounded, self-adjusting time (common/spin.hpp), then ask for kicks, look
 * once more, and sleep in the io_uring: for completions, kicks and mail alike mail    the control
 * thread asks for something between two turns and waits for it
 *
 * Workers share nothing but the image. The control thread reaches a worker by mail alone; nothing
 * on the path of a request is locked or logged. Nothing is allocated there but, when the first one
 * comes that needs it, the room for long chains and the bounce buffers, which then stay.
 *
 * A front-end that is hostile could make the thread hang in a call to its guest. A control thread
 * that waits for its mail sees that and drains the descriptor, which frees the worker.
 */
namespace blk {

class Worker {
 public:
  virtual ~Worker() = default;

  /// Does `task` on the worker's thread, between two turns, and waits until it is done. False:
  /// the process is to end and the worker did not come round in time; it still may do the task.
  [[nodiscard]] virtual bool post(std::function<void()> task) = 0;

  // For tasks only.
  /// Takes a queue over and calls its driver once.
  virtual void add(std::unique_ptr<Queue> queue) = 0;
  /// Calls a queue's driver on another descriptor from now on, and once right away.
  virtual void set_call(std::uint16_t index, std::shared_ptr<const vhost::EventFd> call) = 0;
  /// Ends all that is in flight on a queue and gives its ring back.
  [[nodiscard]] virtual vhost::AnyRing remove(std::uint16_t index) = 0;
  /// The same in no more time than the kernel needs to let go of it: what it gives up is left in
  /// flight, in the ring's inflight section, which there must be.
  [[nodiscard]] virtual vhost::AnyRing suspend(std::uint16_t index) = 0;
  /// Ends all that is in flight on every queue, taking no more meanwhile.
  virtual void quiesce() = 0;
  [[nodiscard]] virtual const std::vector<std::unique_ptr<Queue>>& queues() const = 0;

  /// False: the thread has neither slept nor turned since the last time this was asked.
  [[nodiscard]] virtual bool alive() = 0;
};

struct WorkerSetup {
  std::string name;            ///< of the thread
  std::vector<unsigned> cpus;  ///< to pin it to; empty: wherever
  common::Patience patience;
};

struct Image;

/// A worker on an image; both must outlive it. The thread runs when this returns.
[[nodiscard]] vhost::Result<std::unique_ptr<Worker>> make_file_worker(
    const WorkerSetup& setup, const Image& image, const std::atomic<bool>& durable_writes);
/// A worker on a disk that keeps nothing.
[[nodiscard]] vhost::Result<std::unique_ptr<Worker>> make_null_worker(const WorkerSetup& setup);

}  // namespace blk
