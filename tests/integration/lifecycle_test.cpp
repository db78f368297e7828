// How the daemon begins, meets its front-ends, and ends.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>

#include <gmock/gmock.h>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using testing::HasSubstr;
using vhost::UniqueFd;
using vhost::frontend::Connection;

/// A socket of ours that listens at `path`.
UniqueFd listener(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), 4) != 0) {
    throw std::runtime_error("cannot listen at " + path);
  }
  return fd;
}

class Lifecycle : public Served {
 protected:
  void make() { image = make_image(folder, image_bytes); }
  static bool works(Guest& disk, std::uint64_t seed) {
    disk.write(8, seed, 64 * kibi);
    return disk.reads(8, seed, 64 * kibi);
  }
};

TEST_F(Lifecycle, SigtermEndsItAndRemovesTheSocket) {
  serve();
  {
    auto disk = guest();
    EXPECT_TRUE(works(disk, 1));
  }
  EXPECT_EQ(daemon->terminate(), good_end);
  EXPECT_FALSE(std::filesystem::exists(socket));
}

/// As the hosts that a guest moves from and to.
TEST_F(Lifecycle, TwoDaemonsHandAnImageOver) {
  serve({"--lock", "running"});
  const std::string second_socket = folder / "second";
  Daemon second(folder, {"--socket-path", second_socket, "--blk-file", image, "--lock", "running"});
  auto source = guest();
  EXPECT_TRUE(works(source, 1));
  EXPECT_THROW(Guest{second_socket}, std::runtime_error) << "the first has it";
  EXPECT_THAT(second.words(), HasSubstr("another process has the image open for writing"));
  must(source->stop());
  {
    Guest target(second_socket);
    EXPECT_TRUE(target.reads(8, 1, 64 * kibi));
    EXPECT_TRUE(works(target, 2));
  }
  must(source->start());
  EXPECT_TRUE(source.reads(8, 2, 64 * kibi));
  EXPECT_EQ(second.terminate(), good_end) << "it still serves, and may end";
}

/// The lock ends with the last write of the dead, as ever.
TEST_F(Lifecycle, ADaemonThatLocksLateServesAfterAKill) {
  serve({"--lock", "running"});
  auto disk = guest();
  Load load(disk, {.blocks = 256, .block_bytes = 128 * kibi, .depth = 64});
  for (int round = 0; round < 5; ++round) {
    load.submit();
    (void)load.reap();
  }
  load.submit();
  daemon->kill();
  restart({"--lock", "running"});
  must(disk->reconnect(connect(socket)));
  load.settle();
  load.verify();
  EXPECT_EQ(daemon->terminate(), good_end);
}

TEST_F(Lifecycle, SigintEndsItLikeSigterm) {
  serve();
  (void)connect(socket);
  daemon->signal(SIGINT);
  EXPECT_EQ(daemon->end_within(milliseconds(2000) * slowness), good_end);
  EXPECT_FALSE(std::filesystem::exists(socket));
}

TEST_F(Lifecycle, SigtermUnderLoadEndsItWithinTwoSeconds) {
  serve({"--workers", "2"});
  auto disk = guest();
  Load load(disk, {.blocks = 256, .block_bytes = 128 * kibi, .depth = 64});
  for (int round = 0; round < 5; ++round) {
    load.submit();
    (void)load.reap();
  }
  load.submit();
  const auto began = std::chrono::steady_clock::now();
  daemon->signal(SIGTERM);
  EXPECT_EQ(daemon->end_within(milliseconds(10000) * slowness), good_end);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(2) * slowness);
  EXPECT_FALSE(std::filesystem::exists(socket));
  while (load.reap()) {
  }
  restart();
  must(disk->reconnect(connect(socket)));
  load.settle();
  load.verify();
}

TEST_F(Lifecycle, SigtermBeforeAnybodyConnectedEndsIt) {
  serve();
  ASSERT_TRUE(eventually([&] { return std::filesystem::exists(socket); }));
  EXPECT_EQ(daemon->terminate(), good_end);
  EXPECT_FALSE(std::filesystem::exists(socket));
}

