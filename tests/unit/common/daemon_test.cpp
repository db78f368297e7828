#include "common/daemon.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/log.hpp"
#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

/// A control loop whose signals are of this test alone.
class ControlLoopTest : public testing::Test {
 protected:
  ~ControlLoopTest() override {
    while (next_end_signal()) {
    }
    ::pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  }
  void SetUp() override {
    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask_before_);
    auto control = ControlLoop::create();
    ASSERT_TRUE(control) << control.error().what;
    control_ = std::move(*control);
  }
  [[nodiscard]] static bool next_end_signal() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
    const timespec now{};
    return ::sigtimedwait(&set, nullptr, &now) > 0;
  }
  void take_on(ControlLoop::Duties duties) {
    const auto taken = control_->take_on(std::move(duties));
    ASSERT_TRUE(taken) << taken.error().what;
  }

  sigset_t mask_before_{};
  test::TempFolder folder_;
  std::unique_ptr<ControlLoop> control_;
};

TEST_F(ControlLoopTest, EndsWithEitherSignal) {
  for (const int signal : {SIGTERM, SIGINT}) {
    control_ = std::move(*ControlLoop::create());
    take_on({});
    ::raise(signal);
    EXPECT_TRUE(control_->run());
  }
}

TEST_F(ControlLoopTest, TellsOfAHangupAndGoesOn) {
  int hangups = 0;
  ControlLoop::Duties duties;
  duties.on_hangup = [&] {
    if (++hangups == 2) control_->loop().stop();
    ::raise(SIGHUP);
  };
  take_on(std::move(duties));
  ::raise(SIGHUP);
  EXPECT_TRUE(control_->run());
  EXPECT_EQ(hangups, 2);
}

TEST_F(ControlLoopTest, WritesStatisticsAtOnceAtTheirIntervalAndAtTheEnd) {
  int written = 0;
  ControlLoop::Duties duties;
  duties.stats_file = folder_ / "stats";
  duties.stats_interval = milliseconds(10);
  duties.stats = [&](std::chrono::steady_clock::duration uptime) -> nlohmann::json {
    EXPECT_LT(uptime, std::chrono::seconds(60));
    if (++written == 3) control_->loop().stop();
    return {{"written", written}};
  };
  take_on(std::move(duties));
  EXPECT_EQ(written, 1);
  EXPECT_TRUE(control_->run());
  EXPECT_EQ(written, 4);
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(folder_ / "stats"))["written"], 4);
}

TEST_F(ControlLoopTest, WritesNoStatisticsUnlessItIsTold) {
  ControlLoop::Duties duties;
  duties.stats = [](std::chrono::steady_clock::duration) -> nlohmann::json {
    ADD_FAILURE() << "nobody asked";
    return {};
  };
  take_on(std::move(duties));
  ::raise(SIGTERM);
  EXPECT_TRUE(control_->run());
}

TEST_F(ControlLoopTest, GivesASignOfLifeOnlyWhileTheWorkersDo) {
  ::setenv("NOTIFY_SOCKET", (folder_ / "nobody").c_str(), 1);
  ::setenv("WATCHDOG_USEC", "20000", 1);
  control_ = std::move(*ControlLoop::create());
  ::unsetenv("NOTIFY_SOCKET");
  ::unsetenv("WATCHDOG_USEC");
  int asked = 0;
  ControlLoop::Duties duties;
  duties.alive = [&] {
    if (++asked == 2) control_->loop().stop();
    return false;
  };
  take_on(std::move(duties));
  EXPECT_TRUE(control_->run());
  EXPECT_EQ(asked, 2);
}

TEST_F(ControlLoopTest, ShowsTheEndToWorkersThatAreWaitedFor) {
  pollfd look{control_->end_signal(), POLLIN, 0};
  EXPECT_EQ(::poll(&look, 1, 0), 0);
  ::raise(SIGTERM);
  EXPECT_EQ(::poll(&look, 1, 0), 1);
}

TEST(LibraryLog, HasItsPrefixAndIsLimited) {
  CaptureStderr();
  log::set_up(log::Level::info, log::Style::journal);
  const vhost::Log library = library_log("port a: ");
  for (int i = 0; i < 60; ++i) library(vhost::LogLevel::info, "line " + std::to_string(i) + ".");
  library_log("")(vhost::LogLevel::info, "another");
  log::set_up(log::Level::off, log::Style::journal);
  const std::string written = GetCapturedStderr();
  EXPECT_THAT(written, HasSubstr("port a: line 0."));
  EXPECT_THAT(written, HasSubstr("line 49."));
  EXPECT_THAT(written, Not(HasSubstr("line 50.")));
  EXPECT_THAT(written, HasSubstr(">another"));
}

TEST(EndWith, IsTheStatusOfWhoseFaultItWas) {
  CaptureStderr();
  EXPECT_EQ(end_with("daemon", {vhost::Fault::operator_, "a"}), 2);
  EXPECT_EQ(end_with("daemon", {vhost::Fault::host, "b"}), 1);
  EXPECT_EQ(GetCapturedStderr(), "daemon: a\ndaemon: b\n");
}

TEST(DescriptorLimit, IsTheHardOne) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 100;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  raise_descriptor_limit();
  rlimit after{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace common
