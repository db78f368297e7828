// What the stats file tells of an IOMMU is what the front-end saw of it.
#include "tests/integration/iommu.hpp"

namespace integration {
namespace {

using nlohmann::json;

class IommuStats : public TranslatedDisk {
 protected:
  /// From a document that was begun after this was called.
  [[nodiscard]] json now() const {
    for (int newer = 0; newer < 2; ++newer) {
      const auto last = read_stats(stats).at("uptime_ms");
      (void)stats_when(stats, [&](const json& s) { return s.at("uptime_ms") != last; });
    }
    return read_stats(stats).at("connection").at("iommu");
  }
  /// How much each of them has grown.
  static void expect_growth(const json& before, const json& after,
                            const std::map<std::string, int>& by) {
    for (const char* key :
         {"updates", "misses", "refused", "late", "invalidations", "drains", "overflows"}) {
      const auto wanted = by.contains(key) ? by.at(key) : 0;
      EXPECT_EQ(after.at(key).get<int>() - before.at(key).get<int>(), wanted) << key;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Layouts, IommuStats, testing::Bool(), layout_name);

TEST_P(IommuStats, CountWhatTheFrontEndWasAskedAndTookBack) {
  serve();
  auto disk = guest(options());
  const Buffer buffer = disk.allocate(8 * page);
  const Segment data = buffer.segment();
  const vhost::frontend::BlkRequest request{.type = BlkType::write, .data = std::span(&data, 1)};
  ASSERT_EQ(must(disk->perform(request)), BlkStatus::ok);
  int asked = 0;
  disk->device().on_miss([&](const vhost::IotlbMessage& miss) {
    ++asked;
    return disk->device().translation(miss);
  });

  const json start = now();
  ASSERT_EQ(must(disk->perform(request)), BlkStatus::ok);
  expect_growth(start, now(), {});

  must(disk->device().invalidate(buffer.guest_address, buffer.size_bytes));
  ASSERT_EQ(must(disk->perform(request)), BlkStatus::ok);
  EXPECT_EQ(asked, 8) << "once for each page";
  const json after = now();
  expect_growth(start, after, {{"misses", 8}, {"updates", 8}, {"invalidations", 1}});
  EXPECT_EQ(after.at("waiting"), 0);
  EXPECT_GT(after.at("entries"), 0);

  must(disk->device().invalidate(0, UINT64_MAX));  // with the ring's areas
  ASSERT_EQ(must(disk->perform(request)), BlkStatus::ok);
  const int more = asked - 8;
  EXPECT_GE(more, 8 + 3);
  expect_growth(after, now(),
                {{"misses", more}, {"updates", more}, {"invalidations", 1}, {"drains", 1}});
}

TEST_P(IommuStats, CountRefusalsAndGoOnOverConnections) {
  serve();
  json first;
  {
    auto disk = guest(options(2));
    disk.write(0, 1, page);
    const Buffer lost = disk.allocate(page);
    disk->device().on_miss([&](const vhost::IotlbMessage& miss) {
      const bool refused = miss.iova - lost.guest_address < lost.size_bytes;
      return refused ? std::nullopt : disk->device().translation(miss);
    });
    must(disk->device().invalidate(lost.guest_address, page));  // it may have been in use before
    const json before = now();
    auto& queue = disk->device().queue(1);
    const Segment piece = lost.segment();
    ASSERT_TRUE(queue.ring().add(std::span(&piece, 1), {}, 0));
    queue.submit();
    ASSERT_EQ(disk->device().wait(1, long_wait), vhost::frontend::Wake::ring_error);
    first = now();
    expect_growth(before, first, {{"misses", 1}, {"refused", 1}});
  }
  const json between = now();
  expect_growth(first, between, {});
  EXPECT_EQ(between.at("entries"), 0);
  auto disk = guest(options());
  disk.write(0, 1, page);
  const json second = now();
  EXPECT_GT(second.at("misses"), first.at("misses"));
  EXPECT_EQ(second.at("refused"), first.at("refused"));
}

}  // namespace
}  // namespace integration
