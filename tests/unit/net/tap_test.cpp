#include "backends/net/tap.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/ethernet.h>
#include <net/if.h>

#include "backends/net/headers.hpp"
#include "tests/unit/net/tcp_frame.hpp"

/*
 * With the host's kernel, in a network namespace of each test's own. A child makes it, so that the
 * other tests stay where they are, and that it goes away with all interfaces however the test ends.
 */
namespace net::tests {
namespace {

using testing::HasSubstr;
using vhost::UniqueFd;

constexpr int no_namespace = 77;
constexpr const char* interface = "uplink-t0";

/// Runs `body` in a namespace; its failures are the test's.
void in_namespace(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const int user = ::geteuid() == 0 ? 0 : CLONE_NEWUSER;
    if (::unshare(user | CLONE_NEWNET) != 0) ::_exit(no_namespace);
    // The kernel's own frames would come between ours.
    std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << 1;
    body();
    std::fflush(nullptr);
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == no_namespace) {
    GTEST_SKIP() << "no network namespace may be made here";
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "in the child, see above";
}

bool no_tun() {
  return ::access("/dev/net/tun", R_OK | W_OK) != 0;
}

UplinkSpec spec_of(const std::string& text = std::string("tap:") + interface) {
  return parse_uplink(text).value();
}

std::unique_ptr<Tap> opened(const UplinkSetup& setup, const UplinkSpec& spec = spec_of()) {
  auto tap = Tap::open(spec, setup);
  if (!tap) {
    ADD_FAILURE() << tap.error().what;
    return nullptr;
  }
  return std::move(*tap);
}

std::string refusal(const UplinkSpec& spec, const UplinkSetup& setup = {}) {
  const auto tap = Tap::open(spec, setup);
  if (tap) return "opened";
  EXPECT_EQ(tap.error().fault, vhost::Fault::operator_);
  return tap.error().what;
}

void set_up(bool up, const char* name = interface) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  ASSERT_EQ(::ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
  request.ifr_flags =
      static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  ASSERT_EQ(::ioctl(socket.get(), SIOCSIFFLAGS, &request), 0);
}

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

/// Somebody in the host's kernel who sends and receives on the interface, with virtio-net headers.
class HostSocket {
 public:
  HostSocket() : socket_(::socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL))) {
    const int on = 1;
    EXPECT_EQ(::setsockopt(socket_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on), 0);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(interface));
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }

  void send(std::span<const std::byte> frame, VnetHeader header = {}) const {
    const std::array from{iovec{&header, sizeof header},
                          iovec{const_cast<std::byte*>(frame.data()), frame.size()}};
    EXPECT_EQ(::writev(socket_.get(), from.data(), from.size()),
              static_cast<ssize_t>(sizeof header + frame.size()))
        << std::strerror(errno);
  }
  /// What comes within a second.
  std::pair<VnetHeader, std::vector<std::byte>> receive() const {
    pollfd wait{socket_.get(), POLLIN, 0};
    VnetHeader header{};
    std::vector<std::byte> frame(70'000);
    if (::poll(&wait, 1, 1000) != 1) return {};
    const std::array to{iovec{&header, sizeof header}, iovec{frame.data(), frame.size()}};
    const ssize_t bytes = ::readv(socket_.get(), to.data(), to.size());
    frame.resize(static_cast<std::size_t>(std::max<ssize_t>(bytes, sizeof header)) - sizeof header);
    return {header, std::move(frame)};
  }

 private:
  UniqueFd socket_;
};

void deliver(Tap& tap, Frame& frame, unsigned worker = 0) {
  Frame* const one = &frame;
  tap.deliver({&one, 1}, worker);
  tap.flush(worker);
}

/// A burst with what comes within a second.
std::unique_ptr<Burst> taken(Source& source) {
  auto burst = std::make_unique<Burst>();
  burst->room.resize(source.room_needed());
  pollfd wait{source.wake_fd(), POLLIN, 0};
  (void)::poll(&wait, 1, 1000);
  (void)source.take(*burst);
  return burst;
}

class TapTest : public testing::Test {
 protected:
  void SetUp() override {
    if (no_tun()) GTEST_SKIP() << "no /dev/net/tun here";
  }
};

