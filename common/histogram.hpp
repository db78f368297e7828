#pragma once
/*
 * Latencies as a log-linear histogram: what a queue records, and what the stats file makes of it.
 *
 * A power of two is cut into 16 buckets of equal width, so a bucket is never wider than 1/16 of the
 * values in it, and its middle is within 1/32 of each of them. Below 32 ns every value has a bucket
 * of its own. Everything from 2^38 ns (274 s) on is counted in the last bucket. 560 buckets take
 * 4.4 KiB; that is all the memory there is.
 *
 * Histogram is written by one thread and may be read by others while it is written: record() is
 * relaxed loads and stores, no locked instruction, no allocation. snapshot() copies it; all the
 * arithmetic (percentiles, merging) is done on the copy. A copy taken while the owner records is a
 * histogram of values that were recorded, perhaps without the last few.
 */
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace common {

/// The buckets' edges. Pure functions.
namespace latency_buckets {

inline constexpr unsigned split_bits = 4;  ///< 2^4 buckets in a power of two
inline constexpr unsigned top_bits = 38;   ///< values from 2^38 on share the last bucket
inline constexpr std::size_t count = (top_bits - split_bits + 1) << split_bits;

/// A percentile differs from the exact one by at most this part of it.
inline constexpr double relative_error = 1.0 / (2U << split_bits);

/// The bucket that `value` is counted in, less than `count`.
[[nodiscard]] constexpr std::size_t index_of(std::uint64_t value) {
  constexpr std::uint64_t largest = (std::uint64_t{1} << top_bits) - 1;
  const std::uint64_t clipped = value < largest ? value : largest;
  const auto bits = static_cast<unsigned>(std::bit_width(clipped));
  const unsigned shift = bits > split_bits + 1 ? bits - split_bits - 1 : 0;
  return (std::size_t{shift} << split_bits) + static_cast<std::size_t>(clipped >> shift);
}

/// The smallest value counted in the bucket.
[[nodiscard]] constexpr std::uint64_t lowest_of(std::size_t index) {
  constexpr std::size_t in_power = std::size_t{1} << split_bits;
  const std::size_t shift = index < 2 * in_power ? 0 : (index >> split_bits) - 1;
  return static_cast<std::uint64_t>(index - (shift << split_bits)) << shift;
}

/// The largest value counted in the bucket; for the last one, the largest that is not clipped.
[[nodiscard]] constexpr std::uint64_t highest_of(std::size_t index) {
  return lowest_of(index + 1) - 1;
}

static_assert(index_of(~std::uint64_t{0}) == count - 1);

}  // namespace latency_buckets

/// A histogram at rest: plain data, owned by whoever has it.
class LatencySnapshot {
 public:
  [[nodiscard]] std::uint64_t count() const { return count_; }
  /// Sum of all values, nanoseconds, modulo 2^64 (584 years).
  [[nodiscard]] std::uint64_t sum_ns() const { return sum_; }
  /// Exact, also beyond the last bucket. 0 if nothing was recorded.
  [[nodiscard]] std::uint64_t max_ns() const { return max_; }
  /// Exact. 0 if nothing was recorded.
  [[nodiscard]] std::uint64_t min_ns() const { return count_ == 0 ? 0 : min_; }

  /// The value that `percent` of the values (0 to 100; outside is clipped) do not exceed, by
  /// nearest rank: the smallest recorded value of rank ceil(percent / 100 * count), rank 1 at
  /// least.
  ///
  /// Given back is the middle of its bucket, kept between min and max: within 1/32 of the exact
  /// value, above or below, and exact below 32 ns. If it lies in the last bucket, and values of
  /// 2^38 ns or more are there too, it is max. Nanoseconds; 0 if nothing was recorded.
  [[nodiscard]] std::uint64_t percentile_ns(double percent) const;

  /// Adds what the other has, as if both had been recorded in one.
  void merge(const LatencySnapshot& other);

 private:
  friend class Histogram;

  std::array<std::uint64_t, latency_buckets::count> buckets_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t min_ = ~std::uint64_t{0};
  std::uint64_t max_ = 0;
};

/// The histogram that a worker records in.
class Histogram {
 public:
  /// Counts one latency, in nanoseconds. The owning thread only.
  void record(std::uint64_t value_ns) {
    bump(buckets_[latency_buckets::index_of(value_ns)], 1);
    bump(sum_, value_ns);
    if (value_ns > max_.load(std::memory_order_relaxed)) {
      max_.store(value_ns, std::memory_order_relaxed);
    }
    if (value_ns < min_.load(std::memory_order_relaxed)) {
      min_.store(value_ns, std::memory_order_relaxed);
    }
  }

  /// A copy to compute with: 4.5 KiB. Any thread.
  [[nodiscard]] LatencySnapshot snapshot() const;

 private:
  using Cell = std::atomic<std::uint64_t>;
  static void bump(Cell& cell, std::uint64_t by) {
    cell.store(cell.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }

  std::array<Cell, latency_buckets::count> buckets_{};
  Cell sum_ = 0;
  Cell min_ = ~std::uint64_t{0};
  Cell max_ = 0;
};

}  // namespace common
