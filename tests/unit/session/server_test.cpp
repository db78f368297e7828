#include "libvhost/session/server.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <thread>

#include "tests/unit/session/session_fixture.hpp"

namespace vhost::tests {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    std::string pattern = "/tmp/vhost-server-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    path_ = folder_ + "/socket";
  }
  ~ServerTest() override {
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }

  /// Runs the loop for a while, or until `done` holds.
  template <class Done>
  bool run(milliseconds most, Done done) {
    const auto end = Clock::now() + most;
    auto timer = loop_.every(milliseconds(1), [&] {
      if (done() || Clock::now() > end) loop_.stop();
    });
    EXPECT_TRUE(loop_.run());
    loop_.forget(timer->get());
    return done();
  }
  void run(milliseconds most) {
    run(most, [] { return false; });
  }
  std::unique_ptr<Server> serve(Result<Endpoint> endpoint) {
    EXPECT_TRUE(endpoint) << endpoint.error().what;
    auto server =
        Server::start(loop_, device_, std::move(*endpoint),
                      [this](LogLevel, std::string_view line) { log_.emplace_back(line); });
    EXPECT_TRUE(server) << server.error().what;
    return std::move(*server);
  }
  static sockaddr_un address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
  }
  static UniqueFd socket() {
    return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  }
  UniqueFd connect() {
    UniqueFd fd = socket();
    const auto to = address(path_);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return {};
    return fd;
  }
  UniqueFd listen_there() {
    UniqueFd fd = socket();
    const auto at = address(path_);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
    return fd;
  }
  static bool hung_up(const UniqueFd& fd) {
    char byte = 0;
    return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
  }
  bool answers(const UniqueFd& fd) {
    EXPECT_TRUE(send_message(fd.get(), static_cast<std::uint32_t>(Request::get_features), 0, {}));
    return run(milliseconds(1000), [&] {
      pollfd poll{fd.get(), POLLIN, 0};
      return ::poll(&poll, 1, 0) == 1 && !hung_up(fd);
    });
  }
  [[nodiscard]] bool there() const {
    struct stat info{};
    return ::lstat(path_.c_str(), &info) == 0;
  }

  std::string folder_, path_;
  EventLoop loop_ = std::move(*EventLoop::create());
  FakeDevice device_;
  std::vector<std::string> log_;
};

TEST_F(ServerTest, ServesAFrontEnd) {
  const auto server = serve(Endpoint::listen(path_));
  const UniqueFd client = connect();
  EXPECT_TRUE(answers(client));
  EXPECT_TRUE(server->connected());
  EXPECT_EQ(server->connections(), 1u);
}

TEST_F(ServerTest, RefusesASecondFrontEndAtOnce) {
  const auto server = serve(Endpoint::listen(path_));
  const UniqueFd first = connect();
  EXPECT_TRUE(answers(first));
  const UniqueFd second = connect();
  EXPECT_TRUE(run(milliseconds(100), [&] { return hung_up(second); }));
  EXPECT_TRUE(answers(first)) << "and the first goes on";
}

TEST_F(ServerTest, ServesTheNextFrontEndWhenOneIsGone) {
  const auto server = serve(Endpoint::listen(path_));
  for (std::uint64_t i = 1; i <= 50; ++i) {
    const UniqueFd client = connect();
    EXPECT_TRUE(answers(client));
    EXPECT_EQ(server->connections(), i);
    ::shutdown(client.get(), SHUT_RDWR);
    EXPECT_TRUE(run(milliseconds(1000), [&] { return !server->connected(); }));
  }
}

