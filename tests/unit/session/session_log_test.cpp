#include "libvhost/memory/fault_guard.hpp"
#include "tests/fakes/dirty_pages.hpp"
#include "tests/unit/session/session_fixture.hpp"

/* The dirty log: how a front-end turns it on and off, and what it may get wrong. */
namespace vhost::tests {
namespace {

using fakes::DirtyPages;
using Pages = std::set<std::uint64_t>;
constexpr std::uint64_t page = DirtyLog::page_bytes;
constexpr std::uint64_t enough = (GuestMemory::far + GuestMemory::far_bytes) / page / 8;
constexpr std::uint64_t data_at = GuestMemory::low + (1 << 20);
constexpr std::uint64_t logged_features = FakeFrontend::usual_features | bit(feature::log_all);

class SessionLogTest : public SessionTest {
 protected:
  SessionLogTest() { negotiate(); }

  /// What SET_LOG_BASE answers; nothing if the connection is closed.
  std::optional<std::uint64_t> set_log(const DirtyPages& pages) {
    return set_log({pages.bytes(), 0}, pages.file());
  }
  std::optional<std::uint64_t> set_log(const LogDescription& description, const UniqueFd& fd) {
    const int raw = fd.get();
    if (!frontend_.send(static_cast<std::uint32_t>(Request::set_log_base), bytes_of(description),
                        std::span(&raw, 1))) {
      return std::nullopt;
    }
    const auto answer = frontend_.reply();
    if (!answer || answer->payload.size() != sizeof(std::uint64_t)) return std::nullopt;
    return read_once<std::uint64_t>(answer->payload.data());
  }
  Outcome features(std::uint64_t features) {
    return frontend_.tell(Request::set_features, features);
  }
  Outcome addr(std::uint32_t flags, std::uint64_t log) {
    const RingSetup setup = driver_.setup();
    return frontend_.tell(
        Request::set_vring_addr,
        VringAddr{0, flags, std::to_underlying(setup.descriptors), std::to_underlying(setup.used),
                  std::to_underlying(setup.available), log});
  }
  /// The device serves one chain whose byte it writes.
  void serve() {
    driver_.add({{data_at, 1, true}});
    std::vector<iovec> room(4);
    Chain chain(room);
    ASSERT_EQ(device_.ring(0).pop(chain), Pop::ready);
    device_.ring(0).push(chain.head, 1);
    (void)device_.ring(0).publish();
    ASSERT_TRUE(driver_.take_used());
  }
  Pages marked_by_serving() {
    serve();
    return pages_.take();
  }

  DirtyPages pages_{enough};
  const Pages data_{data_at / page};
  const Pages used_{driver_.used_at() / page};
  const Pages both_{driver_.used_at() / page, data_at / page};
};

TEST_F(SessionLogTest, GoesOnAndOffWhileARingRuns) {
  start(0);
  EXPECT_EQ(set_log(pages_), 0u);
  EXPECT_EQ(marked_by_serving(), Pages{}) << "there is a log, and nobody asked for marks";
  EXPECT_EQ(features(logged_features), Outcome::done);
  EXPECT_EQ(marked_by_serving(), data_);
  EXPECT_EQ(addr(vring_flag_log, driver_.used_at()), Outcome::done);
  EXPECT_EQ(marked_by_serving(), both_);

  // As QEMU does when the migration failed: the guest goes on here.
  EXPECT_EQ(features(FakeFrontend::usual_features), Outcome::done);
  EXPECT_EQ(addr(0, driver_.used_at()), Outcome::done);
  EXPECT_EQ(marked_by_serving(), Pages{});

  DirtyPages second(enough);
  EXPECT_EQ(set_log(second), 0u);
  EXPECT_EQ(features(logged_features), Outcome::done);
  EXPECT_EQ(marked_by_serving(), Pages{}) << "not in the old one";
  EXPECT_EQ(second.take(), data_);
}

TEST_F(SessionLogTest, GoesOnAndOffOnlyBetweenTwoChains) {
  start(0);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  ASSERT_EQ(features(logged_features), Outcome::done) << "once for each pair of queues";
  DirtyPages second(enough);
  ASSERT_EQ(set_log(second), 0u);
  ASSERT_EQ(features(FakeFrontend::usual_features), Outcome::done);
  EXPECT_EQ(device_.moves, (std::vector{Drain::yes, Drain::no, Drain::yes}));
  EXPECT_EQ(device_.starts[0], 1);
  EXPECT_TRUE(device_.whole);
}

TEST_F(SessionLogTest, GoesOverToALongerLogAndMarksTheOldOneNoMore) {
  start(0);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  DirtyPages longer(enough + 4096);
  EXPECT_EQ(set_log(longer), 0u);
  EXPECT_EQ(marked_by_serving(), Pages{});
  EXPECT_EQ(longer.take(), data_);
}

/// As QEMU starts a device again while it migrates its guest: the log comes last.
TEST_F(SessionLogTest, StartsRingsThatAreLoggedBeforeTheLogCame) {
  ASSERT_EQ(features(logged_features), Outcome::done);
  start(0);
  ASSERT_EQ(addr(vring_flag_log, driver_.used_at()), Outcome::done);
  EXPECT_EQ(features(logged_features), Outcome::done) << "nothing changes";
  serve();
  ASSERT_EQ(set_log(pages_), 0u);
  EXPECT_EQ(marked_by_serving(), both_);
}

TEST_F(SessionLogTest, TellsARunningRingWhereItIsLoggedAndKeepsItsPlace) {
  start(0, 7);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  EXPECT_EQ(addr(vring_flag_log, 0), Outcome::done);
  EXPECT_EQ(device_.starts[0], 2);
  EXPECT_EQ(marked_by_serving(), (Pages{0, data_at / page}));
  EXPECT_EQ(addr(vring_flag_log, 3 * page), Outcome::done);
  EXPECT_EQ(marked_by_serving(), (Pages{3, data_at / page}));
  EXPECT_EQ(addr(vring_flag_log, 3 * page), Outcome::done);
  EXPECT_EQ(device_.starts[0], 3) << "nothing changed the second time";
  EXPECT_EQ(frontend_.get_base(0), 9u);
}

TEST_F(SessionLogTest, RefusesToLogARunningRingWithoutALog) {
  start(0);
  EXPECT_EQ(features(logged_features), Outcome::refused);
  EXPECT_EQ(features(logged_features | bit(FakeDevice::a_feature)), Outcome::refused);
  ASSERT_EQ(set_log(pages_), 0u);
  EXPECT_EQ(marked_by_serving(), Pages{}) << "what was refused changed nothing";
  EXPECT_EQ(features(logged_features | bit(FakeDevice::a_feature)), Outcome::refused)
      << "anything else still waits until the rings are stopped";
  EXPECT_EQ(features(logged_features), Outcome::done);
}

TEST_F(SessionLogTest, RefusesALogThatEndsBeforeTheMemory) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  const std::uint64_t needed =
      (GuestMemory::high + GuestMemory::high_bytes + page * 8 - 1) / page / 8;
  EXPECT_EQ(set_log(DirtyPages(needed - 1)), 1u);
  EXPECT_EQ(set_log(DirtyPages(needed)), 0u);
}

TEST_F(SessionLogTest, RefusesMemoryBehindTheEndOfTheLog) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  ASSERT_EQ(set_log(DirtyPages(1024)), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::refused);
  EXPECT_EQ(set_log(pages_), 0u);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
}

