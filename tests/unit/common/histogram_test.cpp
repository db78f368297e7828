#include "common/histogram.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace common {
namespace {

using latency_buckets::highest_of;
using latency_buckets::index_of;
using latency_buckets::lowest_of;

constexpr std::uint64_t top = std::uint64_t{1} << 38U;
constexpr std::uint64_t largest = ~std::uint64_t{0};

LatencySnapshot recorded(const std::vector<std::uint64_t>& values) {
  const auto histogram = std::make_unique<Histogram>();
  for (const auto value : values) histogram->record(value);
  return histogram->snapshot();
}

/// Nearest rank, from the values themselves.
std::uint64_t exact_percentile(const std::vector<std::uint64_t>& sorted, double percent) {
  const double rank = std::ceil(percent / 100.0 * static_cast<double>(sorted.size()));
  return sorted[rank < 1 ? 0 : static_cast<std::size_t>(rank) - 1];
}

void expect_percentiles_within_error(std::vector<std::uint64_t> values) {
  const auto snapshot = recorded(values);
  std::ranges::sort(values);
  for (const double percent : {0.0, 0.1, 1.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0}) {
    const auto exact = static_cast<double>(exact_percentile(values, percent));
    const auto given = static_cast<double>(snapshot.percentile_ns(percent));
    EXPECT_LE(std::abs(given - exact), exact * latency_buckets::relative_error)
        << "p" << percent << " of " << values.size() << ": exact " << exact << ", given " << given;
  }
}

std::vector<std::uint64_t> drawn(std::size_t count, const std::function<double()>& draw) {
  std::vector<std::uint64_t> values(count);
  std::ranges::generate(values, [&] { return static_cast<std::uint64_t>(draw()); });
  return values;
}

TEST(LatencyBuckets, EachBeginsWhereTheOneBelowEnds) {
  for (std::size_t i = 0; i < latency_buckets::count; ++i) {
    EXPECT_EQ(index_of(lowest_of(i)), i);
    EXPECT_EQ(index_of(highest_of(i)), i);
    EXPECT_EQ(index_of(highest_of(i) + 1), std::min(i + 1, latency_buckets::count - 1));
  }
  EXPECT_EQ(lowest_of(0), 0U);
  EXPECT_EQ(highest_of(latency_buckets::count - 1), top - 1);
}

TEST(LatencyBuckets, NoneIsWiderThanASixteenthOfItsValues) {
  for (std::size_t i = 0; i < latency_buckets::count; ++i) {
    const std::uint64_t width = highest_of(i) - lowest_of(i) + 1;
    EXPECT_TRUE(width == 1 || width * 16 <= lowest_of(i)) << i;
  }
}

TEST(LatencyBuckets, ValuesBeyondTheTopShareTheLast) {
  for (const std::uint64_t value : {top - 1, top, top + 1, largest}) {
    EXPECT_EQ(index_of(value), latency_buckets::count - 1);
  }
}

TEST(Histogram, IsEmptyAtFirst) {
  const auto snapshot = recorded({});
  EXPECT_EQ(snapshot.count(), 0U);
  EXPECT_EQ(snapshot.sum_ns(), 0U);
  EXPECT_EQ(snapshot.min_ns(), 0U);
  EXPECT_EQ(snapshot.max_ns(), 0U);
  EXPECT_EQ(snapshot.percentile_ns(50), 0U);
}

TEST(Histogram, TakesAtMostFiveKibibytes) {
  EXPECT_LE(sizeof(Histogram), 5U * 1024);
}

TEST(Histogram, CountsSumsAndKeepsTheExtremesExactly) {
  const auto snapshot = recorded({1'000'003, 7, 123'457});
  EXPECT_EQ(snapshot.count(), 3U);
  EXPECT_EQ(snapshot.sum_ns(), 1'123'467U);
  EXPECT_EQ(snapshot.min_ns(), 7U);
  EXPECT_EQ(snapshot.max_ns(), 1'000'003U);
}

TEST(Histogram, IsExactBelow32Nanoseconds) {
  for (std::uint64_t value = 0; value < 32; ++value) {
    const auto snapshot = recorded({0, value, 31});
    EXPECT_EQ(snapshot.percentile_ns(50), value);
  }
}

TEST(Histogram, GivesASingleValueExactly) {
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{123'457},
                                    top - 1, top, top + 1, largest}) {
    const auto snapshot = recorded({value});
    for (const double percent : {0.0, 50.0, 100.0}) {
      EXPECT_EQ(snapshot.percentile_ns(percent), value);
    }
  }
}

TEST(Histogram, SaturatesInTheLastBucketAndAnswersItsMaximum) {
  const auto snapshot = recorded({5, top, top * 2});
  EXPECT_EQ(snapshot.percentile_ns(10), 5U);
  EXPECT_EQ(snapshot.percentile_ns(60), top * 2);
  EXPECT_EQ(snapshot.max_ns(), top * 2);
}

TEST(Histogram, ClipsPercentOutsideZeroToHundred) {
  const auto snapshot = recorded({3, 9});
  EXPECT_EQ(snapshot.percentile_ns(-5), 3U);
  EXPECT_EQ(snapshot.percentile_ns(1000), 9U);
}

TEST(Histogram, TakesTheNearestRank) {
  const auto snapshot = recorded({1, 2, 3, 4});
  EXPECT_EQ(snapshot.percentile_ns(25), 1U);
  EXPECT_EQ(snapshot.percentile_ns(25.1), 2U);
  EXPECT_EQ(snapshot.percentile_ns(50), 2U);
  EXPECT_EQ(snapshot.percentile_ns(75), 3U);
  EXPECT_EQ(snapshot.percentile_ns(75.1), 4U);
}

TEST(Histogram, PercentileIsWithinTheStatedError) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(0, 5e6);
  std::exponential_distribution<double> exponential(1 / 80e3);
  std::normal_distribution<double> fast(12e3, 2e3);
  std::normal_distribution<double> slow(9e6, 1e6);
  std::uniform_real_distribution<double> octaves(0, 37.9);
  for (const std::size_t count : {1U, 2U, 17U, 1000U, 50'000U}) {
    expect_percentiles_within_error(drawn(count, [&] { return uniform(random); }));
    expect_percentiles_within_error(drawn(count, [&] { return exponential(random); }));
    expect_percentiles_within_error(drawn(
        count, [&] { return std::max(0.0, random() % 10 == 0 ? slow(random) : fast(random)); }));
    expect_percentiles_within_error(drawn(count, [&] { return std::exp2(octaves(random)); }));
    expect_percentiles_within_error(drawn(count, [] { return 77'777.0; }));
  }
}

TEST(Histogram, PercentileIsWithinTheStatedErrorOnBothSidesOfEveryEdge) {
  for (std::size_t i = 1; i < latency_buckets::count; ++i) {
    // The neighbours keep min and max from giving the middle value away.
    for (const std::uint64_t value : {lowest_of(i) - 1, lowest_of(i), highest_of(i)}) {
      const auto given = static_cast<double>(recorded({0, value, top - 1}).percentile_ns(50));
      EXPECT_LE(std::abs(given - static_cast<double>(value)), static_cast<double>(value) / 32);
    }
  }
}

TEST(Histogram, MergedIsAsIfRecordedInOne) {
  const std::vector<std::uint64_t> some{3, 50'000, 70, 9'000'000};
  const std::vector<std::uint64_t> more{1, 50'001, top};
  std::vector<std::uint64_t> all(some);
  all.insert(all.end(), more.begin(), more.end());

  auto merged = recorded(some);
  merged.merge(recorded(more));
  const auto together = recorded(all);
  EXPECT_EQ(merged.count(), together.count());
  EXPECT_EQ(merged.sum_ns(), together.sum_ns());
  EXPECT_EQ(merged.min_ns(), together.min_ns());
  EXPECT_EQ(merged.max_ns(), together.max_ns());
  for (double percent = 0; percent <= 100; percent += 0.5) {
    EXPECT_EQ(merged.percentile_ns(percent), together.percentile_ns(percent));
  }
}

TEST(Histogram, MergingAnEmptyOneChangesNothing) {
  auto merged = recorded({40, 50});
  merged.merge(recorded({}));
  EXPECT_EQ(merged.count(), 2U);
  EXPECT_EQ(merged.min_ns(), 40U);
  EXPECT_EQ(merged.max_ns(), 50U);
}

TEST(Histogram, MayBeReadWhileItsOwnerRecords) {
  constexpr std::uint64_t total = 200'000;
  const auto histogram = std::make_unique<Histogram>();
  std::atomic<bool> done = false;
  std::thread owner([&] {
    for (std::uint64_t i = 0; i < total; ++i) histogram->record(1000 + i % 1000);
    done = true;
  });
  std::uint64_t last = 0;
  while (!done) {
    const auto snapshot = histogram->snapshot();
    EXPECT_GE(snapshot.count(), last);
    last = snapshot.count();
    if (last == 0) continue;
    EXPECT_GE(snapshot.percentile_ns(50), 960U);
    EXPECT_LE(snapshot.percentile_ns(50), 2060U);
  }
  owner.join();
  EXPECT_EQ(histogram->snapshot().count(), total);
}

}  // namespace
}  // namespace common
