// The files in systemd/ that are not code, as far as they can be read without a daemon.
#include <regex>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/config_file.hpp"
#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

const std::string systemd_folder = SYSTEMD_FOLDER;

TEST(ExampleConf, IsReadAsItIs) {
  const auto settings = read_config(systemd_folder + "/example.conf");
  ASSERT_TRUE(settings) << settings.error().what;
  EXPECT_EQ(settings->front().name, "socket-path");
}

TEST(ExampleConf, IsReadWithEverySettingThatItSuggests) {
  const std::string text = test::read_text(systemd_folder + "/example.conf");
  const auto all = std::regex_replace(text, std::regex("(^|\n)#([a-z-]+ = )"), "$1$2");
  const auto settings = parse_config(all, "example.conf");
  ASSERT_TRUE(settings) << settings.error().what;
  EXPECT_EQ(settings->size(), 10U);
}

TEST(QemuDescription, HasWhatTheSchemaOfQemuAsksFor) {
  const auto description =
      nlohmann::json::parse(test::read_text(systemd_folder + "/50-vhost-user-blk.json"));
  EXPECT_EQ(description.at("type"), "block");
  EXPECT_EQ(description.at("binary"), "/usr/bin/vhost-user-blk");
  EXPECT_TRUE(description.at("description").is_string());
  EXPECT_EQ(description.size(), 3U);
}

}  // namespace
}  // namespace common
