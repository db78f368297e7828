// Whatever an operator gets wrong is one sentence that names it, an exit status, and nothing else.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

class BadInput : public Served {
 protected:
  void SetUp() override { image = make_image(folder, mebi); }

  /// Starts with exactly these flags, and expects the daemon to end with one line that holds
  /// `named`, leaving the folder as it was.
  void refuses(const Strings& flags, const std::string& named) {
    const Strings before = folder.list_settled();
    const Folder other;
    Daemon bad(other, flags);
    const auto end = bad.end_within(milliseconds(5000) * slowness);
    const std::string words = bad.words();
    ASSERT_TRUE(end) << "it runs; " << named << "; " << words;
    EXPECT_GT(end->status, 0) << words;
    EXPECT_EQ(std::ranges::count(words, '\n'), 1) << words;
    EXPECT_TRUE(words.starts_with("vhost-user-blk: ")) << words;
    EXPECT_NE(words.find(named), std::string::npos) << "expected " << named << " in: " << words;
    EXPECT_EQ(folder.list_settled(), before) << words;
  }
  /// As refuses(), with a good socket and image before these flags.
  void refuses_with(Strings flags, const std::string& named) {
    const Strings good{"--socket-path", socket, "--blk-file", image};
    flags.insert(flags.begin(), good.begin(), good.end());
    refuses(flags, named);
  }
  void refuses_image(const std::string& path, const std::string& named) {
    refuses({"--socket-path", socket, "--blk-file", path}, "--blk-file");
    refuses({"--socket-path", socket, "--blk-file", path}, named);
  }
};

TEST_F(BadInput, AMissingOptionIsNamed) {
  refuses({}, "--socket-path");
  refuses({"--blk-file", image}, "--socket-path");
  refuses({"--socket-path", socket}, "--blk-file");
}

TEST_F(BadInput, AnUnknownOptionIsNamed) {
  refuses_with({"--no-such-option"}, "--no-such-option");
  refuses_with({"stray"}, "stray");
  refuses_with({"-x"}, "-x");
  refuses_with({"--blk-fil", image}, "--blk-fil");
}

TEST_F(BadInput, AMissingValueIsNamed) {
  for (const char* flag : {"--serial", "--queues", "--workers", "--cpus", "--cache", "--stats-file",
                           "--stats-interval", "--log-level", "--config", "--fd", "--null"}) {
    refuses_with({flag}, flag);
  }
}

TEST_F(BadInput, AnEmptyValueIsNamed) {
  for (const char* flag : {"--serial", "--queues", "--workers", "--cpus", "--cache", "--stats-file",
                           "--stats-interval", "--log-level"}) {
    refuses_with({flag, ""}, flag);
  }
  refuses({"--socket-path", "", "--blk-file", image}, "--socket-path");
  refuses({"--socket-path", socket, "--blk-file", ""}, "--blk-file");
}

TEST_F(BadInput, ANumberOutOfRangeIsNamed) {
  for (const char* flag : {"--queues", "--workers"}) {
    for (const char* value :
         {"0", "257", "-1", "1.5", "x", "1x", "99999999999999999999", "0x10", " 1"}) {
      refuses_with({flag, value}, flag);
    }
  }
  for (const char* value : {"0", "-1", "x", "99999999", "nan", "1e3"}) {
    refuses_with({"--stats-interval", value}, "--stats-interval");
  }
}

TEST_F(BadInput, AWordThatIsNoChoiceIsNamed) {
  refuses_with({"--cache", "fast"}, "--cache");
  refuses_with({"--cache", "None"}, "--cache");
  refuses_with({"--log-level", "loud"}, "--log-level");
}

TEST_F(BadInput, CpusThatAreNoneAreNamed) {
  for (const char* value : {"4095", "a", "3-1", "0,", ",", "-", "0-", "99999999999"}) {
    refuses_with({"--cpus", value}, "--cpus");
  }
}

TEST_F(BadInput, ASerialThatIsNoneIsNamed) {
  refuses_with({"--serial", "123456789012345678901"}, "--serial");
  refuses_with({"--serial", "tab\there"}, "--serial");
  refuses_with({"--serial", "   "}, "--serial");
  refuses_with({"--serial", "\xc3\xa4"}, "--serial");
  refuses_with({"--serial", "line\nfeed"}, "--serial");
}

TEST_F(BadInput, OptionsThatExcludeEachOtherAreNamed) {
  refuses_with({"--null", "1M"}, "--null");
  refuses_with({"--fd", "5"}, "--fd");
  refuses({"--fd", "5", "--client", "--blk-file", image}, "--client");
  refuses_with({"--queues", "1", "--queues", "2"}, "--queues");
}

