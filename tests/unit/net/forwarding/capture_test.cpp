#include "backends/net/forwarding/capture.hpp"

#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include <fstream>
#include <map>

#include <gtest/gtest.h>

#include "tests/unit/net/frame/ethernet.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {
namespace {

/// A frame as it is in a file.
struct Captured {
  Bytes bytes;
  std::uint64_t time_ns;
  std::uint32_t flags;
};

/// Reads a pcapng file by the draft alone, and fails the test where it is not one.
class Reader {
 public:
  explicit Reader(Bytes bytes) : bytes_(std::move(bytes)) {
    while (at_ < bytes_.size() && !::testing::Test::HasFatalFailure()) block();
  }

  std::string name;
  std::uint32_t snap_bytes = 0;
  std::vector<Captured> frames;

 private:
  std::uint32_t number(std::size_t at) const {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i-- > 0;)
      value = value << 8 | std::to_integer<unsigned>(bytes_.at(at + i));
    return value;
  }
  std::uint32_t short_number(std::size_t at) const { return number(at) & 0xffff; }

  void block() {
    ASSERT_LE(at_ + 12, bytes_.size());
    const std::uint32_t type = number(at_);
    const std::uint32_t length = number(at_ + 4);
    ASSERT_EQ(length % 4, 0U);
    ASSERT_GE(length, 12U);
    ASSERT_LE(at_ + length, bytes_.size());
    ASSERT_EQ(number(at_ + length - 4), length);
    const std::size_t end = at_ + length - 4;
    ++blocks_;
    if (blocks_ == 1) {
      ASSERT_EQ(type, 0x0a0d0d0aU);
      section();
    } else if (blocks_ == 2) {
      ASSERT_EQ(type, 1U);
      interface(end);
    } else {
      ASSERT_EQ(type, 6U);
      packet(end);
    }
    at_ += length;
  }

