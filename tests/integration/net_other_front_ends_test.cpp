// A network device under the messages of cloud-hypervisor and crosvm, with frames.
#include "libvhost/frontend/net_queue.hpp"
#include "tests/integration/net_fixture.hpp"
#include "tests/integration/other_front_ends.hpp"

namespace integration {
namespace {

using nlohmann::json;
using vhost::bit;
using vhost::has;
using vhost::frontend::NetFrame;
using vhost::frontend::NetQueue;
using vhost::frontend::NetQueueOptions;
using vhost::frontend::NetSent;
using vhost::frontend::Poll;
namespace net_feature = vhost::frontend::net_feature;

constexpr std::uint64_t known_net_features =
    bit(net_feature::mrg_rxbuf) | bit(net_feature::ctrl_vq) | bit(net_feature::guest_announce) |
    bit(net_feature::mac) | bit(net_feature::mtu) | bit(net_feature::mq) | bit(net_feature::csum) |
    bit(net_feature::guest_csum) | bit(net_feature::host_tso4) | bit(net_feature::host_tso6) |
    bit(net_feature::host_ecn) | bit(net_feature::host_ufo) | bit(net_feature::guest_tso4) |
    bit(net_feature::guest_tso6) | bit(net_feature::guest_ecn) | bit(net_feature::guest_ufo);
/// What a driver accepts that has no large buffers.
constexpr std::uint64_t small = bit(vhost::feature::version_1) | bit(vhost::feature::event_idx) |
                                bit(vhost::feature::in_order) | bit(net_feature::mrg_rxbuf);

/// The driver of one pair, from one activation to the next.
class Pair {
 public:
  Pair(FrontEnd& front_end, std::uint32_t number)
      : queue_(must(NetQueue::create(front_end.memory(), front_end.queue(2 * number),
                                     front_end.queue(2 * number + 1), options()))),
        room_(must(front_end.memory().allocate(2048))) {
    queue_.post();
    queue_.kick();
  }
  void send(const Bytes& bytes) {
    std::ranges::copy(bytes, room_.data);
    const vhost::frontend::Segment segment =
        room_.segment(0, static_cast<std::uint32_t>(bytes.size()));
    if (!queue_.send({}, std::span(&segment, 1))) throw std::runtime_error("no room");
    queue_.kick();
    NetSent sent;
    EXPECT_TRUE(eventually([&] { return queue_.poll_sent(sent) == Poll::done; }));
  }
  /// The next frame; nothing if there is none.
  [[nodiscard]] Bytes poll() {
    NetFrame frame;
    if (queue_.receive(frame) != Poll::done) return {};
    Bytes bytes(frame.length);
    frame.copy_to(bytes);
    queue_.give_back(frame);
    queue_.kick();
    return bytes;
  }

 private:
  [[nodiscard]] static NetQueueOptions options() {
    NetQueueOptions options;
    options.mergeable = true;
    return options;
  }
  NetQueue queue_;
  vhost::frontend::Buffer room_;
};

constexpr MacAddress guest_mac{2, 0, 0, 0, 0, 0xaa};

class NetOtherFrontEnds : public NetServed {
 protected:
  void TearDown() override { EXPECT_EQ(daemon->terminate(), good_end) << daemon->words(); }

