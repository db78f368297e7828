#include "backends/blk/settings.hpp"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/cpu.hpp"
#include "libvhost/memory/userfault.hpp"
#include "tests/unit/blk/scratch.hpp"

namespace blk {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStdout;

vhost::Result<std::optional<Settings>> read(std::vector<std::string> arguments) {
  std::vector<const char*> argv{"vhost-user-blk"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return read_settings(static_cast<int>(argv.size()), argv.data());
}

/// With a socket and an image, as nearly every command line has them.
std::vector<std::string> usual(std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--socket-path", "/run/x.sock", "--blk-file", "/srv/x.raw"});
  return more;
}

Settings accepted(const std::vector<std::string>& arguments) {
  const auto settings = read(arguments);
  if (!settings) {
    ADD_FAILURE() << settings.error().what;
    return {};
  }
  return **settings;
}

std::string refusal(const std::vector<std::string>& arguments) {
  const auto settings = read(arguments);
  if (settings) return "accepted";
  EXPECT_EQ(settings.error().fault, vhost::Fault::operator_);
  return settings.error().what;
}

TEST(BlkSettings, HaveTheDefaultsThatHelpTells) {
  const Settings settings = accepted(usual());
  EXPECT_EQ(settings.socket_path, "/run/x.sock");
  EXPECT_EQ(settings.blk_file, "/srv/x.raw");
  EXPECT_FALSE(settings.client);
  EXPECT_FALSE(settings.fd);
  EXPECT_FALSE(settings.null_bytes);
  EXPECT_FALSE(settings.read_only);
  EXPECT_EQ(settings.cache, CacheMode::none);
  EXPECT_EQ(settings.lock, LockWhile::serving);
  EXPECT_EQ(settings.serial, "");
  EXPECT_FALSE(settings.postcopy);
  EXPECT_EQ(settings.queues, 256);
  EXPECT_EQ(settings.workers, 1);
  EXPECT_TRUE(settings.cpus.empty());
  EXPECT_EQ(settings.stats_file, "");
  EXPECT_EQ(settings.stats_interval, std::chrono::seconds(1));
  EXPECT_EQ(settings.log_level, common::log::Level::info);
}

TEST(BlkSettings, TakeEveryFlag) {
  const std::string cpu = std::to_string(common::allowed_cpus()->front());
  const Settings settings = accepted(usual(
      {"--client",    "--read-only", "--cache",      "directsync", "--lock",           "running",
       "--serial",    "abc",         "--queues",     "4",          "--workers",        "2",
       "--cpus",      cpu,           "--stats-file", "/run/x",     "--stats-interval", "2",
       "--log-level", "debug"}));
  EXPECT_TRUE(settings.client);
  EXPECT_TRUE(settings.read_only);
  EXPECT_EQ(settings.cache, CacheMode::directsync);
  EXPECT_EQ(settings.lock, LockWhile::running);
  EXPECT_EQ(settings.serial, "abc");
  EXPECT_EQ(settings.queues, 4);
  EXPECT_EQ(settings.workers, 2);
  EXPECT_THAT(settings.cpus, ElementsAre(common::allowed_cpus()->front()));
  EXPECT_EQ(settings.stats_file, "/run/x");
  EXPECT_EQ(settings.stats_interval, std::chrono::seconds(2));
  EXPECT_EQ(settings.log_level, common::log::Level::debug);
}

TEST(BlkSettings, TakePostcopyWhereThisProcessMayHaveIt) {
  if (const auto possible = vhost::userfault::open()) {
    EXPECT_TRUE(accepted(usual({"--postcopy"})).postcopy);
  } else {
    EXPECT_EQ(refusal(usual({"--postcopy"})), "--postcopy: " + possible.error().what);
  }
}

TEST(BlkSettings, TakeAnInheritedSocketAndANullDisk) {
  const Settings settings = accepted({"--fd", "3", "--null", "1G"});
  EXPECT_EQ(settings.fd, 3);
  EXPECT_EQ(settings.null_bytes, std::uint64_t{1} << 30U);
  EXPECT_EQ(settings.socket_path, "");
}

TEST(BlkSettings, KnowEveryCacheModeByItsName) {
  for (const auto& [name, mode] : cache_mode_names) {
    EXPECT_EQ(accepted(usual({"--cache", std::string(name)})).cache, mode) << name;
  }
}

TEST(BlkSettings, KnowEveryLogLevelByItsName) {
  using common::log::Level;
  const std::vector<std::pair<std::string, Level>> levels{
      {"trace", Level::trace},     {"debug", Level::debug}, {"info", Level::info},
      {"warning", Level::warning}, {"error", Level::error}, {"off", Level::off}};
  for (const auto& [name, level] : levels) {
    EXPECT_EQ(accepted(usual({"--log-level", name})).log_level, level) << name;
  }
}

TEST(BlkSettings, OfTheConfigurationFileCountLikeFlags) {
  const testing_tools::ScratchFolder folder;
  const std::string path = folder.path() + "/x.conf";
  std::ofstream(path) << "fd = 0\nnull = 4K\nqueues = 2\n";
  const Settings settings = accepted({"--config", path});
  EXPECT_EQ(settings.fd, 0);
  EXPECT_EQ(settings.null_bytes, 4096u);
  EXPECT_EQ(settings.queues, 2);
}

TEST(BlkSettings, WantOneMeetingPlace) {
  EXPECT_EQ(refusal({"--blk-file", "/srv/x.raw"}),
            "--socket-path is missing; give the path of the socket for QEMU's -chardev");
  EXPECT_EQ(refusal(usual({"--fd", "3"})), "--fd and --socket-path exclude each other; give one");
  EXPECT_EQ(refusal({"--fd", "3", "--client", "--null", "1M"}),
            "--client goes with --socket-path, not with --fd");
}

TEST(BlkSettings, WantOneDisk) {
  EXPECT_EQ(refusal({"--socket-path", "/run/x.sock"}),
            "--blk-file is missing; give an image file or a block device");
  EXPECT_EQ(refusal(usual({"--null", "1M"})), "--null and --blk-file exclude each other; give one");
}

TEST(BlkSettings, WantANullDiskOfWholeSectors) {
  const std::string cure = ": the size must be a multiple of 512 bytes, and not 0";
  EXPECT_EQ(refusal({"--fd", "3", "--null", "1000"}), "--null 1000" + cure);
  EXPECT_EQ(refusal({"--fd", "3", "--null", "0"}), "--null 0" + cure);
  EXPECT_EQ(accepted({"--fd", "3", "--null", "512"}).null_bytes, 512u);
}

TEST(BlkSettings, RefuseNumbersBeyondTheirBounds) {
  EXPECT_THAT(refusal(usual({"--queues", "0"})), HasSubstr("--queues: '0' is not accepted"));
  EXPECT_THAT(refusal(usual({"--queues", "257"})), HasSubstr("from 1 to 256"));
  EXPECT_THAT(refusal(usual({"--workers", "0"})), HasSubstr("--workers: '0' is not accepted"));
  EXPECT_THAT(refusal(usual({"--workers", "257"})), HasSubstr("from 1 to 256"));
  EXPECT_THAT(refusal({"--fd", "-1", "--null", "1M"}), HasSubstr("--fd: '-1'"));
  EXPECT_THAT(refusal(usual({"--stats-interval", "9ms"})), HasSubstr("--stats-interval: '9ms'"));
}

TEST(BlkSettings, RefuseASerialThatCannotBeShown) {
  EXPECT_THAT(refusal(usual({"--serial", "123456789012345678901"})), HasSubstr("--serial"));
  EXPECT_THAT(refusal(usual({"--serial", "tab\there"})), HasSubstr("--serial"));
}

TEST(BlkSettings, RefuseACpuThatIsNotThere) {
  EXPECT_THAT(refusal(usual({"--cpus", "1023"})), HasSubstr("--cpus: "));
}

TEST(BlkSettings, PrintWhatManagementSoftwareAsksFor) {
  CaptureStdout();
  const auto settings = read({"--print-capabilities"});
  const std::string text = GetCapturedStdout();
  EXPECT_TRUE(settings && !*settings);
  EXPECT_THAT(text, HasSubstr("\"type\": \"block\""));
  EXPECT_THAT(text, HasSubstr("\"read-only\", \"blk-file\""));
}

TEST(BlkSettings, PrintTheVersionOfTheBuild) {
  CaptureStdout();
  EXPECT_TRUE(read({"--version"}));
  EXPECT_THAT(GetCapturedStdout(), HasSubstr("vhost-user-blk " VHOST_BACKENDS_VERSION));
}

TEST(BlkSettings, HelpNamesEveryFlag) {
  CaptureStdout();
  EXPECT_TRUE(read({"--help"}));
  const std::string help = GetCapturedStdout();
  for (const auto* flag :
       {"--socket-path", "--client", "--fd", "--blk-file", "--null", "--read-only", "--cache",
        "--serial", "--postcopy", "--queues", "--workers", "--cpus", "--stats-file",
        "--stats-interval", "--log-level", "--print-capabilities", "--config"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
}

}  // namespace
}  // namespace blk