TEST_F(TapTest, ReachesTheHostAndIsReached) {
  in_namespace([] {
    const auto tap = opened({.port = PortId{4}});
    ASSERT_TRUE(tap);
    const HostSocket host;
    OwnedFrame owned(counting_bytes(1514), 500);
    deliver(*tap, owned.frame);
    EXPECT_EQ(host.receive().second, counting_bytes(1514));
    EXPECT_EQ(tap->to_uplink(0).frames.value(), 1U);
    EXPECT_EQ(tap->to_uplink(0).bytes.value(), 1514U);

    host.send(counting_bytes(1000));
    Source& source = *tap->sources()[0];
    const auto burst = taken(source);
    ASSERT_EQ(burst->count, 1U);
    EXPECT_EQ(bytes_of(burst->frames[0]), counting_bytes(1000));
    EXPECT_EQ(source.port(), PortId{4});
    EXPECT_TRUE(tap->link_up());
    EXPECT_EQ(tap->interface(), interface);
    EXPECT_EQ(tap->driver(), "tap");
  });
}

TEST_F(TapTest, CarriesLongSegmentationsBothWaysInOnePiece) {
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    const HostSocket host;
    constexpr std::size_t length = 65535 + ethernet_bytes;
    const VnetHeader undone{needs_csum, gso::tcp4, 54, 1448, 34, 16};
    OwnedFrame owned(tcp4_frame(length), 4096, Frame::longest_head);
    owned.frame.offload = undone;
    deliver(*tap, owned.frame);
    const auto [header, frame] = host.receive();
    EXPECT_EQ(frame, tcp4_frame(length));
    EXPECT_EQ(header.gso_type, gso::tcp4);
    EXPECT_EQ(header.gso_size, 1448);
    EXPECT_EQ(tap->to_uplink(0).segmented.value(), 0U);

    host.send(tcp4_frame(60'000), undone);
    const auto burst = taken(*tap->sources()[0]);
    ASSERT_EQ(burst->count, 1U);
    EXPECT_EQ(bytes_of(burst->frames[0]), tcp4_frame(60'000));
    EXPECT_EQ(burst->frames[0].offload.gso_type, gso::tcp4);
    EXPECT_EQ(burst->frames[0].offload.gso_size, 1448);
    EXPECT_EQ(burst->frames[0].offload.flags, needs_csum);
  });
}

TEST_F(TapTest, LeavesChecksumsToTheHost) {
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    const HostSocket host;
    OwnedFrame owned(tcp4_frame(500));
    owned.frame.offload = {needs_csum, gso::none, 0, 0, 34, 16};
    deliver(*tap, owned.frame);
    const auto [header, frame] = host.receive();
    EXPECT_EQ(frame, tcp4_frame(500));
    EXPECT_EQ(header.flags & needs_csum, needs_csum);
    EXPECT_EQ(header.csum_start, 34);
  });
}

TEST_F(TapTest, HasTheMtuThatIsAskedFor) {
  in_namespace([] {
    const auto tap = opened({.mtu = 9000});
    ASSERT_TRUE(tap);
    EXPECT_EQ(tap->mtu(), 9000);
    const HostSocket host;
    OwnedFrame owned(counting_bytes(9014));
    deliver(*tap, owned.frame);
    EXPECT_EQ(host.receive().second, counting_bytes(9014));
    host.send(counting_bytes(9014));
    const auto burst = taken(*tap->sources()[0]);
    ASSERT_EQ(burst->count, 1U);
    EXPECT_EQ(bytes_of(burst->frames[0]), counting_bytes(9014));
  });
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    EXPECT_EQ(tap->mtu(), 1500);
    EXPECT_THAT(refusal(spec_of("tap:uplink-t1"), {.mtu = 67}),
                HasSubstr("cannot set an MTU of 67"));
  });
}

TEST_F(TapTest, DropsWhileTheInterfaceIsDown) {
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    set_up(false);
    OwnedFrame owned(counting_bytes(100));
    deliver(*tap, owned.frame);
    EXPECT_EQ(tap->to_uplink(0).dropped[static_cast<std::size_t>(Drop::link_down)].value(), 1U);
    EXPECT_FALSE(tap->link_up());
    set_up(true);
    deliver(*tap, owned.frame);
    EXPECT_EQ(tap->to_uplink(0).frames.value(), 1U);
    EXPECT_TRUE(tap->link_up());
  });
}

TEST_F(TapTest, IsQuietOnceItsInterfaceIsDeleted) {
  in_namespace([] {
    const auto tap = opened({});
    ASSERT_TRUE(tap);
    Source& source = *tap->sources()[0];
    delete_interface();
    pollfd wait{source.wake_fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&wait, 1, 0), 1);  // in error, for ever
    EXPECT_EQ(taken(source)->count, 0U);
    wait.fd = source.wake_fd();
    EXPECT_EQ(::poll(&wait, 1, 0), 0);
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
    pollfd wait{tap->sources()[0]->wake_fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&wait, 1, 0), 0);
  });
}

