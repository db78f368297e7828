// A guest whose memory follows it: requests go on while pages come, and when they never will.
#include <cstring>
#include <thread>

#include "tests/integration/arrival.hpp"
#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using namespace std::chrono_literals;
using vhost::frontend::BlkRequest;

class Postcopy : public Served {
 protected:
  void SetUp() override {
    if (!postcopy_is_possible()) GTEST_SKIP() << "no userfaultfd";
  }
  static Strings flags(Strings more = {}) {
    more.emplace_back("--postcopy");
    return more;
  }
  /// The daemon dies with what it has, and the guest's memory is elsewhere when its successor
  /// comes.
  void move(Guest& disk, Arrival& arrival, const Strings& flags) {
    must(disk->reconnect(resurrect(flags)));
    EXPECT_FALSE(arrival.pages().was_asked_for_the_unknown());
  }
};

TEST_F(Postcopy, IsRefusedByADaemonThatIsNotToldOfIt) {
  serve();
  auto disk = guest();
  EXPECT_FALSE(vhost::has(disk->device().protocol_features(), vhost::protocol_feature::pagefault));
  Arrival arrival(disk->device(), 0us);
  daemon->kill();
  EXPECT_FALSE(disk->reconnect(resurrect()));
}

TEST_F(Postcopy, RequestsInFlightAndNewOnesAreServedWhilePagesCome) {
  serve(flags({"--workers", "2"}));
  auto disk = guest(with_queues(2));
  Load straight(disk, {.queue = 0, .depth = 32});
  Load bounced(disk, {.queue = 1, .first_sector = 40000, .depth = 32, .misalignment = 7});
  for (int moves = 0; moves < 2; ++moves) {
    straight.run(200);
    bounced.run(200);
    straight.submit();
    bounced.submit();
    daemon->kill();
    Arrival arrival(disk->device(), 500us);
    move(disk, arrival, flags({"--workers", "2"}));
    straight.settle();
    bounced.settle();
    straight.run(200);
    bounced.run(200);
    EXPECT_GT(arrival.pages().asked_by_backend(), 20U);
    arrival.pages().push_all();
    must(disk->device().all_pages_came());
  }
  straight.run(200);
  bounced.run(200);
  straight.verify();
  bounced.verify();
  EXPECT_EQ(straight.failed + bounced.failed, 0U);
}

TEST_F(Postcopy, MemoryMayComeInATable) {
  serve(flags());
  BlkOptions options;
  options.wishes.protocol_features &= ~vhost::bit(vhost::protocol_feature::configure_mem_slots);
  auto disk = guest(options);
  must(disk->device().add_region(mebi, {.mmap_offset_bytes = 3 * 4096}));
  Load load(disk, {.depth = 8});
  load.run(50);
  daemon->kill();
  Arrival arrival(disk->device(), 100us);
  move(disk, arrival, flags());
  load.run(100);
  load.verify();
  arrival.pages().push_all();
  must(disk->device().all_pages_came());
  load.verify();
}

TEST_F(Postcopy, APageMayTakeATenthOfASecond) {
  serve(flags());
  auto disk = guest();
  const Buffer buffer = disk.allocate(16 * kibi);
  fill(buffer.bytes(), 2);
  const Segment data = buffer.segment();
  daemon->kill();
  Arrival arrival(disk->device(), 100ms);
  move(disk, arrival, flags());
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(
      must(disk->perform(
          {.type = vhost::frontend::BlkType::write, .sector = 64, .data = std::span(&data, 1)})),
      BlkStatus::ok);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 400ms);
  EXPECT_TRUE(image_holds(64, 2, 16 * kibi));
  EXPECT_GE(arrival.pages().asked_by_backend(), 4U);
}

