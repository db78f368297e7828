#include <gmock/gmock.h>

#include "backends/net/frame/headers.hpp"
#include "tests/unit/net/uplink/tap_fixture.hpp"

namespace net::tests {
namespace {

using testing::HasSubstr;

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
      // The kernel gives a flow's frames to the queue that sent some of it last.
      OwnedFrame flow(tcp4_frame(200));
      deliver(*tap, flow.frame, worker);
      EXPECT_EQ(host.receive().second, tcp4_frame(200));
      host.send(tcp4_frame(200));
      EXPECT_EQ(taken(*tap->sources()[worker])->count, 1U) << worker;
    }
  });
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
    if (::geteuid() != 0 || ::setresuid(65534, 65534, 65534) != 0) return;
    EXPECT_THAT(refusal(spec_of()), HasSubstr("give the daemon CAP_NET_ADMIN"));
  });
}

}  // namespace
}  // namespace net::tests
