#include "libvhost/frontend/connection.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/unit/frontend/fake_backend.hpp"

namespace vhost::frontend {
namespace {

using namespace std::chrono_literals;

class ConnectionTest : public testing::Test {
 protected:
  Connection connect(std::chrono::milliseconds deadline = 5000ms) {
    auto connection = Connection::adopt(backend_.socket(), {.reply_deadline = deadline});
    EXPECT_TRUE(connection);
    backend_.run();
    return std::move(*connection);
  }
  FakeBackend backend_;
};

TEST_F(ConnectionTest, AskReturnsTheReply) {
  Connection connection = connect();
  const auto features = connection.ask_for<std::uint64_t>(Request::get_features);
  ASSERT_TRUE(features);
  EXPECT_EQ(*features, backend_.features);
}

TEST_F(ConnectionTest, TellWantsNoAnswerBeforeReplyAck) {
  Connection connection = connect();
  EXPECT_TRUE(connection.tell(Request::set_owner));
  EXPECT_TRUE(connection.ask(Request::get_features));  // the owner message has been read
  backend_.stop();
  EXPECT_FALSE(backend_.find(Request::set_owner)->wanted_reply);
}

TEST_F(ConnectionTest, TellWaitsForTheAcknowledgement) {
  Connection connection = connect();
  connection.acknowledge(true);
  EXPECT_TRUE(connection.tell(Request::set_owner));
  backend_.stop();
  EXPECT_TRUE(backend_.find(Request::set_owner)->wanted_reply);
}

TEST_F(ConnectionTest, RefusalNamesTheRequestAndLeavesTheConnectionUsable) {
  backend_.on(Request::set_mem_table, [](auto& self, auto& got) { self.reply_u64(got, 22); });
  Connection connection = connect();
  connection.acknowledge(true);
  const auto told = connection.tell(Request::set_mem_table);
  ASSERT_FALSE(told);
  EXPECT_EQ(told.error().what, "the back-end refused SET_MEM_TABLE (answer 22)");
  EXPECT_TRUE(connection.ask(Request::get_features));
}

TEST_F(ConnectionTest, SilenceEndsAtTheDeadlineAndNamesTheRequest) {
  backend_.on(Request::get_queue_num, [](auto&, auto&) {});
  Connection connection = connect(30ms);
  const auto reply = connection.ask(Request::get_queue_num);
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().what,
            "waiting for the answer to GET_QUEUE_NUM: nothing came within 30 ms");
}

TEST_F(ConnectionTest, AReplyThatCameTooLateIsNeverTakenForAnother) {
  backend_.on(Request::get_queue_num, [](auto&, auto&) {});
  Connection connection = connect(30ms);
  EXPECT_FALSE(connection.ask(Request::get_queue_num));
  EXPECT_FALSE(connection.ask(Request::get_features));
}

TEST_F(ConnectionTest, ReplyToAnotherRequestBreaksTheConnection) {
  backend_.on(Request::get_features, [](auto& self, auto& got) {
    got.request = static_cast<std::uint32_t>(Request::get_status);
    self.reply_u64(got, 0);
  });
  Connection connection = connect();
  const auto reply = connection.ask(Request::get_features);
  ASSERT_FALSE(reply);
  EXPECT_NE(reply.error().what.find("got GET_STATUS"), std::string::npos) << reply.error().what;
}

TEST_F(ConnectionTest, ReplyOfTheWrongSizeIsAnError) {
  backend_.on(Request::get_features,
              [](auto& self, auto& got) { self.reply(got, bytes_of(VringAddr{})); });
  Connection connection = connect();
  EXPECT_FALSE(connection.ask_for<std::uint64_t>(Request::get_features));
}

TEST_F(ConnectionTest, PeerThatGoesAwayIsNoticedAtOnce) {
  backend_.on(Request::get_features, [](auto& self, auto&) { ::shutdown(self.fd(), SHUT_RDWR); });
  Connection connection = connect();
  const auto reply = connection.ask(Request::get_features);
  ASSERT_FALSE(reply);
  EXPECT_NE(reply.error().what.find("closed"), std::string::npos) << reply.error().what;
  EXPECT_TRUE(connection.closed_within(0ms));
}

TEST_F(ConnectionTest, AnswersTheChannelWhileItWaitsForAReply) {
  // A back-end that waits for our answer before it gives its own: QEMU meets such ones.
  backend_.on(Request::get_features, [](FakeBackend& self, Message& got) {
    const int channel = self.kept.front().get();
    ASSERT_TRUE(send_message(channel, 2, header_need_reply, {}));
    pollfd watched{channel, POLLIN, 0};
    ASSERT_EQ(::poll(&watched, 1, 5000), 1);
    MessageReader reader;
    auto answer = reader.read(channel);
    ASSERT_TRUE(answer && *answer);
    self.reply_u64(got, read_once<std::uint64_t>((*answer)->payload.data()));
  });
  Connection connection = connect();
  int heard = 0;
  ASSERT_TRUE(connection.open_channel([&](const Message& message) -> std::uint64_t {
    heard += message.request == 2 ? 1 : 0;
    return 77;
  }));
  const auto features = connection.ask_for<std::uint64_t>(Request::get_features);
  ASSERT_TRUE(features);
  EXPECT_EQ(*features, 77u);
  EXPECT_EQ(heard, 1);
}

TEST_F(ConnectionTest, ChannelIsPollableAndServedWithoutWaiting) {
  backend_.on(Request::get_status, [](FakeBackend& self, Message& got) {
    EXPECT_TRUE(send_message(self.kept.front().get(), 2, 0, {}));
    self.reply_u64(got, 0);
  });
  Connection connection = connect();
  int heard = 0;
  ASSERT_TRUE(connection.open_channel([&](const Message&) -> std::uint64_t { return ++heard, 0; }));
  EXPECT_EQ(connection.serve_channel().value_or(9), 0u);
  ASSERT_TRUE(connection.ask(Request::get_status));
  pollfd wait{connection.channel_fd(), POLLIN, 0};
  if (heard == 0) {
    EXPECT_EQ(::poll(&wait, 1, 1000), 1);
    EXPECT_EQ(connection.serve_channel().value_or(9), 1u);
  }
  EXPECT_EQ(heard, 1);
}

TEST_F(ConnectionTest, RawMessagesCarryMoreDescriptorsThanAreAllowed) {
  Connection connection = connect();
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<int> nine(9, file.get());
  ASSERT_TRUE(connection.send_raw(3, 0, {}, nine));
  EXPECT_TRUE(connection.closed_within(2000ms));  // what the fake's reader does with them
}

TEST_F(ConnectionTest, HalfAMessageMayBeSent) {
  Connection connection = connect();
  const Header header{1, header_version, 0};
  ASSERT_TRUE(connection.send_bytes(bytes_of(header).first(5)));
  EXPECT_FALSE(connection.closed_within(10ms));
  ASSERT_TRUE(connection.send_bytes(bytes_of(header).subspan(5)));
  const auto reply = connection.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->request, 1u);
}

TEST(ConnectionPath, MissingSocketIsOneSentence) {
  const auto connection = Connection::connect("/nonexistent/socket");
  ASSERT_FALSE(connection);
  EXPECT_EQ(connection.error().what,
            "cannot connect to '/nonexistent/socket': No such file or directory");
}

TEST(ConnectionPath, PathLongerThanASocketAddressIsRefused) {
  EXPECT_FALSE(Connection::connect(std::string(108, 'x')));
}

}  // namespace
}  // namespace vhost::frontend
