#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

namespace net {

/// Limits how many flooded frames a port may cause: a token bucket that holds a tenth of a second's
/// frames, at least one. A frame that asks to be cut counts as all that it may become. It passes if
/// there is room for the first of them, so that no limit bars it for ever, and the port owes the
/// rest: nothing passes until they are paid for.
///
/// All of it is one number, the moment at which the bucket is full again; workers that serve queues
/// of the same port move it by compare-and-swap, so no frame is counted twice or not at all. The
/// rate is rounded to a whole number of nanoseconds a frame, up to the next faster one: one per
/// mille at a million frames a second, less below. Workers that read the clock at different times
/// may be wrong by that difference once.
class StormLimit {
 public:
  /// 0: no limit.
  explicit StormLimit(std::uint32_t frames_per_second = 0)
      : frame_ns_(frames_per_second == 0 ? 0 : second_ns / frames_per_second),
        room_ns_(frame_ns_ * std::max(1U, frames_per_second / 10)) {}

  [[nodiscard]] bool limited() const { return frame_ns_ != 0; }

  /// One more frame, which counts as `frames`. False: it is too many. Any thread.
  [[nodiscard]] bool take(std::uint64_t now_ns, std::uint32_t frames = 1) {
    if (!limited()) return true;
    std::uint64_t full_ns = full_ns_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t begin_ns = std::max(full_ns, now_ns);
      if (begin_ns + frame_ns_ > now_ns + room_ns_) return false;
      const std::uint64_t then_full_ns = begin_ns + frames * frame_ns_;
      if (full_ns_.compare_exchange_weak(full_ns, then_full_ns, std::memory_order_relaxed)) {
        return true;
      }
    }
  }

 private:
  static constexpr std::uint64_t second_ns = 1'000'000'000;

  std::uint64_t frame_ns_;
  std::uint64_t room_ns_;
  std::atomic<std::uint64_t> full_ns_ = 0;
};

}  // namespace net
