#include <sys/socket.h>

#include <atomic>

#include "tests/unit/session/postcopy_fixture.hpp"

/* Memory that comes page by page: who waits for it, and until when. */
namespace vhost::tests {
namespace {

TEST_F(SessionPostcopyTest, PagesComeWhileARingIsStartedAndUsed) {
  PageServer server(5ms);
  (void)driver_.add({{GuestMemory::far + 4096, 4096}});
  memory_.store(GuestMemory::far + 4100, std::uint64_t{0x1234567890});
  for (const std::size_t region : {0u, 1u, 2u}) move_out(server, region);

  server.adopt(begin());
  const auto found = announce_table({0, 1, 2});
  for (std::size_t i = 0; i < found.size(); ++i) {
    server.learn(memory_.at(memory_.regions()[i].guest_address),
                 reinterpret_cast<std::uintptr_t>(found[i]));
  }
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  configure_ring();
  ASSERT_EQ(device_.running.size(), 1u);
  std::array<iovec, 8> room{};
  Chain chain(room);
  ASSERT_EQ(device_.ring(0).pop(chain), Pop::ready);
  std::uint64_t value = 0;
  std::memcpy(&value, found[2] + 4100, sizeof value);
  EXPECT_EQ(value, 0x1234567890u);
  EXPECT_GE(server.asked_by_backend(), 2u);
  EXPECT_FALSE(server.was_asked_for_the_unknown());
  server.push_all();
  EXPECT_EQ(end(), 0u);
}

TEST_F(SessionPostcopyTest, WatchesMemoryThatWasSharedBefore) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  configure_ring();
  PageServer server(0ms);
  move_out(server, 0);
  const UniqueFd userfault = begin();
  device_.look();
  EXPECT_TRUE(waits(userfault));
  EXPECT_EQ(end(), 0u) << "and whoever waits is woken by the end";
}

TEST_F(SessionPostcopyTest, WatchesNothingAfterTheEnd) {
  const UniqueFd userfault = begin();
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  ASSERT_EQ(end(), 0u);
  EXPECT_EQ(peek(place), std::byte{0});
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done) << "acknowledged as ever";
}

TEST_F(SessionPostcopyTest, WhoWaitsIsWokenWhenTheFrontEndDiesThoughNobodyReadsTheSocket) {
  const UniqueFd userfault = begin();
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  std::atomic<int> got = -1;
  std::jthread reader([&] { got = static_cast<int>(peek(place)); });
  ASSERT_TRUE(waits(userfault));
  frontend_.die();
  reader.join();
  EXPECT_EQ(got, 0);
  EXPECT_EQ(::lseek(memory_.fds()[2].get(), 0, SEEK_DATA), -1) << "no page was made in the file";
  EXPECT_FALSE(frontend_.session().memory_is_whole());
  frontend_.disconnect();
  EXPECT_FALSE(fault_guard::any_lost());
  EXPECT_NE(frontend_.log().back().find("in the middle of postcopy"), std::string::npos);
}

TEST_F(SessionPostcopyTest, WhoWaitsIsWokenWhenTheFrontEndSaysNoMore) {
  const UniqueFd userfault = begin();
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  std::jthread reader([&] { (void)peek(place); });
  ASSERT_TRUE(waits(userfault));
  ASSERT_EQ(::shutdown(frontend_.socket(), SHUT_WR), 0);
  reader.join();
  EXPECT_EQ(::lseek(memory_.fds()[2].get(), 0, SEEK_DATA), -1);
}

TEST_F(SessionPostcopyTest, AWorkerThatWaitsWhenWeEndTheConnectionComesBackAndMakesNoPage) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  configure_ring();
  PageServer server(0ms);
  move_out(server, 0);
  const std::size_t before = open_fds();
  {
    const UniqueFd userfault = begin();
    device_.look();
    ASSERT_TRUE(waits(userfault));
    EXPECT_FALSE(send(Request{77}));
  }
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_EQ(::lseek(memory_.fds()[0].get(), 0, SEEK_DATA), -1);
  EXPECT_LT(open_fds(), before);
}

}  // namespace
}  // namespace vhost::tests