TEST_F(TapTest, HasAQueueForEachWorker) {
  in_namespace([] {
    const auto tap = opened({.workers = 3});
    ASSERT_TRUE(tap);
    EXPECT_EQ(tap->queues(), 3U);
    const HostSocket host;
    for (const unsigned worker : {0U, 1U, 2U}) {
      OwnedFrame owned(counting_bytes(100 + worker));
      deliver(*tap, owned.frame, worker);
      EXPECT_EQ(host.receive().second, counting_bytes(100 + worker));
      EXPECT_EQ(tap->to_uplink(worker).frames.value(), 1U);
    }
  });
}

/// A descriptor that is attached to the interface with these flags.
UniqueFd attached(short flags, bool persistent = false) {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR));
  ifreq request{};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  request.ifr_flags = flags;
  EXPECT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
  if (persistent) {
    EXPECT_EQ(::ioctl(fd.get(), TUNSETPERSIST, 1), 0);
  }
  return fd;
}

TEST_F(TapTest, AttachesToAnInterfaceOfOneQueue) {
  in_namespace([] {
    attached(IFF_TAP | IFF_NO_PI, true);
    const auto tap = opened({.workers = 2});
    ASSERT_TRUE(tap);
    EXPECT_EQ(tap->queues(), 1U);
    EXPECT_FALSE(tap->link_up());  // its state is its owner's
    set_up(true);
    const HostSocket host;
    OwnedFrame owned(counting_bytes(100));
    deliver(*tap, owned.frame, 1);
    EXPECT_EQ(host.receive().second, counting_bytes(100));
    EXPECT_THAT(refusal(spec_of()), HasSubstr("is in use by another process"));
  });
}

TEST_F(TapTest, RefusesInterfacesOfOtherKinds) {
  in_namespace([] {
    EXPECT_THAT(refusal(spec_of("tap:lo")), HasSubstr("another kind than TAP"));
    EXPECT_THAT(refusal(spec_of("macvtap:none")), HasSubstr("ip link add link LOWER name none"));
    EXPECT_THAT(refusal(spec_of("macvtap:lo")), HasSubstr("there is no /dev/tap1"));
  });
}

TEST_F(TapTest, TakesADescriptorThatIsAttached) {
  in_namespace([] {
    const int fd = attached(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).release();
    set_up(true);
    const auto tap = opened({}, spec_of("fd:" + std::to_string(fd)));
    ASSERT_TRUE(tap);
    EXPECT_EQ(tap->interface(), interface);
    const HostSocket host;
    OwnedFrame owned(tcp4_frame(3000));
    owned.frame.offload = {needs_csum, gso::tcp4, 0, 1000, 34, 16};
    deliver(*tap, owned.frame);
    EXPECT_EQ(host.receive().second, tcp4_frame(3000));
    EXPECT_FALSE(tap->sources()[0]->arm());
    EXPECT_EQ(taken(*tap->sources()[0])->count, 0U);  // and did not block
  });
}

TEST_F(TapTest, RefusesOtherDescriptors) {
  in_namespace([] {
    EXPECT_THAT(refusal(spec_of("fd:999")), HasSubstr("descriptor 999 is not open"));
    const auto as_fd = [](int fd) { return spec_of("fd:" + std::to_string(fd)); };
    EXPECT_THAT(refusal(as_fd(::open("/dev/null", O_RDWR))), HasSubstr("is no TAP"));
    EXPECT_THAT(refusal(as_fd(::open("/dev/net/tun", O_RDWR))), HasSubstr("TUNSETIFF first"));
    EXPECT_THAT(refusal(as_fd(attached(IFF_TAP | IFF_NO_PI).release())),
                HasSubstr("has other flags"));
    EXPECT_THAT(refusal(as_fd(attached(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR).release())),
                HasSubstr("has other flags"));
    const short many = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    const int first = attached(many).release();
    const int second = attached(many).release();
    const auto both = spec_of("fd:" + std::to_string(first) + '+' + std::to_string(second));
    EXPECT_THAT(refusal(both), HasSubstr("2 queues for 1 workers"));
  });
}

TEST_F(TapTest, NeedsPermissionToMakeAnInterface) {
  in_namespace([] {
    if (::geteuid() != 0) return;
    ASSERT_EQ(::setresuid(65534, 65534, 65534), 0);
    EXPECT_THAT(refusal(spec_of()), HasSubstr("give the daemon CAP_NET_ADMIN"));
  });
}

}  // namespace
}  // namespace net::tests
