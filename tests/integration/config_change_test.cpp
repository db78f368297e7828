// The disk grows while a guest runs, and the front-end is told (CONFIG_CHANGE_MSG): whatever it
// does with its end of the back-end channel, nobody waits for it.
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using vhost::bit;
using vhost::UniqueFd;

/// Both ends of a channel: the front-end's, and the one that it gives away.
struct Channel {
  Channel() {
    std::array<int, 2> pair{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
      throw std::runtime_error("no pair of sockets");
    }
    ours = UniqueFd(pair[0]);
    theirs = UniqueFd(pair[1]);
  }
  /// The next message; empty if none comes in a long time, or in `time`.
  [[nodiscard]] std::optional<vhost::Header> hear(milliseconds time = long_wait) const {
    pollfd watched{ours.get(), POLLIN, 0};
    vhost::Header header{};
    if (::poll(&watched, 1, static_cast<int>(time.count())) != 1) return std::nullopt;
    if (::recv(ours.get(), &header, sizeof header, 0) != sizeof header) return std::nullopt;
    return header;
  }
  /// There is nobody at the other end any more.
  [[nodiscard]] bool over() const {
    pollfd watched{ours.get(), POLLIN, 0};
    char byte = 0;
    return ::poll(&watched, 1, static_cast<int>(long_wait.count())) == 1 &&
           ::recv(ours.get(), &byte, 1, 0) == 0;
  }
  UniqueFd ours, theirs;
};

class ConfigChange : public Served, public ::testing::WithParamInterface<bool> {
 protected:
  /// Without and with REPLY_ACK.
  void SetUp() override {
    serve();
    BlkOptions options = with_queues(2);
    if (!GetParam()) options.wishes.protocol_features &= ~bit(vhost::protocol_feature::reply_ack);
    disk = std::make_unique<Guest>(socket, options);
  }
  void give(const Channel& channel) {
    const int fd = channel.theirs.get();
    must((*disk)->device().connection().tell(vhost::Request::set_backend_req_fd, {},
                                             std::span(&fd, 1)));
    (void)capacity();  // it was read, then
  }
  void grow() {
    size += mebi;
    ASSERT_EQ(::truncate(image.c_str(), static_cast<off_t>(size)), 0);
    daemon->signal(SIGHUP);
  }
  [[nodiscard]] std::uint64_t capacity() {
    must((*disk)->refresh_config());
    return (*disk)->capacity_bytes();
  }
  /// The daemon grows the disk, serves it, and answers.
  void expect_grown() {
    EXPECT_TRUE(eventually([&] { return capacity() == size; }));
    const std::uint64_t last = size / sector - 8;
    disk->write(last, 1, 4096);
    EXPECT_TRUE(disk->reads(last, 1, 4096));
  }
  static void expect_told(const Channel& channel) {
    const auto told = channel.hear();
    ASSERT_TRUE(told);
    EXPECT_EQ(told->request, static_cast<std::uint32_t>(vhost::BackendRequest::config_change));
    EXPECT_EQ(told->payload_bytes, 0U);
    EXPECT_EQ(told->flags, vhost::header_version) << "it would have to be answered";
  }

  std::uint64_t size = image_bytes;
  std::unique_ptr<Guest> disk;
};

TEST_P(ConfigChange, IsToldOnceAndReadBeforeAnythingIsAnswered) {
  const Channel channel;
  give(channel);
  for (int i = 0; i < 3; ++i) {
    grow();
    expect_told(channel);
    EXPECT_EQ(capacity(), size) << "as QEMU reads it: before all else";
  }
  EXPECT_FALSE(channel.hear(milliseconds(20)));
  expect_grown();
}

TEST_P(ConfigChange, WaitsForNobodyWhoNeverReads) {
  const Channel channel;
  give(channel);
  std::array<char, 4096> junk{};
  while (::send(channel.theirs.get(), junk.data(), junk.size(), MSG_DONTWAIT) > 0) continue;
  while (::send(channel.theirs.get(), junk.data(), 1, MSG_DONTWAIT) > 0) continue;
  Load load(*disk, {.queue = 1});
  for (int i = 0; i < 5; ++i) {
    load.submit();
    grow();
    expect_grown();
    load.settle();
  }
  EXPECT_EQ(daemon->terminate(), good_end);
}

TEST_P(ConfigChange, SurvivesAChannelThatWasClosed) {
  Channel channel;
  give(channel);
  channel.ours = UniqueFd();
  channel.theirs = UniqueFd();
  grow();
  expect_grown();
  const Channel next;
  give(next);
  grow();
  expect_told(next);
}

TEST_P(ConfigChange, IsToldOnTheChannelThatCameLast) {
  Channel first;
  give(first);
  first.theirs = UniqueFd();
  const Channel last;
  give(last);
  EXPECT_TRUE(first.over());
  grow();
  expect_told(last);
}

TEST_P(ConfigChange, WhatIsSaidOnTheChannelUnaskedHarmsNobody) {
  const Channel channel;
  give(channel);
  // An acknowledgement of nothing, half a message, and bytes that are none.
  const vhost::Header header{2, vhost::header_version | vhost::header_reply, 8};
  ASSERT_GT(::send(channel.ours.get(), &header, sizeof header, 0), 0);
  ASSERT_GT(::send(channel.ours.get(), "nonsense that goes on", 21, 0), 0);
  grow();
  expect_grown();
  EXPECT_EQ(daemon->terminate(), good_end);
}

INSTANTIATE_TEST_SUITE_P(Acknowledged, ConfigChange, ::testing::Bool(), [](const auto& with) {
  return std::string(with.param ? "ReplyAck" : "NoReplyAck");
});

}  // namespace
}  // namespace integration