TEST_F(Lifecycle, OneFrontEndAfterAnotherIsServed) {
  serve();
  for (std::uint64_t round = 1; round <= 30; ++round) {
    auto disk = guest();
    EXPECT_TRUE(works(disk, round));
  }
}

TEST_F(Lifecycle, AFrontEndMayComeAtOnceAfterOneThatWentInTheMiddleOfItsWords) {
  serve();
  for (std::uint64_t round = 1; round <= 50; ++round) {
    {
      auto hasty = connect(socket);
      for (int i = 0; i < 150; ++i) {
        const auto request = static_cast<std::uint32_t>(vhost::Request::set_owner);
        if (!hasty.send_raw(request, 0, {})) break;
      }
    }
    auto disk = guest();
    EXPECT_TRUE(works(disk, round));
  }
}

TEST_F(Lifecycle, ASecondFrontEndIsRefusedAtOnceWhileTheFirstGoesOn) {
  serve();
  auto disk = guest();
  Load load(disk, {});
  for (int i = 0; i < 20; ++i) {
    load.submit();
    auto second = connect(socket);
    EXPECT_TRUE(second.closed_within(milliseconds(1000) * slowness));
    load.settle();
  }
  EXPECT_TRUE(works(disk, 1));
}

TEST_F(Lifecycle, AStaleSocketIsReplaced) {
  make();
  (void)listener(socket);  // its owner is gone, its file stays
  ASSERT_TRUE(std::filesystem::exists(socket));
  serve();
  auto disk = guest();
  EXPECT_TRUE(works(disk, 1));
}

TEST_F(Lifecycle, AfterAKillItsOwnSocketIsReplaced) {
  serve();
  {
    auto disk = guest();
  }
  daemon->kill();
  ASSERT_TRUE(std::filesystem::exists(socket));
  restart();
  auto disk = guest();
  EXPECT_TRUE(works(disk, 1));
}

TEST_F(Lifecycle, AConnectedDescriptorIsServedUntilItEnds) {
  make();
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  UniqueFd theirs(pair[1]);
  UniqueFd ours(pair[0]);
  daemon = std::make_unique<Daemon>(
      folder, Strings{"--fd", std::to_string(theirs.get()), "--blk-file", image},
      Launch{.inherit_fd = theirs.get()});
  theirs = UniqueFd();
  {
    Guest disk(must(Connection::adopt(std::move(ours))), {}, 32 * mebi);
    EXPECT_TRUE(works(disk, 1));
  }
  EXPECT_EQ(daemon->end_within(milliseconds(2000) * slowness), good_end);
}

TEST_F(Lifecycle, AListeningDescriptorIsServedAgainAndAgain) {
  make();
  UniqueFd listening = listener(socket);
  daemon = std::make_unique<Daemon>(
      folder, Strings{"--fd", std::to_string(listening.get()), "--blk-file", image},
      Launch{.inherit_fd = listening.get()});
  for (std::uint64_t round = 1; round <= 3; ++round) {
    auto disk = guest();
    EXPECT_TRUE(works(disk, round));
  }
  EXPECT_EQ(daemon->terminate(), good_end);
}

