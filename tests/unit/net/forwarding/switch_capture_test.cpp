#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/net/forwarding/switch_fixture.hpp"

namespace net::tests {
namespace {

/// What is captured of a port, looked at as bytes.
class SwitchCaptureTest : public SwitchTest {
 protected:
  ~SwitchCaptureTest() override { std::filesystem::remove_all(directory); }

  std::filesystem::path capture(unsigned port) {
    const auto path = directory / std::to_string(port);
    auto made = Capture::create(path, setups[port].name);
    EXPECT_TRUE(made);
    setups[port].capture = std::move(*made);
    return path;
  }
  static bool holds(const std::filesystem::path& file, const Bytes& bytes) {
    std::ifstream stream(file, std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(stream), {});
    const auto* const first = reinterpret_cast<const char*>(bytes.data());
    return text.find(std::string(first, bytes.size())) != std::string::npos;
  }

  std::string pattern = ::testing::TempDir() + "capture.XXXXXX";
  const std::filesystem::path directory = ::mkdtemp(pattern.data());
};

TEST_F(SwitchCaptureTest, ShowsFramesAsTheyAreOnThePort) {
  add_port(trunk_of({5}));
  add_port(VlanPolicy::access(5));
  add_port(trunk_of({6}));
  const auto in = capture(0);
  const auto out = capture(1);
  const auto none = capture(2);
  start();
  EXPECT_TRUE(subject->captures());
  const auto tagged = plain_frame(broadcast, station(1), 7, {{5}});
  const auto bare = plain_frame(broadcast, station(1), 7);
  const auto refused = plain_frame(broadcast, station(1), 8, {{9}});
  send(0, {tagged, refused});
  ASSERT_TRUE(subject->write_captures());
  EXPECT_TRUE(holds(in, tagged));
  EXPECT_TRUE(holds(in, refused)) << "it was on the wire";
  EXPECT_TRUE(holds(out, bare));
  EXPECT_FALSE(holds(out, tagged));
  EXPECT_FALSE(holds(none, bare));
  EXPECT_FALSE(holds(none, tagged));
  EXPECT_EQ(subject->capture_lost(PortId{0}), 0U);
}

TEST_F(SwitchCaptureTest, ShowsBothDirectionsOfAPatch) {
  add_port();
  add_port();
  const auto file = capture(0);
  start({.patch = true});
  send(0, plain_frame(station(2), station(1)));
  send(1, plain_frame(station(1), station(2)));
  ASSERT_TRUE(subject->write_captures());
  EXPECT_TRUE(holds(file, plain_frame(station(2), station(1))));
  EXPECT_TRUE(holds(file, plain_frame(station(1), station(2))));
}

TEST_F(SwitchCaptureTest, TellsOfEveryCaptureThatFails) {
  for (unsigned port = 0; port < 2; ++port) {
    add_port();
    auto made = Capture::create("/dev/full", "port");
    ASSERT_TRUE(made);
    setups[port].capture = std::move(*made);
  }
  start();
  const auto written = subject->write_captures();
  ASSERT_FALSE(written);
  const auto first = written.error().what.find("/dev/full");
  ASSERT_NE(first, std::string::npos);
  EXPECT_NE(written.error().what.find("/dev/full", first + 1), std::string::npos);
  EXPECT_TRUE(subject->write_captures());
  send(0, plain_frame(station(2), station(1)));
  EXPECT_EQ(subject->capture_lost(PortId{0}), 1U);
  EXPECT_EQ(subject->capture_lost(PortId{1}), 1U);
}

TEST_F(SwitchCaptureTest, IsNotThereIfNobodyAsked) {
  start_with(2);
  EXPECT_FALSE(subject->captures());
  EXPECT_TRUE(subject->write_captures());
  EXPECT_EQ(subject->capture_lost(PortId{0}), 0U);
}

}  // namespace
}  // namespace net::tests
