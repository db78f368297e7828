#include "libvhost/wire/message.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>

#include <gtest/gtest.h>

namespace vhost {
namespace {

class MessageTest : public testing::Test {
 protected:
  MessageTest() {
    std::array<int, 2> pair{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()), 0);
    ours_ = UniqueFd(pair[0]);
    peer_ = UniqueFd(pair[1]);
  }
  void peer_writes(std::span<const std::byte> bytes) {
    ASSERT_EQ(::write(peer_.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  static std::vector<std::byte> message_bytes(std::uint32_t request, std::uint32_t size,
                                              std::size_t payload, std::uint32_t flags = 1) {
    const Header header{request, flags, size};
    std::vector<std::byte> bytes(sizeof header + payload, std::byte{0x5a});
    std::memcpy(bytes.data(), &header, sizeof header);
    return bytes;
  }
  static std::size_t open_fds() {
    std::size_t count = 0;
    for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) != -1;
    return count;
  }
  static UniqueFd some_file() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

  UniqueFd ours_, peer_;
  MessageReader reader_;
};

TEST_F(MessageTest, ArrivesAsItWasSent) {
  const VringState state{3, 256};
  ASSERT_TRUE(send_message(peer_.get(), 8, header_need_reply, bytes_of(state)));
  const auto message = reader_.read(ours_.get());
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->request, 8u);
  EXPECT_EQ((*message)->flags, header_version | header_need_reply);
  ASSERT_EQ((*message)->payload.size(), sizeof state);
  EXPECT_EQ(read_once<VringState>((*message)->payload.data()).value, 256u);
}

TEST_F(MessageTest, IsPutTogetherFromSingleBytes) {
  for (const std::byte byte : message_bytes(2, 8, 8)) {
    auto message = reader_.read(ours_.get());
    ASSERT_TRUE(message);
    EXPECT_FALSE(*message);
    peer_writes(std::span(&byte, 1));
  }
  const auto message = reader_.read(ours_.get());
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->payload.size(), 8u);
}

TEST_F(MessageTest, LeavesTheNextMessageInTheSocket) {
  const auto file = some_file();
  const std::array fds{file.get()};
  ASSERT_TRUE(send_message(peer_.get(), 1, 0, {}));
  ASSERT_TRUE(send_message(peer_.get(), 12, 0, bytes_of(std::uint64_t{0}), fds));
  auto first = reader_.read(ours_.get());
  ASSERT_TRUE(first && *first);
  EXPECT_TRUE((*first)->fds.empty());
  auto second = reader_.read(ours_.get());
  ASSERT_TRUE(second && *second);
  EXPECT_EQ((*second)->fds.size(), 1u);
}

TEST_F(MessageTest, TakesEightDescriptorsAndRefusesNine) {
  const std::size_t before = open_fds();
  {
    std::vector<UniqueFd> files;
    std::vector<int> fds;
    for (int i = 0; i < 9; ++i) fds.push_back(files.emplace_back(some_file()).get());
    ASSERT_TRUE(send_message(peer_.get(), 5, 0, {}, std::span(fds).first(8)));
    auto message = reader_.read(ours_.get());
    ASSERT_TRUE(message && *message);
    EXPECT_EQ((*message)->fds.size(), 8u);

    const auto bytes = message_bytes(5, 0, 0);
    iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    std::array<std::byte, CMSG_SPACE(9 * sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(9 * sizeof(int));
    std::memcpy(CMSG_DATA(part), fds.data(), 9 * sizeof(int));
    ASSERT_GT(::sendmsg(peer_.get(), &header, 0), 0);
    EXPECT_FALSE(reader_.read(ours_.get()));
  }
  reader_ = {};
  EXPECT_EQ(open_fds(), before);
}

TEST_F(MessageTest, ClosesTheDescriptorsOfAMessageThatNeverEnds) {
  const std::size_t before = open_fds();
  {
    const auto file = some_file();
    const std::array fds{file.get()};
    const Header claims_more{8, header_version, 100};
    ASSERT_TRUE(send_message(peer_.get(), 8, 0, bytes_of(VringState{}), fds));
    peer_writes(bytes_of(claims_more));
    MessageReader reader;
    ASSERT_TRUE(reader.read(ours_.get()).value());
    ASSERT_TRUE(send_message(peer_.get(), 8, 0, {}, fds));  // lands inside the second message
    EXPECT_FALSE(reader.read(ours_.get()).value());
    EXPECT_EQ(open_fds(), before + 2);  // the file, and the reader's own copy of it
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(MessageTest, RefusesAPayloadLargerThanAnyMessage) {
  peer_writes(message_bytes(2, max_payload_bytes, max_payload_bytes));
  ASSERT_TRUE(reader_.read(ours_.get()));
  peer_writes(message_bytes(2, max_payload_bytes + 1, 0));
  EXPECT_FALSE(reader_.read(ours_.get()));
}

TEST_F(MessageTest, RefusesAnotherProtocolVersion) {
  peer_writes(message_bytes(2, 8, 8, 2));
  EXPECT_FALSE(reader_.read(ours_.get()));
}

TEST_F(MessageTest, TellsAnOrderlyEndFromOneWithinAMessage) {
  peer_writes(message_bytes(2, 8, 3));
  ASSERT_TRUE(reader_.read(ours_.get()));
  ::shutdown(peer_.get(), SHUT_WR);
  EXPECT_FALSE(reader_.read(ours_.get()));
  EXPECT_FALSE(reader_.closed());

  MessageReader fresh;
  EXPECT_FALSE(fresh.read(ours_.get()));
  EXPECT_TRUE(fresh.closed());
}

TEST_F(MessageTest, SendingNeverWaitsForAPeerThatDoesNotRead) {
  bool refused = false;
  for (int i = 0; i < 100'000 && !refused; ++i) {
    refused = !send_message(peer_.get(), 1, 0, bytes_of(std::uint64_t{1}));
  }
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace vhost
