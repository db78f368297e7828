#include "common/histogram.hpp"

#include <algorithm>
#include <cmath>

namespace common {

using latency_buckets::highest_of;
using latency_buckets::lowest_of;

LatencySnapshot Histogram::snapshot() const {
  LatencySnapshot copy;
  copy.sum_ = sum_.load(std::memory_order_relaxed);
  copy.min_ = min_.load(std::memory_order_relaxed);
  copy.max_ = max_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    const std::uint64_t in_bucket = buckets_[i].load(std::memory_order_relaxed);
    copy.buckets_[i] = in_bucket;
    if (in_bucket == 0) continue;
    copy.count_ += in_bucket;
    // A value recorded since min and max were read: the bucket tells as much as must be known.
    copy.min_ = std::min(copy.min_, highest_of(i));
    copy.max_ = std::max(copy.max_, lowest_of(i));
  }
  return copy;
}

std::uint64_t LatencySnapshot::percentile_ns(double percent) const {
  if (count_ == 0) return 0;
  const double part = std::clamp(percent, 0.0, 100.0) / 100.0;
  const double exact_rank = std::ceil(part * static_cast<double>(count_));
  // Through double a large count may round up by a few: the last rank is the end.
  const std::uint64_t rank =
      exact_rank >= static_cast<double>(count_)
          ? count_
          : std::max(std::uint64_t{1}, static_cast<std::uint64_t>(exact_rank));

  std::uint64_t seen = 0;
  std::size_t i = 0;
  for (; i < buckets_.size() - 1; ++i) {
    seen += buckets_[i];
    if (seen >= rank) break;
  }
  if (i == buckets_.size() - 1 && max_ > highest_of(i)) return max_;
  const std::uint64_t middle = lowest_of(i) + (highest_of(i) - lowest_of(i)) / 2;
  return std::max(min_, std::min(max_, middle));
}

void LatencySnapshot::merge(const LatencySnapshot& other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

}  // namespace common