  void section() {
    EXPECT_EQ(number(at_ + 8), 0x1a2b3c4dU);
    EXPECT_EQ(number(at_ + 12), 1U);  // version 1.0
    EXPECT_EQ(number(at_ + 16), 0xffff'ffffU);
    EXPECT_EQ(number(at_ + 20), 0xffff'ffffU);
  }

  void interface(std::size_t end) {
    EXPECT_EQ(number(at_ + 8), 1U);  // Ethernet
    snap_bytes = number(at_ + 12);
    auto options = options_between(at_ + 16, end);
    name.assign(options[2].begin(), options[2].end());
    EXPECT_EQ(options[9], std::string(1, '\x09'));
  }

  void packet(std::size_t end) {
    EXPECT_EQ(number(at_ + 8), 0U);
    const std::uint32_t captured = number(at_ + 20);
    EXPECT_EQ(captured, number(at_ + 24));
    const auto first = bytes_.begin() + static_cast<long>(at_ + 28);
    auto options = options_between(at_ + 28 + (captured + 3) / 4 * 4, end);
    ASSERT_EQ(options[2].size(), 4U);
    frames.push_back({.bytes = Bytes(first, first + captured),
                      .time_ns = std::uint64_t{number(at_ + 12)} << 32 | number(at_ + 16),
                      .flags = static_cast<unsigned char>(options[2][0])});
  }

  std::map<std::uint32_t, std::string> options_between(std::size_t at, std::size_t end) const {
    std::map<std::uint32_t, std::string> options;
    while (at + 4 <= end && short_number(at) != 0) {
      const std::uint32_t length = short_number(at + 2);
      std::string& value = options[short_number(at)];
      for (std::size_t i = 0; i < length; ++i) {
        value.push_back(std::to_integer<char>(bytes_.at(at + 4 + i)));
      }
      at += 4 + (length + 3) / 4 * 4;
    }
    EXPECT_EQ(at + 4, end) << "the end of the options is the end of the block";
    return options;
  }

  const Bytes bytes_;
  std::size_t at_ = 0;
  int blocks_ = 0;
};

class CaptureFile : public ::testing::Test {
 protected:
  CaptureFile() {
    std::string path = ::testing::TempDir() + "capture.XXXXXX";
    directory_ = ::mkdtemp(path.data());
    file_ = directory_ / "port.pcapng";
  }
  ~CaptureFile() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<Capture> capture(std::string_view port = "guest1") {
    auto made = Capture::create(file_, port);
    EXPECT_TRUE(made) << made.error().what;
    return std::move(*made);
  }
  static void append(Capture& capture, const Bytes& bytes,
                     Capture::Direction direction = Capture::Direction::in) {
    OwnedFrame owned(bytes);
    Frame* const frame = &owned.frame;
    capture.append({&frame, 1}, direction);
  }
  Reader written() const {
    std::ifstream stream(file_, std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(stream), {});
    Bytes bytes;
    append_all(bytes, text);
    return Reader(std::move(bytes));
  }

  std::filesystem::path directory_;
  std::filesystem::path file_;
};

TEST_F(CaptureFile, NamesThePort) {
  for (const std::string port : {"g", "guest", "guest1", "gue", "a port"}) {
    ASSERT_TRUE(capture(port)->write_out());
    EXPECT_EQ(written().name, port);
  }
  EXPECT_EQ(written().frames.size(), 0U);
  EXPECT_GE(written().snap_bytes, longest_frame + vlan_tag_bytes);
}

TEST_F(CaptureFile, HoldsFramesOfAnyLength) {
  const auto all = capture();
  std::vector<Bytes> frames;
  for (const std::size_t length : {14U, 60U, 61U, 62U, 63U, 1514U, 65'553U, 65'557U}) {
    frames.push_back(counting_bytes(length));
    append(*all, frames.back());
  }
  ASSERT_TRUE(all->write_out());
  const Reader reader = written();
  ASSERT_EQ(reader.frames.size(), frames.size());
  for (std::size_t i = 0; i < frames.size(); ++i) EXPECT_EQ(reader.frames[i].bytes, frames[i]);
  EXPECT_EQ(all->lost(), 0U);
}

TEST_F(CaptureFile, TellsDirectionAndTime) {
  const auto both = capture();
  const auto now_ns = [] {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
  };
  const std::uint64_t before = now_ns();
  append(*both, plain_frame(station(2), station(1)), Capture::Direction::in);
  append(*both, plain_frame(station(1), station(2)), Capture::Direction::out);
  const std::uint64_t after = now_ns();
  ASSERT_TRUE(both->write_out());
  const Reader reader = written();
  ASSERT_EQ(reader.frames.size(), 2U);
  EXPECT_EQ(reader.frames[0].flags, 1U);
  EXPECT_EQ(reader.frames[1].flags, 2U);
  for (const Captured& frame : reader.frames) {
    EXPECT_GE(frame.time_ns, before);
    EXPECT_LE(frame.time_ns, after);
  }
}

TEST_F(CaptureFile, LosesWhatFindsNoRoom) {
  const auto full = capture();
  ASSERT_TRUE(full->write_out());
  // 28 bytes before each frame and 16 behind.
  const Bytes frame = counting_bytes(4096 - 44);
  constexpr std::size_t fit = Capture::buffer_bytes / 4096;
  for (std::size_t i = 0; i < fit; ++i) append(*full, frame);
  EXPECT_EQ(full->lost(), 0U);
  append(*full, plain_frame(station(2), station(1)));
  EXPECT_EQ(full->lost(), 1U);
  ASSERT_TRUE(full->write_out());
  EXPECT_EQ(written().frames.size(), fit);

  append(*full, frame);
  ASSERT_TRUE(full->write_out());
  EXPECT_EQ(written().frames.size(), fit + 1);
  EXPECT_EQ(full->lost(), 1U);
}

TEST_F(CaptureFile, WritesWhatIsLeftAtItsEnd) {
  append(*capture(), plain_frame(station(2), station(1)));
  EXPECT_EQ(written().frames.size(), 1U);
}

TEST_F(CaptureFile, IsForItsOwnerOnlyAndBeginsAnew) {
  append(*capture(), counting_bytes(1000));
  capture();
  EXPECT_EQ(written().frames.size(), 0U);
  struct stat status{};
  ASSERT_EQ(::stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST_F(CaptureFile, SaysWhyItCannotBeMade) {
  const auto made = Capture::create(directory_ / "no" / "file", "guest1");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().fault, vhost::Fault::operator_);
  EXPECT_NE(made.error().what.find((directory_ / "no" / "file").string()), std::string::npos);
}

TEST_F(CaptureFile, EndsWithAnErrorThatIsToldOnce) {
  auto made = Capture::create("/dev/full", "guest1");
  ASSERT_TRUE(made);
  append(**made, plain_frame(station(2), station(1)));
  const auto first = (*made)->write_out();
  ASSERT_FALSE(first);
  EXPECT_NE(first.error().what.find("/dev/full"), std::string::npos);
  append(**made, plain_frame(station(2), station(1)));
  EXPECT_TRUE((*made)->write_out());
  EXPECT_EQ((*made)->lost(), 1U);
}

TEST_F(CaptureFile, IsReadByTcpdump) {
  if (::system("tcpdump --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no tcpdump";
  const auto one = capture();
  append(*one, plain_frame(station(2), station(1), 0, {{5}}));
  append(*one, plain_frame(station(1), station(2)), Capture::Direction::out);
  ASSERT_TRUE(one->write_out());
  const std::string text = directory_ / "text";
  ASSERT_EQ(::system(("tcpdump -e -n -r " + file_.string() + " > " + text + " 2>&1").c_str()), 0);
  std::ifstream stream(text);
  const std::string all(std::istreambuf_iterator<char>(stream), {});
  EXPECT_NE(all.find("52:54:00:00:00:01 > 52:54:00:00:00:02"), std::string::npos) << all;
  EXPECT_NE(all.find("vlan 5"), std::string::npos) << all;
  EXPECT_NE(all.find("52:54:00:00:00:02 > 52:54:00:00:00:01"), std::string::npos) << all;
}

}  // namespace
}  // namespace net::tests
