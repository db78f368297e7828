#pragma once
#include <memory>
#include <vector>

#include "libvhost/frontend/net_queue.hpp"
#include "tools/vhost_bench/net_plan.hpp"

/*
 * The two ends of a stream of frames on one pair of queues: who sends and who receives.
 *
 * A sender has as many prepared frames as its ring holds, header and frame in one piece as Linux
 * lays them out. Each turn moves a batch of at most 32: one store of the available index, and one
 * kick if the device wants it. Nothing is allocated, and no frame is written again.
 */
namespace bench {

inline constexpr std::uint32_t net_batch = 32;

class Sender {
 public:
  /// `queue` and `memory` must outlive this. Frames get flows from `first_flow` on, in turn.
  [[nodiscard]] static vhost::Result<Sender> create(const NetPlan& plan,
                                                    vhost::frontend::NetQueue& queue,
                                                    vhost::frontend::SharedMemory& memory,
                                                    std::size_t first_flow);

  /// Takes back what the device is done with, and sends up to `most` frames. False: neither.
  bool turn(std::uint32_t most) {
    vhost::frontend::NetSent sent;
    std::uint32_t back = 0;
    for (; back < net_batch; ++back) {
      const auto answer = queue_->poll_sent(sent);
      broken_ |= answer == vhost::frontend::Poll::broken;
      if (answer != vhost::frontend::Poll::done) break;
      idle_.push_back(sent.slot);
    }
    done_ += back;
    std::uint32_t out = 0;
    for (; out < std::min(most, net_batch) && !idle_.empty(); ++out) {
      queue_->start(idle_.back());
      idle_.pop_back();
    }
    started_ += out;
    if (out > 0) queue_->kick();
    return back + out > 0;
  }

  [[nodiscard]] std::uint64_t started() const { return started_; }
  [[nodiscard]] std::uint64_t done() const { return done_; }  ///< the device took them
  [[nodiscard]] std::uint64_t outstanding() const { return started_ - done_; }
  [[nodiscard]] bool broken() const { return broken_; }
  [[nodiscard]] vhost::frontend::NetQueue& queue() { return *queue_; }

 private:
  explicit Sender(vhost::frontend::NetQueue& queue) : queue_(&queue) {}

  vhost::frontend::NetQueue* queue_;
  std::vector<std::uint16_t> idle_;  // of a fixed capacity
  std::uint64_t started_ = 0;
  std::uint64_t done_ = 0;
  bool broken_ = false;
};

class Receiver {
 public:
  Receiver(const NetPlan& plan, vhost::frontend::NetQueue& queue)
      : queue_(&queue), frame_bytes_(plan.frame_bytes) {
    frame_.pieces.reserve(queue.buffers());
  }

  /// Takes up to a batch of frames, and gives their buffers back. False: there was none.
  bool turn() {
    std::uint32_t got = 0;
    for (; got < net_batch; ++got) {
      const auto answer = queue_->receive(frame_);
      broken_ |= answer == vhost::frontend::Poll::broken;
      if (answer != vhost::frontend::Poll::done) break;
      foreign_ += frame_.length == frame_bytes_ ? 0 : 1;
      bytes_ += frame_.length;
      queue_->give_back(frame_);
    }
    frames_ += got;
    if (got > 0) queue_->kick();
    return got > 0;
  }

  [[nodiscard]] std::uint64_t frames() const { return frames_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  /// Frames of another length than ours.
  [[nodiscard]] std::uint64_t foreign() const { return foreign_; }
  [[nodiscard]] bool broken() const { return broken_; }
  [[nodiscard]] vhost::frontend::NetQueue& queue() { return *queue_; }

 private:
  vhost::frontend::NetQueue* queue_;
  vhost::frontend::NetFrame frame_;
  std::uint32_t frame_bytes_;
  std::uint64_t frames_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t foreign_ = 0;
  bool broken_ = false;
};

}  // namespace bench
