// Front-ends that take away what they shared, that go in the middle of traffic, or come in crowds.
#include "tests/integration/net_hostile.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "libvhost/wire/virtqueue.hpp"

namespace integration {
namespace {

using vhost::Request;
using vhost::UniqueFd;
using vhost::frontend::NetFrame;
using vhost::frontend::NetQueue;
using vhost::frontend::NetSent;
using vhost::frontend::Poll;
using vhost::frontend::Queue;

constexpr std::size_t to_guest = 0;
constexpr std::size_t from_guest = 1;

class NetHostileMemory : public AnyNetHostile {
 protected:
  /// Both rings of the victim offer descriptors of this memory, and somebody sends to it. `heads`
  /// are the victim's, of whom nobody takes back what was offered: none to begin with.
  void traffic(Station& a, std::vector<std::uint16_t>& heads, std::uint64_t guest_address,
               milliseconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    AnyDriverRing& sends = a->device().queue(from_guest).ring();
    while (heads.size() < ring_size) heads.push_back(place_raw(sends, {{guest_address, 2048}}));
    change_descriptors(a->device().queue(to_guest).ring(),
                       [&](Piece& piece) { piece = {guest_address, 2048, vhost::desc_write}; });
    for (std::uint16_t i = 0; std::chrono::steady_clock::now() < end; ++i) {
      sends.offer_raw(heads[i % ring_size]);
      sends.expose();
      a->device().queue(from_guest).kick();
      d->send(a.mac, 1000);
      ::usleep(20);  // not more at once than the ring holds
    }
  }
  [[nodiscard]] NetOptions without_slots() const {
    NetOptions options = rings();
    options.wishes.protocol_features &= ~vhost::bit(vhost::protocol_feature::configure_mem_slots);
    return options;
  }
  /// A few hundred changes of memory while frames are sent and received.
  void swap_under_traffic(const NetOptions& options) {
    Station a = victim(options);
    NetQueue& queue = a->queue(0);
    const Buffer room = must(a.memory().allocate(12 + 1000));
    const Bytes whole = frame(a.mac, d->mac, 1000, 9);
    std::ranges::copy(whole, room.data + 12);
    const Segment piece = room.segment();
    const auto slot = queue.prepare(std::span(&piece, 1));
    ASSERT_TRUE(slot);
    std::atomic<std::uint64_t> sent = 0;
    std::atomic<std::uint64_t> received = 0;
    std::atomic<std::uint64_t> garbled = 0;
    {
      const std::jthread sender([&](const std::stop_token& stop) {
        NetFrame got;
        while (!stop.stop_requested()) {
          queue.start(*slot);
          queue.kick();
          NetSent done;
          if (eventually([&] { return queue.poll_sent(done) == Poll::done; })) ++sent;
          while (queue.receive(got) == Poll::done) {
            Bytes bytes(got.length);
            got.copy_to(bytes);
            if (bytes != frame(d->mac, a.mac, 1200, 8)) ++garbled;
            ++received;
            queue.give_back(got);
          }
        }
      });
      const std::jthread other([&](const std::stop_token& stop) {
        while (!stop.stop_requested()) must((*d)->send(frame(d->mac, a.mac, 1200, 8)));
      });
      const auto enough = [&] { return sent > 100 && received > 100; };
      for (int i = 0; i < 300 || (i < 100'000 && !enough()); ++i) {
        const std::size_t id = must(a->device().add_region(1 << 20));
        must(a->device().remove_region(id));
      }
    }
    EXPECT_GT(sent, 100U);
    EXPECT_GT(received, 100U);
    EXPECT_EQ(garbled, 0U);
    EXPECT_EQ(counted("from_guest", "broken_ring") + counted("to_guest", "broken_ring"), 0U);
  }
};

INSTANTIATE_TEST_SUITE_P(Rings, NetHostileMemory, ::testing::Bool(), layout_name);

TEST_P(NetHostileMemory, BuffersThatAreCutAwayUnderTrafficHarmTheirGuestAlone) {
  for (int round = 0; round < 3; ++round) {
    Station a = victim(small());
    const std::size_t id = must(a->device().add_region(1 << 20));
    const Buffer room = must(a.memory().allocate_in(id, 1 << 16, 4096));
    std::vector<std::uint16_t> heads;
    traffic(a, heads, room.guest_address, milliseconds(20));
    ASSERT_EQ(::ftruncate(a.memory().regions()[id]->fd(), 0), 0);
    traffic(a, heads, room.guest_address, milliseconds(50));
    EXPECT_TRUE(chat->goes_on());
  }
}

TEST_P(NetHostileMemory, RingsThatAreCutAwayUnderTrafficHarmTheirGuestAlone) {
  for (int round = 0; round < 3; ++round) {
    Station a = victim(small());
    const auto& region = *a.memory().regions()[0];
    const auto whole = static_cast<off_t>(region.bytes().size());
    std::vector<std::uint16_t> heads;
    traffic(a, heads, region.guest_address(), milliseconds(20));
    ASSERT_EQ(::ftruncate(region.fd(), 0), 0);
    for (int i = 0; i < 50; ++i) {
      a->device().queue(from_guest).kick();
      d->send(a.mac);
    }
    EXPECT_TRUE(chat->goes_on());
    ASSERT_EQ(::ftruncate(region.fd(), whole), 0);  // for us, who look at it once more
  }
}

TEST_P(NetHostileMemory, RegionsThatComeAndGoDoNotDisturbTraffic) {
  swap_under_traffic(rings());
}

TEST_P(NetHostileMemory, TablesThatReplaceEachOtherDoNotDisturbTraffic) {
  swap_under_traffic(without_slots());
}

// --- descriptors --------------------------------------------------------------------------------

TEST_F(NetHostile, ACallThatWouldBlockBlocksNobody) {
  for (const std::uint64_t ring : {std::uint64_t{to_guest}, std::uint64_t{from_guest}}) {
    Station a = victim({});
    const UniqueFd full(::eventfd(0, EFD_CLOEXEC));  // one that a write waits on
    const std::uint64_t most = ~std::uint64_t{0} - 1;
    ASSERT_EQ(::write(full.get(), &most, sizeof most), 8);
    const int fd = full.get();
    must(a->device().connection().tell(Request::set_vring_call, ring, std::span(&fd, 1)));
    NetQueue& queue = a->queue(0);
    const Buffer room = must(a.memory().allocate(12 + 100));
    std::ranges::copy(frame(a.mac, d->mac), room.data + 12);
    const Segment piece = room.segment();
    const auto slot = queue.prepare(std::span(&piece, 1));
    ASSERT_TRUE(slot);
    for (int i = 0; i < 50; ++i) {
      queue.start(*slot);
      queue.kick();
      NetSent sent;
      ASSERT_TRUE(eventually([&] { return queue.poll_sent(sent) == Poll::done; })) << ring << i;
      d->send(a.mac);
      NetFrame got;
      ASSERT_TRUE(eventually([&] { return queue.receive(got) == Poll::done; })) << ring << i;
      queue.give_back(got);
    }
    EXPECT_TRUE(chat->goes_on());
  }
}

TEST_F(NetHostile, OneThatMakesItsCallsBlockAgainAndAgainDisturbsTheOthersOnce) {
  const auto hung = [&] {
    return read_stats(stats)["ports"][0]["connection"]["hung_calls"].get<std::uint64_t>();
  };
  for (int connection = 0; connection < 2; ++connection) {
    Station a = victim({});
    const int call = a->device().queue(to_guest).call_fd();
    std::jthread hostile([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        // Full again after each of the daemon's calls, and what it does to free itself is undone.
        std::uint64_t count = 0;
        const std::uint64_t most = ~std::uint64_t{0} - 1;
        ::fcntl(call, F_SETFL, O_NONBLOCK);
        if (pollfd room{call, POLLOUT, 0}; ::poll(&room, 1, 0) == 1) {
          (void)!::read(call, &count, sizeof count);
          (void)!::write(call, &most, sizeof most);
        }
        ::fcntl(call, F_SETFL, 0);
        ::usleep(100);
      }
    });
    const std::jthread sender([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        d->send(a.mac);
        NetFrame got;
        while (a->queue(0).receive(got) == Poll::done) a->queue(0).give_back(got);
        (void)a->device().queue(to_guest).ring().arm_calls();
        ::usleep(500);
      }
    });
    EXPECT_TRUE(eventually([&] { return hung() == 1; })) << hung();
    // From now on nobody waits for it, however often it tries.
    for (int second = 0; second < 3; ++second) {
      const auto began = std::chrono::steady_clock::now();
      EXPECT_TRUE(chat->goes_on(500));
      EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(2000) * slowness);
      ::usleep(200'000);
    }
    hostile = {};
    ::fcntl(call, F_SETFL, O_NONBLOCK);
  }
  EXPECT_EQ(hung(), 1U);
}

// --- coming and going ---------------------------------------------------------------------------

TEST_F(NetHostile, OnesThatGoInTheMiddleOfTrafficHarmNobody) {
  std::jthread sender([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) must((*d)->send(frame(d->mac, {2, 0, 0, 0, 0, 1})));
  });
  for (int round = 0; round < 30; ++round) {
    Station a = victim({});
    NetQueue& queue = a->queue(0);
    const Buffer room = must(a.memory().allocate(12 + 1000));
    std::ranges::copy(frame(a.mac, d->mac, 1000), room.data + 12);
    const Segment piece = room.segment();
    for (int i = 0; i < 100; ++i) {
      const auto slot = queue.prepare(std::span(&piece, 1));
      ASSERT_TRUE(slot);
      queue.start(*slot);
    }
    queue.kick();
    ::usleep(static_cast<unsigned>(round) * 20);
    ::shutdown(a->device().connection().fd(), SHUT_RDWR);
  }
  sender = {};
  EXPECT_GT(read_stats(stats)["ports"][0]["connection"]["connections"], 20);
}

TEST_F(NetHostile, ACrowdAtTheSocketsHarmsNobody) {
  const auto knock = [&](const std::string& name) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = socket(name);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    (void)::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    return fd;
  };
  for (int round = 0; round < 20; ++round) {
    std::vector<UniqueFd> crowd;
    for (int i = 0; i < 50; ++i) {
      for (const char* name : {"a", "b", "d"}) crowd.push_back(knock(name));
      (void)!::send(crowd.back().get(), "vhost", 5, MSG_NOSIGNAL);
    }
    EXPECT_TRUE(chat->goes_on(1));
  }
}

}  // namespace
}  // namespace integration
