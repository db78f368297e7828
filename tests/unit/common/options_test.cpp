#include "common/options.hpp"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/temp_folder.hpp"

namespace common {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::internal::CaptureStderr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStderr;
using testing::internal::GetCapturedStdout;

enum class Colour : unsigned char { red, green };

/// A daemon with one option of each kind.
class OptionsTest : public testing::Test {
 protected:
  OptionsTest() : options("daemon", "1.2.3", "Serves things") {
    options.text("--socket-path", path, "PATH", "Where to listen");
    options.text("--serial", serial, "TEXT", "Its serial");
    options.toggle("--read-only", read_only, "Refuse writes");
    options.number("--queues", queues, 1, 64, "How many queues");
    options.number("--fd", fd, 0, 1 << 20, "A connected socket");
    options.size("--null", bytes, "Size of the null device");
    options.duration("--stats-interval", interval, std::chrono::milliseconds(100),
                     std::chrono::hours(1), "Time between documents");
    options.cpus("--cpus", cpus, "CPUs of the workers");
    options.choice("--colour", colour, {{"red", Colour::red}, {"green", Colour::green}}, "Colour");
    options.repeated(
        "--port",
        [this](std::string_view typed) -> vhost::Result<void> {
          if (typed == "bad") return vhost::fail(vhost::Fault::operator_, "is bad: be good");
          ports.emplace_back(typed);
          return {};
        },
        "SPEC", "A port");
    options.prints("--print-capabilities", "{}\n", "Print and end");
  }

  vhost::Result<Next> parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "daemon");
    return options.parse(static_cast<int>(arguments.size()), arguments.data());
  }
  void expect_run(const std::vector<const char*>& arguments) {
    const auto next = parse(arguments);
    if (!next) FAIL() << next.error().what;
    EXPECT_EQ(*next, Next::run);
  }
  std::string refusal(const std::vector<const char*>& arguments) {
    const auto next = parse(arguments);
    if (next) return "accepted";
    EXPECT_EQ(next.error().fault, vhost::Fault::operator_);
    return next.error().what;
  }
  std::string refusal_of_file(const std::string& text) {
    test::write_text(file, text);
    return refusal({"--config", file.c_str()});
  }

  test::TempFolder folder;
  std::string file = folder / "x.conf";
  std::string path;
  std::string serial;
  bool read_only = false;
  std::uint16_t queues = 8;
  int fd = -1;
  std::uint64_t bytes = 0;
  std::chrono::milliseconds interval{1000};
  std::vector<unsigned> cpus;
  Colour colour = Colour::red;
  std::vector<std::string> ports;
  Options options;
};

TEST_F(OptionsTest, KeepTheirDefaultsWhenNotGiven) {
  expect_run({});
  EXPECT_EQ(queues, 8);
  EXPECT_EQ(fd, -1);
  EXPECT_FALSE(read_only);
  EXPECT_FALSE(options.given("--queues"));
}

TEST_F(OptionsTest, AreSetFromTheCommandLine) {
  expect_run({"--socket-path", "/run/x.sock", "--read-only", "--queues=4", "--fd", "3", "--null",
              "2G", "--stats-interval", "0.5", "--cpus", "0,2-3", "--colour", "green"});
  EXPECT_EQ(path, "/run/x.sock");
  EXPECT_TRUE(read_only);
  EXPECT_EQ(queues, 4);
  EXPECT_EQ(fd, 3);
  EXPECT_EQ(bytes, std::uint64_t{2} << 30U);
  EXPECT_EQ(interval, std::chrono::milliseconds(500));
  EXPECT_THAT(cpus, ElementsAre(0, 2, 3));
  EXPECT_EQ(colour, Colour::green);
  EXPECT_TRUE(options.given("--queues"));
  EXPECT_FALSE(options.given("--serial"));
}

TEST_F(OptionsTest, TakeTextAsItIs) {
  expect_run({"--serial", "--odd [a, b]", "--socket-path=a=b c"});
  EXPECT_EQ(serial, "--odd [a, b]");
  EXPECT_EQ(path, "a=b c");
}

TEST_F(OptionsTest, AreSetFromTheFile) {
  test::write_text(file,
                   "socket-path = \"/run/a#b.sock\"\nread-only = true\nqueues = 3\ncpus = 1,2\n"
                   "null = 4K\nstats-interval = 200ms\ncolour = \"green\"\n");
  expect_run({"--config", file.c_str()});
  EXPECT_EQ(path, "/run/a#b.sock");
  EXPECT_TRUE(read_only);
  EXPECT_EQ(queues, 3);
  EXPECT_THAT(cpus, ElementsAre(1, 2));
  EXPECT_EQ(bytes, 4096U);
  EXPECT_EQ(interval, std::chrono::milliseconds(200));
  EXPECT_EQ(colour, Colour::green);
  EXPECT_TRUE(options.given("--queues"));
}

TEST_F(OptionsTest, OfTheCommandLineWinOverTheFile) {
  test::write_text(file, "queues = 3\nread-only = true\nfd = 5\n");
  expect_run({"--queues", "2", "--config", file.c_str(), "--read-only=false"});
  EXPECT_EQ(queues, 2);
  EXPECT_FALSE(read_only);
  EXPECT_EQ(fd, 5);
}

TEST_F(OptionsTest, RefusalNamesTheFlagAndTheCure) {
  EXPECT_EQ(refusal({"--queues", "65"}),
            "--queues: '65' is not accepted: give a number from 1 to 64");
  EXPECT_THAT(refusal({"--queues", "-1"}), HasSubstr("--queues: '-1' is not accepted"));
  EXPECT_THAT(refusal({"--queues="}), HasSubstr("--queues: "));
  EXPECT_THAT(refusal({"--null", "12Q"}), HasSubstr("--null: '12Q' is no size: give"));
  EXPECT_EQ(refusal({"--colour", "blue"}),
            "--colour: 'blue' is not accepted: give one of red, green");
  EXPECT_EQ(refusal({"--read-only=maybe"}),
            "--read-only: 'maybe' is not accepted: give true or false");
  EXPECT_EQ(refusal({"--serial", ""}), "--serial: is empty: give a value or leave the option out");
}

