#include "tests/unit/session/session_iommu_fixture.hpp"

/* What the statistics tell of an IOMMU: each miss, refusal and invalidation once. */
namespace vhost::tests {
namespace {

class SessionIommuCountsTest : public SessionIommuTest {
 protected:
  [[nodiscard]] SessionInfo info() { return frontend_.session().info(); }
  [[nodiscard]] IommuCounts counts() { return info().iommu; }
  /// Has a chain wait for so many pages.
  void miss(std::uint32_t pages, std::uint64_t at = data) {
    driver_.add({{at + shift, static_cast<std::uint32_t>(pages * page)}});
    ASSERT_EQ(pop(), Pop::empty);
    ASSERT_EQ(misses().size(), pages);
  }
};

TEST_F(SessionIommuCountsTest, AreNoneWithoutAnIommu) {
  negotiate();
  start(0);
  EXPECT_EQ(update(data), 1u);
  EXPECT_EQ(counts().updates, 0u);
  EXPECT_EQ(info().iotlb_entries, 0u);
}

TEST_F(SessionIommuCountsTest, HaveEachMissOnceAndWhatIsStillToCome) {
  run();
  EXPECT_EQ(counts().misses, 0u) << "the areas were known before they were missed";
  EXPECT_EQ(counts().updates, 1u);
  miss(3);
  EXPECT_EQ(counts().misses, 3u);
  EXPECT_EQ(info().unanswered_misses, 3u);
  EXPECT_EQ(update(data + 20 * page), 0u);
  EXPECT_EQ(pop(), Pop::empty) << "it looks again";
  EXPECT_TRUE(misses().empty());
  EXPECT_EQ(counts().misses, 3u) << "and waits for the same";
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(update(data + i * page), 0u);
  EXPECT_EQ(pop(), Pop::ready);
  EXPECT_EQ(info().unanswered_misses, 0u);
  EXPECT_EQ(info().iotlb_entries, 3u) << "the areas, three neighbours, and one far away";
  EXPECT_EQ(counts().misses, 3u);
  EXPECT_EQ(counts().updates, 5u);
  EXPECT_EQ(counts().refused, 0u);
}

TEST_F(SessionIommuCountsTest, HaveAMissThatIsAskedForAgainOnce) {
  run();
  miss(1);
  reply(0);  // and no update came
  EXPECT_EQ(misses().size(), 1u);
  EXPECT_EQ(counts().misses, 1u);
}

TEST_F(SessionIommuCountsTest, HaveWhatTheFrontEndRefuses) {
  run();
  miss(2);
  reply(1);
  EXPECT_EQ(counts().refused, 1u);
  EXPECT_EQ(info().unanswered_misses, 1u);
  reply(1);
  EXPECT_EQ(counts().refused, 2u);
  EXPECT_EQ(counts().late, 0u);
  EXPECT_EQ(counts().misses, 2u);
  EXPECT_EQ(pop(), Pop::broken);
}

TEST_F(SessionIommuCountsTest, HaveWhatNobodyCouldBeAskedAbout) {
  begin(FakeFrontend::usual_protocol_features, false);
  set_up();
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  frontend_.turn();
  EXPECT_GT(counts().misses, 0u);
  EXPECT_EQ(counts().refused, counts().misses);
}

TEST_F(SessionIommuCountsTest, HaveInvalidationsAndThoseThatStoppedARing) {
  run();
  ASSERT_EQ(update(data), 0u);
  EXPECT_EQ(invalidate(data + 9 * page + shift, page), 0u);
  EXPECT_EQ(counts().invalidations, 1u);
  EXPECT_EQ(counts().drains, 0u) << "nobody used it";
  driver_.add({{data + shift, 16}});
  ASSERT_EQ(pop(), Pop::ready);
  EXPECT_EQ(invalidate(data + shift, page), 0u);
  EXPECT_EQ(counts().invalidations, 2u);
  EXPECT_EQ(counts().drains, 1u);
  EXPECT_EQ(invalidate(0, 0), 0u);
  EXPECT_EQ(counts().drains, 2u) << "its areas";
  EXPECT_EQ(invalidate(0, 0), 0u);
  EXPECT_EQ(counts().drains, 2u) << "it does not run";
  EXPECT_EQ(counts().invalidations, 4u);
}

TEST_F(SessionIommuCountsTest, DoNotHaveMessagesThatAreRefused) {
  run();
  EXPECT_EQ(tell({data + shift, page, 12345, 3, 2, {}}), 1u);
  EXPECT_EQ(tell({data + shift, page, 0, 0, 1, {}}), 1u);
  EXPECT_EQ(counts().updates, 1u) << "that of the areas";
  EXPECT_EQ(counts().invalidations, 0u);
  EXPECT_EQ(info().refused, 2u);
}

TEST_F(SessionIommuCountsTest, GoOnWhenTheDeviceIsResetAndStartsAnew) {
  run();
  miss(1);
  reply(1);
  ASSERT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_EQ(counts().misses, 1u);
  EXPECT_EQ(counts().refused, 1u);
  EXPECT_EQ(info().iotlb_entries, 0u);
  EXPECT_EQ(info().unanswered_misses, 0u);
}

TEST_F(SessionIommuCountsTest, ExpectNoAnswerForARingThatEnded) {
  run();
  miss(1);
  ASSERT_TRUE(frontend_.get_base(0));
  EXPECT_EQ(info().unanswered_misses, 0u);
  EXPECT_EQ(update(data), 0u) << "it is late";
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_FALSE(misses().empty());
  EXPECT_EQ(update(GuestMemory::low), 0u);
  frontend_.turn();
  EXPECT_TRUE(runs());
}

TEST(IommuCounts, AddUpFieldByField) {
  IommuCounts sum{1, 2, 3, 4, 5, 6, 7};
  sum += {10, 20, 30, 40, 50, 60, 70};
  EXPECT_EQ(sum, (IommuCounts{11, 22, 33, 44, 55, 66, 77}));
}

}  // namespace
}  // namespace vhost::tests