TEST_F(ServerTest, SurvivesAFloodOfConnections) {
  const std::size_t before = open_fds();
  {
    const auto server = serve(Endpoint::listen(path_));
    for (int i = 0; i < 500; ++i) {
      std::vector<UniqueFd> flood;
      for (int j = 0; j < 5; ++j) flood.push_back(connect());
      run(milliseconds(0));
    }
    run(milliseconds(10));
    const UniqueFd client = connect();
    EXPECT_TRUE(answers(client));
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(ServerTest, HalfAMessageHoldsUpNobodyElse) {
  const auto server = serve(Endpoint::listen(path_));
  const UniqueFd client = connect();
  EXPECT_EQ(::write(client.get(), "\x01\x00", 2), 2);
  int ticks = 0;
  auto timer = loop_.every(milliseconds(1), [&] { ++ticks; });
  EXPECT_TRUE(run(milliseconds(20'000), [&] { return ticks > 10; }));
  loop_.forget(timer->get());
}

std::chrono::nanoseconds thread_cpu_time() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

TEST_F(ServerTest, ClosesTheConnectionWhoseMemoryIsCutShort) {
  // Whichever server on the loop is told first.
  FakeDevice idle;
  const auto log = [](LogLevel, std::string_view) {};
  const auto before = Server::start(loop_, idle, *Endpoint::connect(path_ + "1"), log);
  const auto server = serve(Endpoint::listen(path_));
  const auto after = Server::start(loop_, idle, *Endpoint::connect(path_ + "2"), log);
  ASSERT_TRUE(before && after);
  const UniqueFd client = connect();
  ASSERT_TRUE(answers(client));
  GuestMemory memory;
  FakeSplitDriver driver(memory);
  const auto say = [&](Request request, std::span<const std::byte> payload,
                       std::initializer_list<int> fds = {}) {
    EXPECT_TRUE(send_message(client.get(), static_cast<std::uint32_t>(request), 0, payload,
                             std::span(fds.begin(), fds.size())));
  };
  std::vector<std::byte> table(8 + sizeof(MemoryRegion));
  table[0] = std::byte{1};
  std::memcpy(table.data() + 8, &memory.regions()[0], sizeof(MemoryRegion));
  say(Request::set_features, bytes_of(bit(feature::version_1)));
  say(Request::set_mem_table, table, {memory.fds()[0].get()});
  say(Request::set_vring_num, bytes_of(VringState{0, 8}));
  const RingSetup setup = driver.setup();
  say(Request::set_vring_addr,
      bytes_of(VringAddr{0, 0, std::to_underlying(setup.descriptors),
                         std::to_underlying(setup.used), std::to_underlying(setup.available), 0}));
  const UniqueFd kick = FakeFrontend::event();
  say(Request::set_vring_kick, bytes_of(std::uint64_t{0}), {kick.get()});
  ASSERT_TRUE(run(milliseconds(1000), [&] { return device_.starts[0] == 1; }));

  ASSERT_EQ(::ftruncate(memory.fds()[0].get(), 0), 0);
  (void)device_.ring(0).arm_kick();
  EXPECT_TRUE(run(milliseconds(1000), [&] { return !server->connected(); }));
  EXPECT_TRUE(device_.running.empty());
  EXPECT_EQ(log_.back(), "the front-end is disconnected");

  const auto used = thread_cpu_time();
  run(milliseconds(200));
  EXPECT_LT(thread_cpu_time() - used, milliseconds(100)) << "the fault is over, and was told once";
}

TEST_F(ServerTest, ConnectsAndConnectsAgain) {
  UniqueFd listener = listen_there();
  const auto server = serve(Endpoint::connect(path_));
  auto soonest = milliseconds::max();  // of several times: a busy machine may delay any one of them
  for (int time = 0; time < 5; ++time) {
    UniqueFd front_end(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(front_end);
    EXPECT_TRUE(answers(front_end));
    front_end = UniqueFd();
    ASSERT_TRUE(run(milliseconds(1000), [&] { return !server->connected(); }));
    const auto gone = Clock::now();
    ASSERT_TRUE(run(milliseconds(1000), [&] { return server->connected(); }));
    soonest = std::min(soonest, std::chrono::duration_cast<milliseconds>(Clock::now() - gone));
  }
  EXPECT_LT(soonest, milliseconds(150));
}

TEST_F(ServerTest, ConnectsWhenSomebodyIsThereAtLast) {
  const auto server = serve(Endpoint::connect(path_));
  run(milliseconds(150));
  EXPECT_FALSE(server->connected());
  const UniqueFd listener = listen_there();
  EXPECT_TRUE(run(milliseconds(500), [&] { return server->connected(); }));
}

TEST_F(ServerTest, ServesAConnectionItIsGivenAndEndsWithIt) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  UniqueFd client(pair[0]);
  const auto server = serve(Endpoint::adopt(UniqueFd(pair[1])));
  EXPECT_TRUE(answers(client));
  client = UniqueFd();
  EXPECT_TRUE(loop_.run()) << "returns by itself";
  EXPECT_FALSE(server->connected());
}

TEST_F(ServerTest, ServesASocketThatListensAlready) {
  {
    const auto server = serve(Endpoint::adopt(listen_there()));
    const UniqueFd client = connect();
    EXPECT_TRUE(answers(client));
  }
  EXPECT_TRUE(there()) << "the socket file belongs to whoever made it";
}

// ---------------------------------------------------------------- endpoints

using EndpointTest = ServerTest;

TEST_F(EndpointTest, RemovesItsSocketFile) {
  {
    const auto endpoint = Endpoint::listen(path_);
    ASSERT_TRUE(endpoint);
    EXPECT_TRUE(there());
  }
  EXPECT_FALSE(there());
}

TEST_F(EndpointTest, LeavesASocketFileThatIsNotItsOwnAnyMore) {
  auto endpoint = Endpoint::listen(path_);
  ::unlink(path_.c_str());
  const UniqueFd other = listen_there();
  {
    const Endpoint end = std::move(*endpoint);
  }
  EXPECT_TRUE(there());
}

TEST_F(EndpointTest, GivesItsFileTheAccessAskedFor) {
  FileAccess access;
  access.mode = 0614;
  access.owner = ::geteuid();
  access.group = ::getegid();
  const auto endpoint = Endpoint::listen(path_, access);
  ASSERT_TRUE(endpoint) << endpoint.error().what;
  struct stat info{};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0614u);
  EXPECT_EQ(info.st_uid, ::geteuid());
  EXPECT_EQ(info.st_gid, ::getegid());
  EXPECT_TRUE(connect());
}

TEST_F(EndpointTest, GivesItsFileToAnother) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may give a file away";
  struct stat info{};
  {
    const auto endpoint = Endpoint::listen(path_, {.owner = 12345, .group = {}, .mode = {}});
    ASSERT_TRUE(endpoint) << endpoint.error().what;
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, 12345u);
    EXPECT_EQ(info.st_gid, ::getegid());
  }
  const auto endpoint = Endpoint::listen(path_, {.owner = {}, .group = 12346, .mode = {}});
  ASSERT_TRUE(endpoint) << endpoint.error().what;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, ::geteuid());
  EXPECT_EQ(info.st_gid, 12346u);
}

TEST_F(EndpointTest, LeavesNoFileThatItCouldNotGive) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may give a file to anybody";
  const auto endpoint = Endpoint::listen(path_, {.owner = 0, .group = {}, .mode = {}});
  ASSERT_FALSE(endpoint);
  EXPECT_EQ(endpoint.error().fault, Fault::operator_);
  EXPECT_FALSE(there());
}

