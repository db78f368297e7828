// A TAP whose interface is deleted while the daemon has it.
#include <linux/rtnetlink.h>

#include "backends/net/forwarding/worker.hpp"
#include "libvhost/ring/barrier.hpp"
#include "tests/fakes/event.hpp"
#include "tests/unit/net/forwarding/fake_sink.hpp"
#include "tests/unit/net/uplink/tap_fixture.hpp"

namespace net::tests {
namespace {

using vhost::UniqueFd;

void delete_interface() {
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  struct {
    nlmsghdr header{};
    ifinfomsg link{};
  } request;
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_DELLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.link.ifi_index = static_cast<int>(::if_nametoindex(interface));
  ASSERT_EQ(::send(socket.get(), &request, sizeof request, 0), ssize_t{sizeof request});
  std::array<char, 1024> answer;
  ASSERT_GT(::recv(socket.get(), answer.data(), answer.size(), 0), 0);
}

/// Serves the interface with a worker of its own, on a patch to nobody.
class Service {
 public:
  explicit Service(Tap& tap) {
    std::vector<PortSetup> ports(2);
    ports[0].sink = &tap;
    ports[1].sink = &nobody_;
    switch_ = std::move(*Switch::create(std::move(ports), {.patch = true}));
    worker_ = std::move(*Worker::start({}, *desks_[0], *switch_));
    EXPECT_TRUE(worker_->post([&] { worker_->add(*tap.sources()[0]); }));
  }
  /// It sleeps, and nothing wakes it.
  [[nodiscard]] bool falls_silent() {
    for (int i = 0; i < 50; ++i) {
      (void)worker_->alive();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const std::uint64_t turns = worker_->stats().turns.value();
      if (turns == std::exchange(turns_, turns) && worker_->alive()) return true;
    }
    return false;
  }

 private:
  FakeSink nobody_;
  Desks desks_ = std::move(*make_desks(1));
  std::unique_ptr<Switch> switch_;
  std::unique_ptr<Worker> worker_;
  std::uint64_t turns_ = 0;
};

TEST_F(TapTest, IsQuietOnceItsInterfaceIsDeleted) {
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    Source& source = *tap->sources()[0];
    delete_interface();
    pollfd wait{source.wake_fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&wait, 1, 0), 1);  // in error, for ever
    EXPECT_TRUE(source.arm());
    EXPECT_EQ(taken(source)->count, 0U);
    EXPECT_EQ(source.wake_fd(), Source::nothing_comes);
    EXPECT_FALSE(source.arm());
    OwnedFrame owned(counting_bytes(100));
    deliver(*tap, owned.frame);
    EXPECT_EQ(tap->to_uplink(0).dropped[static_cast<std::size_t>(Drop::link_down)].value(), 1U);
    EXPECT_FALSE(tap->link_up());
  });
}

TEST_F(TapTest, NoticesTheDeletionWhenItSends) {
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    delete_interface();
    OwnedFrame owned(counting_bytes(100));
    deliver(*tap, owned.frame);
    EXPECT_EQ(tap->to_uplink(0).dropped[static_cast<std::size_t>(Drop::link_down)].value(), 1U);
    EXPECT_EQ(tap->sources()[0]->wake_fd(), Source::nothing_comes);
  });
}

TEST_F(TapTest, LetsItsWorkerSleepOnceItsInterfaceIsDeleted) {
#if defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "a child's thread may get the id that one of ours has, which ends the sanitizer";
#endif
  for (const bool held_elsewhere : {false, true}) {
    in_namespace([&] {
      const int fd = attached(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).release();
      // Then our worker's epoll keeps the interface even if we close it.
      const UniqueFd elsewhere(held_elsewhere ? ::dup(fd) : -1);
      set_up(true);
      const auto tap = opened({}, spec_of("fd:" + std::to_string(fd)));
      ASSERT_TRUE(tap);
      Service service(*tap);
      EXPECT_TRUE(service.falls_silent());
      delete_interface();
      EXPECT_TRUE(vhost::fakes::eventually([&] { return !tap->link_up(); }));
      EXPECT_TRUE(service.falls_silent());
    });
  }
}

}  // namespace
}  // namespace net::tests