TEST_F(Postcopy, TheGuestGoesOnAloneAfterTheEnd) {
  serve(flags());
  auto disk = guest();
  disk.write(8, 1, 4 * kibi);
  daemon->kill();
  {
    Arrival arrival(disk->device(), 0us);
    move(disk, arrival, flags());
    arrival.pages().push_all();
    must(disk->device().all_pages_came());
  }
  must(disk->device().add_region(mebi));
  disk.write(64, 2, 64 * kibi);
  EXPECT_TRUE(disk.reads(64, 2, 64 * kibi));
  EXPECT_TRUE(disk.reads(8, 1, 4 * kibi));
}

/// A guest that dies while the daemon waits for one page of what it is to write.
class PostcopyDeath : public Postcopy,
                      public ::testing::WithParamInterface<std::pair<const char*, std::size_t>> {
 protected:
  static constexpr std::size_t bytes = 64 * kibi;

  Strings all_flags() const { return flags({"--cache", GetParam().first}); }
  /// Until the daemon waits in vain.
  void write_what_never_comes() {
    serve(all_flags());
    disk = std::make_unique<Guest>(guest());
    disk->write(8, 1, bytes);
    const Buffer buffer = disk->allocate(bytes + 4096);
    const std::size_t misalignment = GetParam().second;
    const auto news = pattern(bytes, 2);
    std::memcpy(buffer.data + misalignment, news.data(), bytes);
    data = buffer.segment(misalignment, bytes);

    daemon->kill();
    arrival = std::make_unique<Arrival>((*disk)->device(), 0us);
    withheld = buffer.bytes().subspan(8 * 4096, 4096);
    arrival->pages().withhold(withheld);
    move(*disk, *arrival, all_flags());
    ASSERT_TRUE((*disk)->queue(0).submit(
        {.type = vhost::frontend::BlkType::write, .sector = 8, .data = std::span(&data, 1)}));
    (*disk)->queue(0).kick();
    ASSERT_TRUE(eventually([&] { return arrival->pages().was_asked_in_vain(); }));
    ::usleep(20'000);
  }
  /// Every byte is as it was, or as it was to be; and as it was where the page is that never came.
  void expect_no_zeroes() const {
    const auto now = read_file(image, 8 * sector, bytes);
    const auto before = pattern(bytes, 1);
    const auto after = pattern(bytes, 2);
    const std::size_t begin = 8 * 4096 - GetParam().second;
    for (std::size_t at = 0; at < bytes; ++at) {
      const bool missing = at >= begin && at < begin + 4096;
      ASSERT_TRUE(now[at] == before[at] || (now[at] == after[at] && !missing)) << "at " << at;
    }
  }

  std::unique_ptr<Guest> disk;
  std::unique_ptr<Arrival> arrival;
  std::span<std::byte> withheld;
  Segment data;
};

TEST_P(PostcopyDeath, LeavesTheDiskAsItWasAndTheDaemonServesTheNext) {
  write_what_never_comes();
  {
    const auto gone = std::move((*disk)->device().connection());
  }
  auto next = guest();
  expect_no_zeroes();
  next.write(8, 3, bytes);
  EXPECT_TRUE(next.reads(8, 3, bytes));
  EXPECT_NE(daemon->words().find("in the middle of postcopy"), std::string::npos);
  EXPECT_EQ(daemon->words().find("truncated"), std::string::npos);
  EXPECT_EQ(daemon->terminate(), good_end);
}

TEST_P(PostcopyDeath, OfTheDaemonMakesNoPageThatWasStillToCome) {
  write_what_never_comes();
  EXPECT_EQ(daemon->terminate(), good_end);
  expect_no_zeroes();
  const auto& region = *disk->memory().regions().front();
  const auto at = static_cast<off_t>(withheld.data() - region.bytes().data());
  const off_t data_at = ::lseek(region.fd(), at, SEEK_DATA);
  EXPECT_TRUE(data_at == -1 || data_at >= at + 4096) << data_at - at;
}

INSTANTIATE_TEST_SUITE_P(Caches, PostcopyDeath,
                         ::testing::Values(std::pair{"none", std::size_t{0}},
                                           std::pair{"none", std::size_t{7}},
                                           std::pair{"writeback", std::size_t{0}},
                                           std::pair{"writeback", std::size_t{7}}));

}  // namespace
}  // namespace integration
