#include <sys/socket.h>

#include <thread>

#include "tests/unit/session/session_iommu_fixture.hpp"

/* The channel on which misses go out: what it has room for, and what comes back on it. */
namespace vhost::tests {
namespace {

class SessionIommuChannelTest : public SessionIommuTest {
 protected:
  void open_another() {
    std::array<int, 2> pair{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    ours_ = UniqueFd(pair[0]);
    theirs_ = UniqueFd(pair[1]);
    reader_ = {};
    ASSERT_EQ(frontend_.tell(Request::set_backend_req_fd, {}, std::array{theirs_.get()}),
              Outcome::done);
  }
  void miss(std::uint32_t pages) {
    driver_.add({{data + shift, static_cast<std::uint32_t>(pages * page)}});
    ASSERT_EQ(pop(), Pop::empty);
  }
  std::ptrdiff_t closed() {
    return std::ranges::count_if(frontend_.log(), [](const std::string& line) {
      return line.find("the back-end channel is closed") != std::string::npos;
    });
  }
};

TEST_F(SessionIommuChannelTest, IsClosedByWhatIsNoReplyToAMiss) {
  constexpr auto right = static_cast<std::uint32_t>(BackendRequest::iotlb_msg);
  constexpr auto other = static_cast<std::uint32_t>(BackendRequest::config_change);
  const std::vector<std::byte> bytes(16);
  const auto eight = std::span(bytes).first(8);
  const std::array fd{kick_.get()};
  run();
  miss(1);
  struct Wrong {
    std::uint32_t request, flags;
    std::span<const std::byte> payload;
    std::span<const int> fds;
  };
  std::ptrdiff_t wrongs = 0;
  for (const Wrong& wrong :
       {Wrong{right, header_reply, std::span(bytes).first(4), {}},
        Wrong{right, header_reply, bytes, {}}, Wrong{right, header_reply, {}, {}},
        Wrong{right, 0, eight, {}}, Wrong{right, header_reply | header_need_reply, eight, {}},
        Wrong{other, header_reply, eight, {}}, Wrong{right, header_reply, eight, fd}}) {
    EXPECT_EQ(misses().size(), 1u) << "it is asked for again";
    ASSERT_TRUE(send_message(ours_.get(), wrong.request, wrong.flags, wrong.payload, wrong.fds));
    frontend_.turn();
    EXPECT_EQ(closed(), ++wrongs);
    open_another();
  }
  EXPECT_EQ(misses().size(), 1u);
  reply(1);
  EXPECT_EQ(closed(), wrongs);
  EXPECT_EQ(frontend_.session().info().iommu.refused, 1u);
}

TEST_F(SessionIommuChannelTest, HalfAMessageIsForgottenWithItsChannel) {
  run();
  miss(1);
  ASSERT_EQ(misses().size(), 1u);
  ASSERT_EQ(::send(ours_.get(), "\4\0\0\0\5", 5, 0), 5);
  frontend_.turn();
  open_another();
  ASSERT_EQ(misses().size(), 1u);
  reply(1);
  EXPECT_EQ(closed(), 0);
  EXPECT_EQ(frontend_.session().info().iommu.refused, 1u);
}

TEST_F(SessionIommuChannelTest, WhatHasNoRoomIsSentLater) {
  const int least = 1;
  ASSERT_EQ(::setsockopt(theirs_.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof least), 0);
  run();
  miss(40);
  std::size_t asked = misses().size();
  EXPECT_GT(asked, 0u);
  EXPECT_LT(asked, 40u);
  const auto began = std::chrono::steady_clock::now();
  while (asked < 40) {
    ASSERT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    asked += misses().size();
  }
  EXPECT_EQ(asked, 40u);
  EXPECT_EQ(frontend_.session().info().iommu.refused, 0u);
}

TEST_F(SessionIommuChannelTest, AnUpdateMakesRoomForTheNextMiss) {
  constexpr auto protocol = static_cast<std::uint32_t>(Request::set_protocol_features);
  constexpr std::uint64_t usual = FakeFrontend::usual_protocol_features;
  begin(usual & ~bit(protocol_feature::reply_ack));
  ASSERT_TRUE(frontend_.send(protocol, bytes_of(usual)));
  set_up();
  ASSERT_EQ(update(GuestMemory::low), 0u);
  ASSERT_TRUE(frontend_.send(protocol, bytes_of(usual & ~bit(protocol_feature::reply_ack))));
  ASSERT_TRUE(frontend_.send(static_cast<std::uint32_t>(Request::set_vring_enable),
                             bytes_of(VringState{0, 1})));
  ASSERT_TRUE(runs());
  miss(Iommu::most_sent + 2);
  EXPECT_EQ(misses().size(), Iommu::most_sent);
  EXPECT_EQ(update(data), 0u);
  EXPECT_EQ(misses().size(), 1u) << "at once";
  EXPECT_FALSE(asks_for_reply_);
}

TEST_F(SessionIommuChannelTest, ADriverThatChangesItsMindHasOnlySoMuchAskedFor) {
  run();
  const std::uint16_t head = driver_.add({{data + shift, 1}});
  for (std::uint64_t round = 0; round < 4; ++round) {
    driver_.descriptor(head, {(round + 1) << 40, 300 * page, 0, 0});
    ASSERT_EQ(update(data + 9 * page), 0u);  // so that it looks again
    ASSERT_EQ(pop(), Pop::empty);
    frontend_.turn();
    EXPECT_EQ(frontend_.session().info().unanswered_misses,
              std::min((round + 1) * Ledger::most_wanted, Iommu::most_of_a_ring));
  }
}

}  // namespace
}  // namespace vhost::tests
