#include <bitset>

#include "tests/unit/session/session_fixture.hpp"

/*
 * Every message that there is or may be, at a time when it is not to be sent. The table says what
 * the specification says of each, and knows nothing of ours. What it wants in answer:
 *
 *   a message with a reply of its own has just that, whatever NEED_REPLY says ("REPLY_ACK"), and
 *     the connection ends where that has no form for "no";
 *   any other is refused where NEED_REPLY was negotiated and set;
 *   else the connection ends: nobody must go on as if it had been heard.
 *
 * And nothing changes by it.
 */
namespace vhost::tests {
namespace {

namespace p = protocol_feature;

/// How the reply of a message says no, if it has one.
enum class Own : std::uint8_t { none, reply, reply_with_no };

struct Row {
  std::uint32_t number;
  const char* name;
  std::uint64_t gate;  ///< protocol features, all of which it needs
  std::size_t payload_bytes;
  std::size_t fds;
  Own own = Own::none;
};

constexpr std::uint64_t never = bit(63);  // no protocol feature lets it come
constexpr std::uint64_t iommu = bit(62);  // a feature does: VIRTIO_F_ACCESS_PLATFORM

// clang-format off
constexpr std::array rows{
    Row{0, "NONE", never, 0, 0},
    Row{6, "SET_LOG_BASE", bit(p::log_shmfd), 16, 1, Own::reply_with_no},
    Row{17, "GET_QUEUE_NUM", bit(p::mq), 0, 0, Own::reply},
    Row{19, "SEND_RARP", bit(p::rarp), 8, 0},
    Row{20, "NET_SET_MTU", bit(p::mtu), 8, 0},
    Row{21, "SET_BACKEND_REQ_FD", bit(p::backend_req), 0, 1},
    Row{22, "IOTLB_MSG", iommu, 32, 0, Own::reply_with_no},
    Row{23, "SET_VRING_ENDIAN", bit(6), 8, 0},
    Row{24, "GET_CONFIG", bit(p::config), 12 + 57, 0, Own::reply_with_no},
    Row{25, "SET_CONFIG", bit(p::config), 12 + 1, 0},
    Row{26, "CREATE_CRYPTO_SESSION", bit(7), 0, 0, Own::reply},
    Row{27, "CLOSE_CRYPTO_SESSION", bit(7), 8, 0},
    Row{28, "POSTCOPY_ADVISE", bit(p::pagefault), 0, 0, Own::reply_with_no},
    Row{29, "POSTCOPY_LISTEN", bit(p::pagefault), 0, 0},
    Row{30, "POSTCOPY_END", bit(p::pagefault), 0, 0, Own::reply_with_no},
    Row{31, "GET_INFLIGHT_FD", bit(p::inflight_shmfd), 24, 0, Own::reply_with_no},
    Row{32, "SET_INFLIGHT_FD", bit(p::inflight_shmfd), 24, 1},
    Row{33, "GPU_SET_SOCKET", never, 0, 1},
    Row{34, "RESET_DEVICE", bit(p::reset_device), 0, 0},
    Row{35, "VRING_KICK", bit(14), 8, 0},
    Row{36, "GET_MAX_MEM_SLOTS", bit(p::configure_mem_slots), 0, 0, Own::reply},
    Row{37, "ADD_MEM_REG", bit(p::configure_mem_slots), 40, 1},
    Row{38, "REM_MEM_REG", bit(p::configure_mem_slots), 40, 0},
    Row{39, "SET_STATUS", bit(p::status), 8, 0},
    Row{40, "GET_STATUS", bit(p::status), 0, 0, Own::reply},
    Row{41, "GET_SHARED_OBJECT", bit(18), 16, 0, Own::reply},
    Row{42, "SET_DEVICE_STATE_FD", bit(19), 8, 1, Own::reply},
    Row{43, "CHECK_DEVICE_STATE", bit(19), 0, 0, Own::reply},
    Row{44, "GET_SHMEM_CONFIG", bit(22), 0, 0, Own::reply},
    Row{45, "GET_VRING_BASE_SKIP_DRAIN", bit(23), 8, 0, Own::reply},
};
// clang-format on

constexpr std::uint32_t messages = 65;  // 46 to 64 are of the future

/// All rows, and one for each message that has none; without those that may always come.
std::vector<Row> all_rows() {
  std::vector<Row> all(rows.begin(), rows.end());
  std::bitset<messages> named;
  for (const Row& row : rows) named.set(row.number);
  for (std::uint32_t number = 46; number < messages; ++number) {
    EXPECT_FALSE(named[number]);
    all.push_back({number, "of the future", never, 8, 0});
  }
  return all;
}

enum class Answered : std::uint8_t { done, refused, said_no, closed, other };

class SessionRefusalTest : public SessionTest {
 protected:
  /// A connection that accepts these protocol features, with or without REPLY_ACK.
  void connect(std::uint64_t protocol, bool acknowledged) {
    frontend = std::make_unique<FakeFrontend>(device_, Extras{.postcopy = true});
    protocol &= ~(bit(p::reply_ack) | iommu);
    if (acknowledged) protocol |= bit(p::reply_ack);
    // One that may be accepted needs another.
    if (!has(protocol, p::inflight_shmfd)) protocol &= ~bit(p::get_vring_base_inflight);
    if (!has(protocol, p::get_vring_base_inflight)) protocol &= ~bit(p::get_vring_base_skip_drain);
    frontend->negotiate(FakeFrontend::usual_features, protocol);
    ASSERT_EQ(frontend->session().info().protocol_features, protocol);
  }
  /// Ring 0 runs, from 5 on.
  void start_on(FakeFrontend& front) {
    driver_.start_at(5);
    ASSERT_EQ(front.set_memory(memory_, {0, 1, 2}), Outcome::done);
    ASSERT_EQ(front.num(0, 8), Outcome::done);
    ASSERT_EQ(front.addr(0, driver_.setup()), Outcome::done);
    ASSERT_EQ(front.base(0, 5), Outcome::done);
    ASSERT_EQ(front.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
    ASSERT_EQ(front.enable(0, 1), Outcome::done);
    ASSERT_EQ(device_.running.count(0), 1u);
  }
  Answered send(const Row& row, std::uint32_t flags = header_need_reply) {
    const std::vector<std::byte> payload(row.payload_bytes);
    const std::vector<int> fds(row.fds, call_.get());
    if (!frontend->send(row.number, payload, fds, flags)) return Answered::closed;
    const auto answer = frontend->reply();
    if (!answer) return Answered::done;
    EXPECT_FALSE(frontend->reply()) << row.name << " was answered twice";
    EXPECT_EQ(answer->request, row.number);
    EXPECT_EQ(answer->flags, header_version | header_reply);
    const bool word = answer->payload.size() == sizeof(std::uint64_t);
    const bool zero = word && read_once<std::uint64_t>(answer->payload.data()) == 0;
    if (row.own == Own::reply_with_no && answer->fds.empty() && !zero) return Answered::said_no;
    if (!word) return Answered::other;
    return read_once<std::uint64_t>(answer->payload.data()) == 0 ? Answered::done
                                                                 : Answered::refused;
  }
  /// What a message that may not come is to be answered with. We know the replies of those alone
  /// that we serve.
  static Answered expected(const Row& row, std::uint64_t served, bool acknowledged) {
    const bool known = (row.gate & ~served) == 0;
    if (known && row.own == Own::reply_with_no) return Answered::said_no;
    if (known && row.own == Own::reply) return Answered::closed;
    return acknowledged ? Answered::refused : Answered::closed;
  }
  void expect_refused(const Row& row, bool acknowledged) {
    const SessionInfo before = frontend->session().info();
    const int changes = device_.feature_changes;
    const auto answered = send(row);
    EXPECT_EQ(answered, expected(row, serves, acknowledged))
        << row.number << " " << row.name << (acknowledged ? " with" : " without") << " REPLY_ACK";
    ASSERT_FALSE(frontend->log().empty());
    const bool known = (row.gate & ~serves) == 0;
    EXPECT_NE(frontend->log().back().find(known ? "came without" : "is unknown"), std::string::npos)
        << frontend->log().back();
    EXPECT_TRUE(device_.announced.empty());
    EXPECT_EQ(device_.mtu, 0u);
    EXPECT_EQ(device_.written, std::byte{0});
    if (!frontend->connected()) return;
    EXPECT_EQ(device_.feature_changes, changes);
    const SessionInfo after = frontend->session().info();
    EXPECT_EQ(after.refused, before.refused + 1) << row.name;
    EXPECT_EQ(after.features, before.features);
    EXPECT_EQ(after.protocol_features, before.protocol_features);
    EXPECT_EQ(after.memory_regions, before.memory_regions);
    EXPECT_EQ(after.running_rings, before.running_rings);
  }
  /// Everything that the session serves for some device.
  static constexpr std::uint64_t serves =
      FakeFrontend::usual_protocol_features | bit(p::pagefault) | iommu;

  std::unique_ptr<FakeFrontend> frontend;
};

TEST_F(SessionRefusalTest, AnswersEveryMessageOfFeaturesThatAreNotOffered) {
  device_.protocol = 0;
  const std::uint64_t offered = DeviceState::session_protocol_features;
  for (const Row& row : all_rows()) {
    if ((row.gate & ~offered) == 0) continue;
    for (const bool acknowledged : {true, false}) {
      connect(offered, acknowledged);
      expect_refused(row, acknowledged);
    }
  }
}

TEST_F(SessionRefusalTest, AnswersEveryMessageOfFeaturesThatWereOfferedAndNotAccepted) {
  for (const Row& row : all_rows()) {
    if ((row.gate & ~serves) != 0) continue;
    for (const bool acknowledged : {true, false}) {
      connect(serves & ~row.gate, acknowledged);
      expect_refused(row, acknowledged);
    }
  }
}

TEST_F(SessionRefusalTest, AnswersEveryUnknownMessageWhileARingRuns) {
  for (const Row& row : all_rows()) {
    if ((row.gate & ~serves) == 0) continue;
    for (const bool acknowledged : {true, false}) {
      connect(serves, true);
      start_on(*frontend);
      const int stops = device_.stops[0];
      if (!acknowledged) {  // nobody asks, which is the same as if nobody could
        EXPECT_EQ(send(row, 0), Answered::closed) << row.name;
        continue;
      }
      expect_refused(row, acknowledged);
      EXPECT_EQ(device_.stops[0], stops) << row.name;
    }
  }
}

TEST_F(SessionRefusalTest, RefusesWhatMayNotComeWhileARingRunsAndTheRingGoesOn) {
  const Row get_inflight{31, "GET_INFLIGHT_FD", 0, 24, 0, Own::reply_with_no};
  const Row set_inflight{32, "SET_INFLIGHT_FD", 0, 24, 1};
  const Row protocol{16, "SET_PROTOCOL_FEATURES", 0, 8, 0};
  const Row features{2, "SET_FEATURES", 0, 8, 0};
  const Row num{8, "SET_VRING_NUM", 0, 8, 0};
  const Row addr{9, "SET_VRING_ADDR", 0, 40, 0};
  const Row base{10, "SET_VRING_BASE", 0, 8, 0};
  for (const Row& row : {get_inflight, set_inflight, protocol, features, num, addr, base}) {
    for (const bool acknowledged : {true, false}) {
      connect(serves, true);
      start_on(*frontend);
      const int stops = device_.stops[0];
      const auto answered = send(row, acknowledged ? header_need_reply : 0);
      EXPECT_EQ(answered, expected(row, serves, acknowledged)) << row.name;
      EXPECT_NE(frontend->log().back().find("while"), std::string::npos) << row.name;
      if (answered == Answered::closed) continue;
      EXPECT_EQ(device_.stops[0], stops) << row.name;
      EXPECT_EQ(frontend->get_base(0), 5u) << row.name;
    }
  }
}

TEST_F(SessionRefusalTest, KnowsTheRepliesThatAskForAnAcknowledgementToo) {
  // Of those that may come they are just the same, with NEED_REPLY or without it.
  for (const std::uint32_t flags : {std::uint32_t{0}, header_need_reply}) {
    for (const std::uint32_t number : {1u, 15u, 17u, 36u, 40u}) {
      connect(serves, true);
      ASSERT_TRUE(frontend->send(number, {}, {}, flags));
      const auto answer = frontend->reply();
      ASSERT_TRUE(answer) << number;
      EXPECT_EQ(answer->payload.size(), 8u);
      EXPECT_EQ(answer->flags, header_version | header_reply);
      EXPECT_FALSE(frontend->reply()) << number << " was answered twice";
    }
  }
}

}  // namespace
}  // namespace vhost::tests