TEST_F(OptionsTest, RefuseAFlagThatIsUnknownOrIncomplete) {
  EXPECT_EQ(refusal({"--queus", "4"}),
            "'--queus' is no option of daemon: see --help for those it has");
  EXPECT_THAT(refusal({"--queues", "4", "image.raw"}), HasSubstr("'image.raw' is no option"));
  EXPECT_THAT(refusal({"-q"}), HasSubstr("'-q' is no option"));
  EXPECT_EQ(refusal({"--read-only", "--queues"}),
            "--queues: a value is missing: write it behind the flag");
}

TEST_F(OptionsTest, RefuseAFlagGivenTwice) {
  EXPECT_EQ(refusal({"--queues", "2", "--queues", "3"}),
            "--queues: given more than once: give it once");
}

TEST_F(OptionsTest, RefuseAFileThatCannotBeRead) {
  EXPECT_EQ(refusal({"--config", "/nowhere/x.conf"}),
            "--config: the file '/nowhere/x.conf' cannot be read: No such file or directory");
}

TEST_F(OptionsTest, RefusalOfAFileNamesFileLineAndSetting) {
  EXPECT_EQ(refusal_of_file("\nqueues = 65"),
            file + ", line 2: queues: '65' is not accepted: give a number from 1 to 64");
  EXPECT_EQ(refusal_of_file("queus = 4"),
            file +
                ", line 1: queus: there is no such setting: the names are those of the flags, "
                "see daemon --help");
  EXPECT_THAT(refusal_of_file("read-only = maybe"), HasSubstr("line 1: read-only: 'maybe'"));
  EXPECT_THAT(refusal_of_file("read-only"), HasSubstr("line 1: this is no setting"));
}

TEST_F(OptionsTest, RefuseFlagsInTheFileThatOnlyMakeSenseOnTheCommandLine) {
  for (const auto* name : {"config", "help", "version", "print-capabilities"}) {
    EXPECT_THAT(refusal_of_file(std::string(name) + " = x"), HasSubstr("there is no such setting"));
  }
}

TEST_F(OptionsTest, PrintTheirTextAndIgnoreTheRest) {
  CaptureStdout();
  const auto next = parse({"--queues", "none", "--unknown", "--print-capabilities"});
  EXPECT_EQ(GetCapturedStdout(), "{}\n");
  EXPECT_EQ(next, Next::done);
}

TEST_F(OptionsTest, PrintTheVersion) {
  CaptureStdout();
  EXPECT_EQ(parse({"--version"}), Next::done);
  EXPECT_EQ(GetCapturedStdout(), "daemon 1.2.3\n");
}

TEST_F(OptionsTest, PrintHelpThatNamesEveryFlag) {
  CaptureStdout();
  EXPECT_EQ(parse({"--help"}), Next::done);
  const std::string help = GetCapturedStdout();
  for (const auto* part :
       {"Serves things", "--socket-path PATH", "--read-only", "--queues N", "--null SIZE",
        "--stats-interval SECONDS", "--cpus LIST", "--colour red|green", "--print-capabilities",
        "--config PATH", "--version", "--help", "How many queues"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
}

TEST_F(OptionsTest, HandsOverEachValueOfARepeatedOptionInOrder) {
  expect_run({"--port", "b,x=1", "--queues", "2", "--port=a"});
  EXPECT_THAT(ports, ElementsAre("b,x=1", "a"));
  EXPECT_TRUE(options.given("--port"));
}

TEST_F(OptionsTest, HandsOverEachLineOfARepeatedOptionInOrder) {
  test::write_text(file, "port = \"b\"\nqueues = 3\nport = a\nport = b\n");
  expect_run({"--config", file.c_str()});
  EXPECT_THAT(ports, ElementsAre("b", "a", "b"));
  EXPECT_TRUE(options.given("--port"));
}

TEST_F(OptionsTest, PrefersRepeatedFlagsToAllOfTheFilesValues) {
  test::write_text(file, "port = a\nport = b\n");
  expect_run({"--config", file.c_str(), "--port", "c"});
  EXPECT_THAT(ports, ElementsAre("c"));
}

TEST_F(OptionsTest, NamesThePlaceOfARefusedRepetition) {
  EXPECT_EQ(refusal({"--port", "a", "--port", "bad"}), "--port: is bad: be good");
}

TEST_F(OptionsTest, NamesTheLineOfARefusedRepetition) {
  EXPECT_EQ(refusal_of_file("port = a\nport = bad\n"), file + ", line 2: port: is bad: be good");
}

TEST_F(OptionsTest, StillRefusesOthersThatAreGivenTwice) {
  EXPECT_EQ(refusal({"--queues", "2", "--queues", "2"}),
            "--queues: given more than once: give it once");
}

TEST_F(OptionsTest, StillRefusesOthersThatAreSetTwice) {
  EXPECT_EQ(refusal_of_file("port = a\nport = b\nqueues = 1\nqueues = 1\n"),
            file + ", line 4: queues is set in line 3 already: remove one of the two");
}

TEST(PrintError, WritesOneLineWhateverIsInIt) {
  CaptureStderr();
  print_error("daemon", {vhost::Fault::operator_, "no file 'a\nb\x1b[31m'"});
  EXPECT_EQ(GetCapturedStderr(), "daemon: no file 'a?b?[31m'\n");
}

}  // namespace
}  // namespace common
