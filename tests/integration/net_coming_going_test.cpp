// What other guests notice of ports that come and go: nothing.
#include <thread>

#include "tests/integration/net_reload.hpp"
#include "tests/integration/net_stream.hpp"

namespace integration {
namespace {

/// Sends frames of one station to another as fast as the other takes them, none too many for its
/// buffers, until told to stop; then waits for the rest.
class Stream {
 public:
  Stream(Station& from, Station& to)
      : source_(from, 0, to.mac, 0, 8), sink_(to, 0), thread_([this](const std::stop_token& stop) {
          while (!stop.stop_requested()) turn();
        }) {}

  /// How many frames there were. They have all come, once, in order.
  std::uint64_t end() {
    thread_ = {};
    EXPECT_TRUE(eventually([&] {
      (void)sink_.turn();
      return sink_.received >= source_.sent();
    })) << source_.sent() - sink_.received
        << " frames were lost";
    EXPECT_EQ(sink_.received, source_.sent());
    EXPECT_EQ(sink_.garbled, 0U);
    EXPECT_EQ(sink_.out_of_order, 0U);
    return source_.sent();
  }
  [[nodiscard]] std::uint64_t received() const { return sink_.received; }

 private:
  void turn() {
    const bool all_there = sink_.received >= source_.sent();
    if (!sink_.turn() && !(all_there && source_.turn())) ::usleep(20);
  }

  StreamSource source_;
  StreamSink sink_;
  std::jthread thread_;
};

class NetComingAndGoing : public NetReload {
 protected:
  /// A guest comes, talks to another, and goes with its port, while two others talk.
  void come_and_go(const Strings& flags) {
    const Strings steady{port("a"), port("b"), port("d")};
    const Strings all{port("a"), port("c", "mac=02:00:00:00:00:03,guard"), port("b"), port("d")};
    serve_file(steady, flags);
    Station a = guest("a", 1);
    Station b = guest("b", 2);
    Station d = guest("d", 4);
    b.send(a.mac);
    (void)a.receive();
    d.send(a.mac);
    (void)a.receive();
    Stream stream(a, b);
    ASSERT_TRUE(eventually([&] { return stream.received() > 100; }));
    const std::size_t open_before = descriptors();
    for (unsigned round = 0; round < (sanitized ? 10 : 50); ++round) {
      change_to(all);
      {
        Station c = guest("c", 3);
        EXPECT_TRUE(reaches(c, d, round));
        EXPECT_TRUE(reaches(d, c, round));
        StreamSource busy(c, 0, d.mac, 100, 1);  // its queue is full when it goes
        (void)busy.turn();
        change_to(steady);
        EXPECT_TRUE(c->device().connection().closed_within(milliseconds(3000) * slowness));
        while (d->receive(milliseconds(1))) continue;
      }
      EXPECT_FALSE(exists(socket("c")));
    }
    EXPECT_EQ(descriptors(), open_before);
    const std::uint64_t before = stream.received();
    EXPECT_TRUE(eventually([&] { return stream.received() > before; }));
    EXPECT_GT(stream.end(), 1000U);
    expect_one_connection_each({"a", "b", "d"});
  }
};

TEST_F(NetComingAndGoing, OthersLoseNothing) {
  come_and_go({});
}

TEST_F(NetComingAndGoing, OthersLoseNothingWithTwoWorkers) {
  come_and_go({"--workers", "2"});
}

}  // namespace
}  // namespace integration