TEST_F(SessionLogTest, RefusesARingThatWouldBeLoggedBehindTheEndOfTheLog) {
  start(0);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  const std::uint64_t bytes = SplitLayout{8}.used_bytes(true);
  EXPECT_EQ(addr(vring_flag_log, enough * 8 * page - bytes + 1), Outcome::refused);
  EXPECT_EQ(addr(vring_flag_log, UINT64_MAX), Outcome::refused);
  EXPECT_EQ(addr(vring_flag_log, UINT64_MAX - bytes + 1), Outcome::refused);
  EXPECT_EQ(device_.starts[0], 1);
  EXPECT_EQ(addr(0, UINT64_MAX), Outcome::done) << "it is not logged";
  EXPECT_EQ(addr(vring_flag_log, enough * 8 * page - bytes), Outcome::done);
}

TEST_F(SessionLogTest, SaysNoToALogThatIsNone) {
  const std::size_t before = open_fds();
  EXPECT_EQ(set_log({0, 0}, pages_.file()), 1u);
  EXPECT_EQ(set_log({enough + 1, 0}, pages_.file()), 1u) << "longer than its file";
  EXPECT_EQ(set_log({8, 1}, pages_.file()), 1u);
  EXPECT_EQ(set_log({UINT64_MAX, 0}, pages_.file()), 1u);
  EXPECT_EQ(set_log({8, UINT64_MAX - 7}, pages_.file()), 1u);
  EXPECT_EQ(set_log({8, 0}, call_), 1u) << "not a file";
  EXPECT_TRUE(frontend_.connected());
  EXPECT_EQ(open_fds(), before);
}

TEST_F(SessionLogTest, TakesADescriptorToTellOfChangesAndDoesNotKeepIt) {
  const std::size_t before = open_fds();
  EXPECT_EQ(frontend_.tell(Request::set_log_fd, {}, std::array{call_.get()}), Outcome::done);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(SessionLogTest, KnowsWhenTheLogWasTruncated) {
  ASSERT_TRUE(fault_guard::install());
  start(0);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  EXPECT_TRUE(frontend_.session().memory_is_whole());
  ASSERT_EQ(::ftruncate(pages_.file().get(), 0), 0);
  serve();
  EXPECT_FALSE(frontend_.session().memory_is_whole());
}

TEST_F(SessionLogTest, ForgetsWithAReset) {
  start(0);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  ASSERT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  ASSERT_EQ(features(FakeFrontend::usual_features), Outcome::done);
  start(0);
  EXPECT_EQ(marked_by_serving(), Pages{});
}

TEST_F(SessionLogTest, StaysOnWhenTheMemoryChanges) {
  start(0);
  ASSERT_EQ(set_log(pages_), 0u);
  ASSERT_EQ(features(logged_features), Outcome::done);
  ASSERT_EQ(frontend_.tell(Request::rem_mem_reg, SingleRegion{0, memory_.regions()[2]}),
            Outcome::done);
  EXPECT_EQ(marked_by_serving(), data_);
  ASSERT_EQ(frontend_.tell(Request::add_mem_reg, SingleRegion{0, memory_.regions()[2]},
                           {memory_.fds()[2].get()}),
            Outcome::done);
  EXPECT_EQ(marked_by_serving(), data_);
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  EXPECT_EQ(marked_by_serving(), data_);
}

}  // namespace
}  // namespace vhost::tests