  /// Frames go from each pair to the other guest, and from there to one of the pairs.
  static void expect_talk(std::span<Pair> pairs, Station& other, unsigned seed) {
    for (Pair& pair : pairs) {
      pair.send(frame(guest_mac, other.mac, 1000, ++seed));
      EXPECT_EQ(other.receive(), frame(guest_mac, other.mac, 1000, seed));
    }
    other.send(guest_mac, 900, seed);
    Bytes heard;
    EXPECT_TRUE(eventually([&] {
      for (Pair& pair : pairs) {
        if (heard.empty()) heard = pair.poll();
      }
      return !heard.empty();
    }));
    EXPECT_EQ(heard, frame(other.mac, guest_mac, 900, seed));
  }
  [[nodiscard]] static std::vector<Pair> pairs_of(FrontEnd& front_end) {
    std::vector<Pair> pairs;
    for (std::uint32_t i = 0; i < front_end.rings() / 2; ++i) pairs.emplace_back(front_end, i);
    return pairs;
  }
  /// VIRTIO 5.1.3.1: Linux refuses a device that has one of these without a control queue.
  static void expect_no_need_of_a_control_queue(std::uint64_t features) {
    for (const unsigned number : {18U, 19U, 20U, 21U, 22U, 23U, 57U, 60U}) {
      EXPECT_TRUE(!has(features, number) || has(features, net_feature::ctrl_vq)) << number;
    }
  }
};

class CloudHypervisorNet : public NetOtherFrontEnds {
 protected:
  [[nodiscard]] CloudHypervisor machine(std::uint32_t rings = 2) const {
    return {socket("a"), rings, known_net_features};
  }
};

TEST_F(CloudHypervisorNet, CountsRingsAndIsServedOnAll) {
  serve({"--port", port("a", "queues=2"), "--port", port("b")});
  Station other = guest("b", 2);
  auto front_end = machine(4);
  for (const unsigned seed : {10U, 20U}) {
    front_end.activate(front_end.passed_on() & small);
    auto pairs = pairs_of(front_end);
    expect_talk(pairs, other, seed);
    front_end.pause();
    front_end.resume();
    expect_talk(pairs, other, seed + 5);
    front_end.reset();
  }
  EXPECT_THROW((void)machine(5), std::runtime_error) << "there are no more";
}

TEST_F(CloudHypervisorNet, ShowsItsGuestNothingThatNeedsWhatIsNotThere) {
  serve({"--port", port("a"), "--port", port("b", "config,mac=02:00:00:00:00:aa")});
  const auto features = machine().passed_on();
  expect_no_need_of_a_control_queue(features);
  EXPECT_TRUE(has(features, net_feature::mq)) << "it serves a control queue itself";
  CloudHypervisor front_end(socket("b"), 2, known_net_features);
  expect_no_need_of_a_control_queue(front_end.passed_on());
  EXPECT_EQ(front_end.read_config(12)[5], std::byte{0xaa});
}

TEST_F(CloudHypervisorNet, ANextBackEndGoesOnBehindWhatWasUsed) {
  const Strings flags{"--port", port("a"), "--port", port("b")};
  serve(flags);
  Station other = guest("b", 2);
  auto front_end = machine();
  front_end.activate(front_end.passed_on() & small);
  auto pairs = pairs_of(front_end);
  for (unsigned round = 0; round < 3; ++round) {
    expect_talk(pairs, other, round);
    daemon->kill();
    serve(flags);
    front_end.reconnect(socket("a"));
    must(other->reconnect(connect(socket("b"))));
  }
  for (unsigned seed = 0; seed < 100; ++seed) expect_talk(pairs, other, seed);
}

class CrosvmNet : public NetOtherFrontEnds {};

TEST_F(CrosvmNet, LeavesTheConfigurationToUsAndHasOnePair) {
  serve({"--port", port("a", "config,mac=02:00:00:00:00:aa,queues=1"), "--port", port("b")});
  Station other = guest("b", 2);
  Crosvm front_end(socket("a"));
  expect_no_need_of_a_control_queue(front_end.passed_on());
  EXPECT_FALSE(has(front_end.passed_on(), net_feature::ctrl_vq)) << "it would not serve it";
  for (std::uint32_t i = 0; i < guest_mac.size(); ++i) {
    EXPECT_EQ(front_end.read_config(i, 1).front(), std::byte{guest_mac[i]});
  }
  EXPECT_EQ(front_end.read_config(6, 2).front(), std::byte{1}) << "the link is up";
  for (const unsigned seed : {10U, 20U}) {
    front_end.activate(small, 2);
    auto pairs = pairs_of(front_end);
    expect_talk(pairs, other, seed);
    front_end.sleep();
    front_end.wake();
    expect_talk(pairs, other, seed + 5);
    front_end.reset();
  }
}

}  // namespace
}  // namespace integration
