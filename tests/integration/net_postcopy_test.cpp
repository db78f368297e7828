// A guest whose memory follows it, on a switch with others.
#include <cstring>
#include <thread>

#include "tests/integration/arrival.hpp"
#include "tests/integration/net_fixture.hpp"

namespace integration {
namespace {

using namespace std::chrono_literals;

class NetPostcopy : public NetServed {
 protected:
  void SetUp() override {
    if (!postcopy_is_possible()) GTEST_SKIP() << "no userfaultfd";
    serve({"--port", port("a"), "--port", port("b", "postcopy"), "--port", port("c")});
    a = std::make_unique<Station>(connect(socket("a")), std::uint8_t{1});
    b = std::make_unique<Station>(connect(socket("b")), std::uint8_t{2});
    c = std::make_unique<Station>(connect(socket("c")), std::uint8_t{3});
  }
  [[nodiscard]] bool offers_postcopy(const std::string& name) const {
    auto connection = connect(socket(name));
    const auto offered =
        must(connection.ask_for<std::uint64_t>(vhost::Request::get_protocol_features));
    return vhost::has(offered, vhost::protocol_feature::pagefault);
  }
  static void leave(Station& station) {
    const auto gone = std::move(station->device().connection());
  }
  /// The next frame that is for this station: others may have been for everybody.
  static Bytes next_of(Station& station) {
    while (true) {
      Bytes bytes = station.receive();
      if (std::memcmp(bytes.data(), station.mac.data(), station.mac.size()) == 0) return bytes;
    }
  }
  static void expect_exchange(Station& one, Station& other, unsigned seed) {
    one.send(other.mac, 1000, seed);
    EXPECT_EQ(next_of(other), frame(one.mac, other.mac, 1000, seed));
    other.send(one.mac, 300, seed + 1);
    EXPECT_EQ(next_of(one), frame(other.mac, one.mac, 300, seed + 1));
  }

  std::unique_ptr<Station> a, b, c;
};

TEST_F(NetPostcopy, IsOfferedToThePortsThatAreToldSo) {
  leave(*a);
  leave(*b);
  EXPECT_FALSE(offers_postcopy("a"));
  EXPECT_TRUE(offers_postcopy("b"));
}

TEST_F(NetPostcopy, FramesFlowWhilePagesCome) {
  expect_exchange(*a, *b, 0);
  must((*b)->stop());
  Arrival arrival((*b)->device(), 2ms);
  leave(*b);
  must((*b)->reconnect(connect(socket("b"))));
  for (unsigned i = 0; i < 40; ++i) expect_exchange(*a, *b, i);
  EXPECT_GT(arrival.pages().asked_by_backend(), 20U);
  EXPECT_FALSE(arrival.pages().was_asked_for_the_unknown());
  arrival.pages().push_all();
  must((*b)->device().all_pages_came());
  for (unsigned i = 0; i < 300; ++i) expect_exchange(*a, *b, i);
}

TEST_F(NetPostcopy, TheOthersGoOnWhenAGuestDiesBeforeItsPagesCame) {
  expect_exchange(*a, *b, 0);
  must((*b)->stop());
  Arrival arrival((*b)->device(), 0us);
  leave(*b);
  must((*b)->reconnect(connect(socket("b"))));
  arrival.pages().withhold(b->memory().regions().front()->bytes());
  {
    std::jthread sender([&] { a->send(b->mac); });
    EXPECT_TRUE(eventually([&] { return arrival.pages().was_asked_in_vain(); }));
    leave(*b);
  }
  expect_exchange(*a, *c, 1);
  Station next = guest("b", 9);
  expect_exchange(*c, next, 2);
  EXPECT_NE(daemon->words().find("in the middle of postcopy"), std::string::npos);
}

}  // namespace
}  // namespace integration