TEST_F(Lifecycle, AsClientItConnectsAgainAndAgain) {
  make();
  daemon = std::make_unique<Daemon>(
      folder, Strings{"--client", "--socket-path", socket, "--blk-file", image});
  ::usleep(20'000);  // nobody listens yet
  const UniqueFd listening = listener(socket);
  for (std::uint64_t round = 1; round <= 3; ++round) {
    Guest disk(must(Connection::adopt(UniqueFd(::accept(listening.get(), nullptr, nullptr)))), {},
               32 * mebi);
    EXPECT_TRUE(works(disk, round));
  }
  EXPECT_EQ(daemon->terminate(), good_end);
}

TEST_F(Lifecycle, ASecondDaemonOnTheImageRefusesInOneSentence) {
  serve();
  {
    auto disk = guest();
  }
  const Folder other;
  Daemon second(other, {"--socket-path", other / "socket", "--blk-file", image});
  const auto end = second.end_within(milliseconds(9000) * slowness);  // it waits for five seconds
  ASSERT_TRUE(end);
  EXPECT_GT(end->status, 0);
  EXPECT_NE(second.words().find("another process has the image open for writing"),
            std::string::npos)
      << second.words();
  EXPECT_EQ(other.list(), Strings{"stderr"});
  auto disk = guest();
  EXPECT_TRUE(works(disk, 1));
}

TEST_F(Lifecycle, TwoReadersOfAnImageAreServedAtOnce) {
  serve({"--read-only"});
  auto disk = guest();
  const Folder other;
  Daemon second(other, {"--socket-path", other / "socket", "--blk-file", image, "--read-only"});
  Guest reader(other / "socket");
  std::vector<std::byte> bytes(512);
  EXPECT_TRUE(disk->read(0, bytes));
  EXPECT_TRUE(reader->read(0, bytes));
}

TEST_F(Lifecycle, AKilledDaemonLetsTheImageGo) {
  serve();
  {
    auto disk = guest();
    Load load(disk, {.blocks = 64, .block_bytes = 256 * kibi, .depth = 16});
    load.submit();
    daemon->kill();
  }
  Guest disk(resurrect(), {}, 32 * mebi);
  EXPECT_TRUE(works(disk, 1));
}

TEST_F(Lifecycle, AGrownImageIsToldAndUsable) {
  serve();
  auto disk = guest();
  ASSERT_EQ(::truncate(image.c_str(), 2 * image_bytes), 0);
  daemon->signal(SIGHUP);
  ASSERT_TRUE(eventually([&] {
    (void)disk->device().connection().serve_channel();
    return disk->device().take_config_changed();
  }));
  must(disk->refresh_config());
  EXPECT_EQ(disk->capacity_bytes(), 2 * image_bytes);
  const std::uint64_t last = 2 * image_bytes / sector - 8;
  disk.write(last, 1, 4096);
  EXPECT_TRUE(disk.reads(last, 1, 4096));
  EXPECT_TRUE(image_holds(last, 1, 4096));
}

TEST_F(Lifecycle, ASighupWithoutNewsDisturbsNobody) {
  serve();
  auto disk = guest();
  Load load(disk, {});
  for (int i = 0; i < 20; ++i) {
    load.submit();
    daemon->signal(SIGHUP);
    load.settle();
  }
  (void)disk->device().connection().serve_channel();
  EXPECT_FALSE(disk->device().take_config_changed());
}

TEST_F(Lifecycle, AResizeUnderLoadDisturbsNobody) {
  serve({"--workers", "2"});
  auto disk = guest(with_queues(2));
  Load load(disk, {.depth = 32});
  Load other(disk, {.queue = 1, .first_sector = image_bytes / sector / 2});
  for (std::uint64_t i = 1; i <= 20; ++i) {
    load.submit();
    other.submit();
    ASSERT_EQ(::truncate(image.c_str(), static_cast<off_t>(image_bytes + i * mebi)), 0);
    daemon->signal(SIGHUP);
    load.settle();
    other.settle();
  }
  load.verify();
}

TEST_F(Lifecycle, AfterLoadItSleeps) {
  serve({"--workers", "2"});
  auto disk = guest(with_queues(4));
  for (std::size_t queue = 0; queue < 4; ++queue) {
    Load load(disk, {.queue = queue, .first_sector = queue * 4096, .depth = 8});
    load.run(200);
  }
  ::usleep(100'000);
  const auto before = daemon->cpu_time();
  ::usleep(2'000'000);
  // Fifty documents a second are written meanwhile; a worker that looked on would take seconds.
  EXPECT_LE((daemon->cpu_time() - before).count(), 200 * slowness);
}

}  // namespace
}  // namespace integration
