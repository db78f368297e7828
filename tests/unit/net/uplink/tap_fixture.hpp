#pragma once
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include <gtest/gtest.h>
#include <net/ethernet.h>
#include <net/if.h>

#include "backends/net/uplink/tap.hpp"
#include "tests/unit/net/frame/tcp_frame.hpp"

/*
 * With the host's kernel, in a network namespace of each test's own. A child makes it, so that the
 * other tests stay where they are, and that it goes away with all interfaces however the test ends.
 */
namespace net::tests {

inline constexpr int no_namespace = 77;
inline constexpr const char* interface = "uplink-t0";

/// Runs `body` in a namespace; its failures are the test's.
inline void in_namespace(const std::function<void()>& body) {
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

inline UplinkSpec spec_of(const std::string& text = std::string("tap:") + interface) {
  return parse_uplink(text).value();
}

inline std::unique_ptr<Tap> opened(const UplinkSetup& setup, const UplinkSpec& spec = spec_of()) {
  auto tap = Tap::open(spec, setup);
  if (!tap) {
    ADD_FAILURE() << tap.error().what;
    return nullptr;
  }
  return std::move(*tap);
}

inline std::string refusal(const UplinkSpec& spec, const UplinkSetup& setup = {}) {
  const auto tap = Tap::open(spec, setup);
  if (tap) return "opened";
  EXPECT_EQ(tap.error().fault, vhost::Fault::operator_);
  return tap.error().what;
}

inline void set_up(bool up, const char* name = interface) {
  const vhost::UniqueFd socket(::socket(AF_INET, SOCK_DGRAM, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  ASSERT_EQ(::ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
  request.ifr_flags =
      static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  ASSERT_EQ(::ioctl(socket.get(), SIOCSIFFLAGS, &request), 0);
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
  vhost::UniqueFd socket_;
};

inline void deliver(Tap& tap, Frame& frame, unsigned worker = 0) {
  Frame* const one = &frame;
  tap.deliver({&one, 1}, worker);
}

/// A burst with what comes within a second.
inline std::unique_ptr<Burst> taken(Source& source) {
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
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/net/tun here";
  }
};

/// A descriptor that is attached to the interface with these flags.
inline vhost::UniqueFd attached(short flags, bool persistent = false) {
  vhost::UniqueFd fd(::open("/dev/net/tun", O_RDWR));
  ifreq request{};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  request.ifr_flags = flags;
  EXPECT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
  if (persistent) {
    EXPECT_EQ(::ioctl(fd.get(), TUNSETPERSIST, 1), 0);
  }
  return fd;
}

}  // namespace net::tests