TEST_F(BadInput, ANullDiskOfNoSizeIsNamed) {
  for (const char* value : {"0", "513", "x", "-512", "17179869184G"}) {
    refuses({"--socket-path", socket, "--null", value}, "--null");
  }
}

TEST_F(BadInput, ADescriptorThatIsNoSocketIsNamed) {
  refuses({"--fd", "777", "--blk-file", image}, "--fd");
  refuses({"--fd", "2", "--blk-file", image}, "--fd");  // the file of stderr
  refuses({"--fd", "-1", "--blk-file", image}, "--fd");
  refuses({"--fd", "x", "--blk-file", image}, "--fd");
}

TEST_F(BadInput, AnImageThatIsNoneIsNamed) {
  refuses_image(folder / "missing", "no such file");
  refuses_image(folder / "missing/image", "no such file");
  refuses_image(image + "/under-a-file", "cannot be reached");
  refuses_image("/var/tmp", "directory");
  refuses_image("/dev/null", "character device");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  refuses_image(folder / "fifo", "FIFO");
  ASSERT_EQ(::symlink("loop", (folder / "loop").c_str()), 0);
  refuses_image(folder / "loop", "cannot be reached");
}

TEST_F(BadInput, AnImageOfABadSizeIsNamed) {
  refuses_image(make_image(folder, 0, "empty"), "is empty");
  refuses_image(make_image(folder, 511, "short"), "multiple of 512");
  refuses_image(make_image(folder, mebi + 1, "odd"), "multiple of 512");
}

TEST_F(BadInput, AnUnreadableImageIsNamed) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  ASSERT_EQ(::chmod(image.c_str(), 0), 0);
  refuses_image(image, "permission");
  ASSERT_EQ(::chmod(image.c_str(), 0400), 0);
  refuses_image(image, "--read-only");
}

TEST_F(BadInput, ASocketPathThatCannotBeIsNamed) {
  const auto refuses_path = [&](const std::string& path) {
    refuses({"--socket-path", path, "--blk-file", image}, "--socket-path");
  };
  refuses_path(folder / std::string(108, 's'));
  refuses_path(folder / "missing/socket");
  refuses_path(image);
  refuses_path("/var/tmp");
  std::ofstream(folder / "file") << "precious";
  refuses_path(folder / "file");
  EXPECT_EQ(read_text(folder / "file"), "precious");
}

TEST_F(BadInput, ASocketPathOfTheLastPossibleLengthIsNone) {
  const std::string path = folder / std::string(107 - (folder / "").size(), 's');
  ASSERT_EQ(path.size(), 107U);
  Daemon fits(folder, {"--socket-path", path, "--blk-file", image});
  (void)connect(path);
  EXPECT_EQ(fits.terminate(), good_end);
}

TEST_F(BadInput, ASocketInUseIsNamedAndLeftAlone) {
  serve();
  {
    auto disk = guest();
  }
  refuses({"--socket-path", socket, "--null", "1M"}, "--socket-path");
  auto disk = guest();
  disk.write(0, 1, 512);
  EXPECT_TRUE(disk.reads(0, 1, 512));
}

TEST_F(BadInput, AConfigFilesMistakesAreNamedWithTheirLine) {
  const std::string path = folder / "settings";
  const auto refuses_file = [&](const std::string& text, const std::string& named) {
    std::ofstream(path) << text;
    refuses({"--config", path}, named);
  };
  const std::string good = "socket-path = " + socket + "\nblk-file = " + image + "\n";
  refuses_file(good + "queues = many\n", "line 3: queues");
  refuses_file(good + "colour = red\n", "line 3: colour");
  refuses_file(good + "queues\n", "line 3");
  refuses_file(good + "serial = \"open\n", "line 3");
  refuses_file("socket-path = " + socket + "\n", "--blk-file");
  refuses({"--config", folder / "missing"}, "missing");
  refuses({"--config", "/var/tmp"}, "/var/tmp");
}

TEST_F(BadInput, AConfigFileServesLikeFlags) {
  std::ofstream(folder / "settings")
      << "# a disk\nsocket-path = " << socket << "\nblk-file = " << image << "\nserial = mine\n";
  daemon = std::make_unique<Daemon>(folder, Strings{"--config", folder / "settings"});
  auto disk = guest();
  EXPECT_EQ(must(disk->get_id()), "mine");
}

}  // namespace
}  // namespace integration
