// The stats file, and what the service manager is told.
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

using nlohmann::json;

class Stats : public Served {
 protected:
  /// The statistics of queue 0, once it has served so many requests.
  [[nodiscard]] json queue_after(std::uint64_t requests) {
    return stats_when(stats,
                      [&](const json& s) {
                        return !s.at("queues").empty() &&
                               s.at("queues").at(0).at("requests") >= requests;
                      })
        .at("queues")
        .at(0);
  }
};

TEST_F(Stats, HaveTheKeysOfTheirSchema) {
  serve();
  auto disk = guest();
  disk.write(0, 1, 4096);
  (void)queue_after(1);
  const json all = read_stats(stats);
  EXPECT_EQ(all.at("schema"), 1);
  EXPECT_EQ(all.at("program"), "vhost-user-blk");
  EXPECT_EQ(all.at("pid"), daemon->pid());
  EXPECT_EQ(all.at("socket"), socket);
  for (const char* key : {"version", "uptime_ms", "disk", "connection", "queues"}) {
    EXPECT_TRUE(all.contains(key)) << key;
  }
  for (const char* key :
       {"image", "null", "size_bytes", "block_bytes", "read_only", "cache", "serial"}) {
    EXPECT_TRUE(all.at("disk").contains(key)) << key;
  }
  for (const char* key : {"connected", "connections", "messages_refused", "hung_calls", "features",
                          "protocol_features", "memory_regions", "running_queues", "iommu"}) {
    EXPECT_TRUE(all.at("connection").contains(key)) << key;
  }
  const json& queue = all.at("queues").at(0);
  for (const char* key : {"index", "requests", "bytes", "errors", "bursts", "merged_bursts",
                          "kicks", "calls", "calls_suppressed", "bounced", "in_flight"}) {
    EXPECT_TRUE(queue.contains(key)) << key;
  }
  for (const char* op : {"read", "write", "flush", "discard", "write_zeroes", "get_id", "other"}) {
    const json& operation = queue.at("operations").at(op);
    for (const char* key : {"requests", "bytes", "io_errors", "unsupported"}) {
      EXPECT_TRUE(operation.contains(key)) << op << ' ' << key;
    }
    for (const char* key : {"min", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max"}) {
      EXPECT_TRUE(operation.at("latency_ns").contains(key)) << op << ' ' << key;
    }
  }
}

TEST_F(Stats, CountRequestsAndBytesByOperation) {
  serve();
  auto disk = guest();
  for (std::uint64_t i = 0; i < 5; ++i) disk.write(i * 8, i, 4096);
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(disk.reads(i * 8, i, 4096));
  must(disk->flush());
  must(disk->discard(0, 8));
  must(disk->write_zeroes(0, 8, false));
  (void)must(disk->get_id());
  const json queue = queue_after(12);
  EXPECT_EQ(queue.at("requests"), 12);
  EXPECT_EQ(queue.at("bytes"), 10 * 4096) << "ranges count like data";
  const json& operations = queue.at("operations");
  EXPECT_EQ(operations.at("write").at("requests"), 5);
  EXPECT_EQ(operations.at("write").at("bytes"), 5 * 4096);
  EXPECT_EQ(operations.at("read").at("requests"), 3);
  EXPECT_EQ(operations.at("read").at("bytes"), 3 * 4096);
  for (const char* op : {"flush", "discard", "write_zeroes", "get_id"}) {
    EXPECT_EQ(operations.at(op).at("requests"), 1) << op;
  }
  for (const char* op : {"discard", "write_zeroes"}) {
    EXPECT_EQ(operations.at(op).at("bytes"), 4096) << op;
  }
  EXPECT_GT(operations.at("read").at("latency_ns").at("max"), 0);
  EXPECT_EQ(queue.at("in_flight"), 0);
}

TEST_F(Stats, CountErrorsByKind) {
  serve();
  auto disk = guest();
  const Buffer data = disk.allocate(4096);
  const Segment piece = data.segment(0, 4096);
  const Segment status = disk.allocate(1).segment();
  const std::uint64_t beyond = image_bytes / sector;
  EXPECT_EQ(must(disk->perform({.sector = beyond, .data = std::span(&piece, 1)})),
            BlkStatus::io_error);
  const vhost::frontend::BlkHeader unknown{77, 0, 0};
  std::memcpy(data.data, &unknown, sizeof unknown);
  const Segment header = data.segment(0, 16);
  EXPECT_EQ(disk.perform(std::span(&header, 1), std::span(&status, 1)), BlkStatus::unsupported);
  EXPECT_EQ(disk.perform(std::span(&header, 1), {}), BlkStatus::untouched);
  const json errors = queue_after(3).at("errors");
  EXPECT_EQ(errors.at("invalid"), 1);
  EXPECT_EQ(errors.at("io"), 0);
  EXPECT_EQ(errors.at("unsupported"), 1);
  EXPECT_EQ(errors.at("unanswerable"), 1);
  EXPECT_EQ(errors.at("broken_ring"), 0);
}

TEST_F(Stats, CountKicksAndCalls) {
  serve();
  BlkOptions options;
  options.wishes.features &= ~vhost::bit(vhost::feature::event_idx);
  auto disk = guest(options);
  for (std::uint64_t i = 0; i < 20; ++i) {
    disk.write(i * 8, i, 4096);
    ::usleep(3000);  // long enough for a worker to sleep
  }
  const json queue = queue_after(20);
  EXPECT_GT(queue.at("kicks"), 0);
  EXPECT_LE(queue.at("kicks"), 21);
  const auto calls = queue.at("calls").get<int>();
  EXPECT_GT(calls, 0);
  EXPECT_EQ(calls + queue.at("calls_suppressed").get<int>(), 20);
  EXPECT_GE(disk->device().queue(0).counters().kicks, queue.at("kicks").get<std::uint64_t>());
}

TEST_F(Stats, TellWhoIsConnected) {
  serve();
  EXPECT_FALSE(read_stats(stats).at("connection").at("connected"));
  {
    auto disk = guest(with_queues(3));
    const json now = stats_when(
        stats, [](const json& s) { return s.at("connection").at("running_queues") == 3; });
    EXPECT_TRUE(now.at("connection").at("connected"));
    EXPECT_EQ(now.at("connection").at("memory_regions"), 1);
    const auto& names = now.at("connection").at("features");
    EXPECT_NE(std::find(names.begin(), names.end(), "VIRTIO_BLK_F_FLUSH"), names.end());
  }
  const json after =
      stats_when(stats, [](const json& s) { return !s.at("connection").at("connected"); });
  EXPECT_EQ(after.at("connection").at("connections"), 1);
}

TEST_F(Stats, AreWholeWheneverSomebodyReads) {
  interval = "0.01";
  serve();
  auto disk = guest();
  Load load(disk, {});
  std::uint64_t uptime = 0;
  int rewritten = 0;
  for (int i = 0; i < 1000 || rewritten < 5; ++i) {
    if (i % 50 == 0) load.run(4);
    const auto now = read_stats(stats).at("uptime_ms").get<std::uint64_t>();
    EXPECT_GE(now, uptime);
    rewritten += now != uptime;
    uptime = now;
  }
}

TEST_F(Stats, AMissingFolderIsAWarningAndNoEnd) {
  image = make_image(folder, image_bytes);
  daemon = std::make_unique<Daemon>(
      folder, Strings{"--socket-path", socket, "--blk-file", image, "--stats-file",
                      folder / "nowhere/stats", "--stats-interval", "0.01"});
  auto disk = guest();
  disk.write(0, 1, 4096);
  ::usleep(50'000);
  EXPECT_TRUE(disk.reads(0, 1, 4096));
  const std::string words = daemon->words();
  const auto first = words.find("is not written");
  ASSERT_NE(first, std::string::npos) << words;
  EXPECT_EQ(words.find("is not written", first + 1), std::string::npos) << "told once is enough";
  std::filesystem::create_directory(folder / "nowhere");
  EXPECT_TRUE(eventually([&] { return std::filesystem::exists(folder / "nowhere/stats"); }));
}

TEST_F(Stats, TellTheEndToo) {
  interval = "3600";
  serve();
  {
    auto disk = guest();
    disk.write(0, 1, 4096);
  }
  EXPECT_EQ(daemon->terminate(), good_end);
  EXPECT_EQ(read_stats(stats).at("queues").at(0).at("requests"), 1);
}

/// The service manager's end of NOTIFY_SOCKET.
class Manager {
 public:
  explicit Manager(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    const timeval patience{5 * slowness, 0};
    if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0) {
      throw std::runtime_error("cannot listen at " + path);
    }
  }
  /// Empty if nothing comes.
  [[nodiscard]] std::string next() const {
    std::string text(4096, '\0');
    const ssize_t got = ::recv(fd_.get(), text.data(), text.size(), 0);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
  }

 private:
  vhost::UniqueFd fd_;
};

TEST_F(Stats, TheServiceManagerHearsOfReadinessLifeAndEnd) {
  image = make_image(folder, image_bytes);
  const Manager manager(folder / "notify");
  daemon = std::make_unique<Daemon>(
      folder, Strings{"--socket-path", socket, "--blk-file", image},
      Launch{.environment = {"NOTIFY_SOCKET=" + (folder / "notify"), "WATCHDOG_USEC=100000"}});
  EXPECT_NE(manager.next().find("READY=1"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(socket)) << "ready means that it listens";
  for (int i = 0; i < 3; ++i) EXPECT_NE(manager.next().find("WATCHDOG=1"), std::string::npos);
  daemon->signal(SIGTERM);
  std::string last;
  do last = manager.next();
  while (last.find("WATCHDOG") != std::string::npos);
  EXPECT_NE(last.find("STOPPING=1"), std::string::npos);
  EXPECT_EQ(daemon->terminate(), good_end);
}

}  // namespace
}  // namespace integration