TEST_F(EndpointTest, ReplacesAStaleSocketFile) {
  {
    const UniqueFd dead = listen_there();
  }
  ASSERT_TRUE(there());
  EXPECT_TRUE(Endpoint::listen(path_));
}

TEST_F(EndpointTest, RefusesASocketSomebodyListensOn) {
  const UniqueFd live = listen_there();
  const auto endpoint = Endpoint::listen(path_);
  ASSERT_FALSE(endpoint);
  EXPECT_EQ(endpoint.error().fault, Fault::operator_);
  EXPECT_NE(endpoint.error().what.find(path_), std::string::npos);
  EXPECT_TRUE(there());
}

TEST_F(EndpointTest, KeepsAFileThatIsNoSocket) {
  {
    const UniqueFd file(::open(path_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  }
  EXPECT_FALSE(Endpoint::listen(path_));
  EXPECT_TRUE(there());
}

TEST_F(EndpointTest, TakesAPathOf107BytesAndNoMore) {
  std::string longest = folder_ + "/";
  longest.resize(107, 'x');
  EXPECT_TRUE(Endpoint::listen(longest));
  EXPECT_TRUE(Endpoint::connect(longest));
  EXPECT_FALSE(Endpoint::listen(longest + "x"));
  EXPECT_FALSE(Endpoint::connect(longest + "x"));
  EXPECT_FALSE(Endpoint::listen(""));
}

TEST_F(EndpointTest, RefusesAFolderThatIsNotThere) {
  EXPECT_FALSE(Endpoint::listen(folder_ + "/none/socket"));
}

TEST_F(EndpointTest, RefusesDescriptorsThatAreNoUnixStreams) {
  EXPECT_FALSE(Endpoint::adopt(FakeFrontend::event()));
  EXPECT_FALSE(Endpoint::adopt(UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))));
  EXPECT_FALSE(Endpoint::adopt(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))));
  EXPECT_FALSE(Endpoint::adopt(UniqueFd(987)));
}

}  // namespace
}  // namespace vhost::tests
