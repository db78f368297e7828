#include "common/service.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

using std::chrono::microseconds;

/// The service manager's end: a socket that receives what a service says.
class FakeManager {
 public:
  /// `address` as in NOTIFY_SOCKET: a path, or '@' and an abstract name.
  explicit FakeManager(const std::string& address) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, address.data(), address.size());
    if (address[0] == '@') name.sun_path[0] = '\0';
    const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
    socket_ = vhost::UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), bytes), 0);
    ::setenv("NOTIFY_SOCKET", address.c_str(), 1);
  }
  /// The next message, "nothing" if there is none.
  std::string heard() {
    std::array<char, 512> message{};
    const ssize_t got = ::recv(socket_.get(), message.data(), message.size(), 0);
    return got < 0 ? "nothing" : std::string(message.data(), static_cast<std::size_t>(got));
  }

 private:
  vhost::UniqueFd socket_;
};

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() { clear(); }
  ~ServiceTest() override { clear(); }

  static void clear() {
    for (const auto* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID",
                             "LISTEN_FDS", "LISTEN_FDNAMES"}) {
      ::unsetenv(name);
    }
  }
  static void set(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); }

  test::TempFolder folder;
};

TEST_F(ServiceTest, TellsAManagerAtAPath) {
  FakeManager manager(folder / "notify");
  const auto service = Service::from_environment();
  service.ready("listening");
  EXPECT_EQ(manager.heard(), "READY=1\nSTATUS=listening");
  service.status("connected");
  EXPECT_EQ(manager.heard(), "STATUS=connected");
  service.keep_alive();
  EXPECT_EQ(manager.heard(), "WATCHDOG=1");
  service.stopping();
  EXPECT_EQ(manager.heard(), "STOPPING=1");
  EXPECT_EQ(manager.heard(), "nothing");
}

TEST_F(ServiceTest, TellsAManagerAtAnAbstractName) {
  FakeManager manager("@common-test-" + std::to_string(::getpid()));
  Service::from_environment().status("here");
  EXPECT_EQ(manager.heard(), "STATUS=here");
}

TEST_F(ServiceTest, FindsAManagerThatMadeItsSocketAnew) {
  const std::string path = folder / "notify";
  FakeManager former(path);
  const auto service = Service::from_environment();
  ::unlink(path.c_str());
  FakeManager manager(path);
  service.status("still here");
  EXPECT_EQ(manager.heard(), "STATUS=still here");
}

TEST_F(ServiceTest, LetsNoStatusStartAnotherAssignment) {
  FakeManager manager(folder / "notify");
  Service::from_environment().status("disk a\nMAINPID=1");
  EXPECT_EQ(manager.heard(), "STATUS=disk a MAINPID=1");
}

TEST_F(ServiceTest, IsSilentWithoutAManager) {
  Service::from_environment().ready("alone");
  for (const auto& address : {std::string(""), std::string("@"), std::string("relative"),
                              "/" + std::string(200, 'x'), folder / "nobody-listens"}) {
    set("NOTIFY_SOCKET", address);
    const auto service = Service::from_environment();
    service.ready("alone");
    service.stopping();
  }
}

TEST_F(ServiceTest, NeitherBlocksNorFailsOnAManagerThatDoesNotRead) {
  const FakeManager manager(folder / "notify");
  const auto service = Service::from_environment();
  for (int i = 0; i < 10'000; ++i) service.keep_alive();
}

TEST_F(ServiceTest, KeepsAliveTwiceInTheManagersInterval) {
  const FakeManager manager(folder / "notify");
  EXPECT_EQ(Service::from_environment().keep_alive_interval(), std::nullopt);
  set("WATCHDOG_USEC", "30000000");
  EXPECT_EQ(Service::from_environment().keep_alive_interval(), microseconds(15'000'000));
  set("WATCHDOG_PID", std::to_string(::getpid()));
  EXPECT_EQ(Service::from_environment().keep_alive_interval(), microseconds(15'000'000));
}

TEST_F(ServiceTest, IgnoresAWatchdogThatIsMalformedOrMeantForAnother) {
  const FakeManager manager(folder / "notify");
  for (const auto* value : {"", "0", "-1", "soon"}) {
    set("WATCHDOG_USEC", value);
    EXPECT_EQ(Service::from_environment().keep_alive_interval(), std::nullopt) << value;
  }
  set("WATCHDOG_USEC", "1000");
  set("WATCHDOG_PID", std::to_string(::getpid() + 1));
  EXPECT_EQ(Service::from_environment().keep_alive_interval(), std::nullopt);
}

}  // namespace
}  // namespace common
