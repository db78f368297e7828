#include "backends/blk/stats_document.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/unit/blk/guest_queue.hpp"
#include "tests/unit/blk/scratch.hpp"

namespace blk {
namespace {

using nlohmann::json;
using testing_tools::GuestMemory;
using testing_tools::GuestQueue;

/// A null disk of two queues, listening, and its document.
class BlkStatsDocument : public testing::Test {
 protected:
  BlkStatsDocument() {
    settings_.socket_path = folder_.path() + "/s";
    settings_.null_bytes = 1 << 20;
    settings_.cache = CacheMode::writeback;
    serve("a serial");
  }

  void serve(std::string_view serial) {
    server_.reset();
    Device::Setup setup;
    setup.disk.size_bytes = 1 << 20;
    setup.disk.set_serial(serial);
    setup.queues = 2;
    device_ = std::move(*Device::create(std::move(setup)));
    auto endpoint = vhost::Endpoint::listen(settings_.socket_path);
    server_ = std::move(*vhost::Server::start(loop_, *device_, std::move(*endpoint),
                                              [](vhost::LogLevel, std::string_view) {}));
  }

  /// Serves what the guest has offered on queue 1.
  void run_a_queue() {
    auto ring = vhost::SplitRing::create(guest_.driver().setup(), memory_.map());
    device_->start_ring(1, {std::move(*ring), kick_.shared(), call_.shared(), nullptr});
    (void)call_.wait();
    (void)device_->stop_ring(1);
  }
  [[nodiscard]] json document() const {
    return stats_document(settings_, *device_, *server_, std::chrono::milliseconds(1234));
  }

  testing_tools::ScratchFolder folder_;
  Settings settings_;
  vhost::EventLoop loop_ = std::move(*vhost::EventLoop::create());
  std::unique_ptr<Device> device_;
  std::unique_ptr<vhost::Server> server_;
  GuestMemory memory_;
  GuestQueue guest_{memory_};
  testing_tools::Event kick_, call_;
};

TEST_F(BlkStatsDocument, SaysWhoWrote) {
  const json all = document();
  EXPECT_EQ(all["schema"], 1);
  EXPECT_EQ(all["program"], "vhost-user-blk");
  EXPECT_EQ(all["version"], VHOST_BACKENDS_VERSION);
  EXPECT_EQ(all["pid"], ::getpid());
  EXPECT_EQ(all["uptime_ms"], 1234);
  EXPECT_EQ(all["socket"], settings_.socket_path);
}

TEST_F(BlkStatsDocument, SaysWhatIsServed) {
  const json disk = document()["disk"];
  EXPECT_EQ(disk["null"], true);
  EXPECT_EQ(disk["image"], "");
  EXPECT_EQ(disk["size_bytes"], 1 << 20);
  EXPECT_EQ(disk["block_bytes"], 512);
  EXPECT_EQ(disk["read_only"], false);
  EXPECT_EQ(disk["cache"], "writeback");
  EXPECT_EQ(disk["serial"], "a serial");
}

TEST_F(BlkStatsDocument, ShowsASerialOfFullLengthAndNotAByteMore) {
  serve("12345678901234567890");
  EXPECT_EQ(document()["disk"]["serial"], "12345678901234567890");
}

TEST_F(BlkStatsDocument, SaysThatNobodyIsConnected) {
  const json connection = document()["connection"];
  EXPECT_EQ(connection["connected"], false);
  EXPECT_EQ(connection["connections"], 0);
  EXPECT_EQ(connection["messages_refused"], 0);
  EXPECT_EQ(connection["hung_calls"], 0);
  EXPECT_EQ(connection["memory_regions"], 0);
  EXPECT_EQ(connection["running_queues"], 0);
  EXPECT_TRUE(connection["features"].empty());
  EXPECT_TRUE(connection["protocol_features"].empty());
  EXPECT_EQ(connection["iommu"].size(), 9u);
  for (const auto& [key, value] : connection["iommu"].items()) EXPECT_EQ(value, 0) << key;
}

TEST_F(BlkStatsDocument, ListsOnlyQueuesThatEverRan) {
  EXPECT_TRUE(document()["queues"].empty());
  run_a_queue();
  const json queues = document()["queues"];
  ASSERT_EQ(queues.size(), 1u);
  EXPECT_EQ(queues[0]["index"], 1);
}

TEST_F(BlkStatsDocument, CountsWhatAQueueDid) {
  (void)guest_.read(0, 1024);
  (void)guest_.read(1 << 30);
  (void)guest_.write(0, std::string(512, 'x'));
  (void)guest_.send_raw(77, 0, {});
  run_a_queue();
  const json queue = document()["queues"][0];
  EXPECT_EQ(queue["requests"], 4);
  EXPECT_EQ(queue["bytes"], 1536);
  EXPECT_EQ(queue["errors"]["io"], 0);
  EXPECT_EQ(queue["errors"]["invalid"], 1);
  EXPECT_EQ(queue["errors"]["unsupported"], 1);
  EXPECT_EQ(queue["errors"]["unanswerable"], 0);
  EXPECT_EQ(queue["errors"]["broken_ring"], 0);
  EXPECT_EQ(queue["in_flight"], 0);
  EXPECT_EQ(queue["calls"], 1);
  EXPECT_EQ(queue["calls_suppressed"], 0);
  EXPECT_EQ(queue["bursts"], 1);
  EXPECT_EQ(queue["merged_bursts"], 1);
  EXPECT_EQ(queue["kicks"], 0);
  EXPECT_EQ(queue["bounced"], 0);
  EXPECT_EQ(queue["left"], 0);
}

TEST_F(BlkStatsDocument, HasEveryOperationWithItsLatency) {
  (void)guest_.read(0, 1024);
  run_a_queue();
  const json operations = document()["queues"][0]["operations"];
  for (const auto* name :
       {"read", "write", "flush", "discard", "write_zeroes", "get_id", "other"}) {
    EXPECT_EQ(operations[name]["requests"], std::string(name) == "read" ? 1 : 0) << name;
  }
  EXPECT_EQ(operations["read"]["bytes"], 1024);
  EXPECT_EQ(operations["read"]["io_errors"], 0);
  EXPECT_EQ(operations["read"]["unsupported"], 0);
  const json latency = operations["read"]["latency_ns"];
  for (const auto* name : {"mean", "p50", "p90", "p99", "p99_9", "p99_99", "max"}) {
    EXPECT_EQ(latency[name], latency["min"]) << name;
  }
}

TEST_F(BlkStatsDocument, HasNoMeanOfNothing) {
  run_a_queue();
  EXPECT_EQ(document()["queues"][0]["operations"]["flush"]["latency_ns"]["mean"], 0);
}

}  // namespace
}  // namespace blk
