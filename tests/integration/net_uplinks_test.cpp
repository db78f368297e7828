// Uplinks that need more than the daemon alone: interfaces of the kernel, and a second process at
// the other end of one of DPDK's devices. Each carries frames both ways.
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include <net/if.h>

#include "tests/integration/net_fixture.hpp"

namespace integration {
namespace {

constexpr std::uint16_t for_experiments = 0x88b5;  // the type of our frames (IEEE 802)

/// The far end of a cable, whose near end is the uplink's: two interfaces in a network namespace of
/// the test's own.
class Cable {
 public:
  static constexpr const char* near = "vub0";

  /// False: it cannot be made here.
  [[nodiscard]] bool plug_in() {
    if (::unshare(CLONE_NEWNET) != 0) return false;
    std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << 1;
    if (std::system("ip link add vub0 type veth peer name vub1 2>/dev/null &&"
                    " ip link set vub0 up && ip link set vub1 up") != 0) {
      return false;
    }
    socket_ = vhost::UniqueFd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(for_experiments)));
    sockaddr_ll far{};
    far.sll_family = AF_PACKET;
    far.sll_protocol = htons(for_experiments);
    far.sll_ifindex = static_cast<int>(::if_nametoindex("vub1"));
    return socket_ &&
           ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&far), sizeof far) == 0;
  }
  void send(const Bytes& bytes) const {
    ASSERT_EQ(::send(socket_.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
  }
  /// The next frame; empty if none comes.
  [[nodiscard]] Bytes receive() const {
    pollfd look{socket_.get(), POLLIN, 0};
    Bytes bytes(2000);
    if (::poll(&look, 1, static_cast<int>(long_wait.count())) != 1) return {};
    bytes.resize(static_cast<std::size_t>(::recv(socket_.get(), bytes.data(), bytes.size(), 0)));
    return bytes;
  }

 private:
  vhost::UniqueFd socket_;
};

class NetKernelUplinks : public NetServed, public ::testing::WithParamInterface<const char*> {};

TEST_P(NetKernelUplinks, CarryFramesBothWays) {
  const bool xdp = std::string_view(GetParam()).starts_with("af_xdp");
  if (xdp && !vhost::UniqueFd(::socket(AF_XDP, SOCK_RAW, 0))) GTEST_SKIP() << "no AF_XDP";
  Cable cable;
  if (!cable.plug_in()) GTEST_SKIP() << "no network namespace, or no veth";
  serve({"--port", port("a"), "--uplink", std::string(GetParam()) + Cable::near});
  Station a = guest("a", 1);
  const MacAddress world{2, 0, 0, 0, 0, 9};
  for (const std::size_t bytes : {std::size_t{60}, std::size_t{1514}}) {
    a.send(world, bytes, 3);
    EXPECT_EQ(cable.receive(), frame(a.mac, world, bytes, 3));
    cable.send(frame(world, a.mac, bytes, 5));
    EXPECT_EQ(a.receive(), frame(world, a.mac, bytes, 5));
  }
  EXPECT_EQ(daemon->terminate(), good_end) << daemon->words();
}

INSTANTIATE_TEST_SUITE_P(Dpdk, NetKernelUplinks, ::testing::Values("af_packet:", "af_xdp:"),
                         [](const auto& parameter) {
                           const std::string text(parameter.param);
                           return text.substr(0, text.size() - 1);
                         });

class NetTwoDaemons : public NetServed {
 protected:
  /// Frames reach the other guest, once both daemons see each other.
  static void expect_carries(Station& from, Station& to) {
    EXPECT_TRUE(eventually([&] {
      from.send(to.mac, 700, 3);
      const auto received = to->receive(milliseconds(100));
      return received && received->bytes == frame(from.mac, to.mac, 700, 3);
    }));
  }
};

TEST_F(NetTwoDaemons, ShareMemoryByMemif) {
  const std::string device = "net_memif0,id=0,socket-abstract=no,socket=" + folder / "memif";
  serve({"--port", port("a"), "--uplink", device + ",role=server"});
  (void)read_stats(stats);
  Daemon other(folder, {"--port", port("b"), "--uplink", device + ",role=client"},
               {.program = "VHOST_USER_NET"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  expect_carries(a, b);
  expect_carries(b, a);
  EXPECT_EQ(other.terminate(), good_end) << other.words();
}

TEST_F(NetTwoDaemons, AreBackEndAndDriverByVirtioUser) {
  serve({"--port", port("other"), "--port", port("b")});
  (void)read_stats(stats);
  Daemon other(folder,
               {"--port", port("a"), "--uplink", "net_virtio_user0,path=" + socket("other")},
               {.program = "VHOST_USER_NET"});
  Station a = guest("a", 1);
  Station b = guest("b", 2);
  expect_carries(a, b);
  expect_carries(b, a);
  EXPECT_EQ(other.terminate(), good_end) << other.words();
}

}  // namespace
}  // namespace integration
