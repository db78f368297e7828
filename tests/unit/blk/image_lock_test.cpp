#include "backends/blk/image_lock.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/blk/scratch.hpp"

namespace blk {
namespace {

using namespace std::chrono_literals;
using namespace testing_tools;
using std::chrono::steady_clock;
using testing::AllOf;
using testing::HasSubstr;

constexpr off_t mib = 1 << 20;

/// Debian's QEMU tools, as judges of what "open" means to them.
bool installed(const std::string& tool) {
  return std::system(("command -v " + tool + " >/dev/null 2>&1").c_str()) == 0;
}
bool succeeds(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

/// A child process that has done something and stays until it is killed.
class Holder {
 public:
  template <class Work>
  explicit Holder(Work work) {
    std::array<int, 2> ready{};
    if (::pipe(ready.data()) != 0) return;
    child_ = ::fork();
    if (child_ == 0) {
      ::close(ready[0]);
      work();
      if (::write(ready[1], "r", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char byte = 0;
    if (::read(ready[0], &byte, 1) != 1) ADD_FAILURE() << "the child did not get ready";
    ::close(ready[0]);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() { end(); }

  void end() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
  }

 private:
  pid_t child_ = -1;
};

/// A program of QEMU's that runs until it is killed.
class Peer {
 public:
  explicit Peer(const std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    child_ = ::fork();
    if (child_ != 0) return;
    if (std::freopen("/dev/null", "w", stderr) != nullptr) ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() { end(); }

  void end() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
  }

  /// Its status; 0 if it still runs after ten seconds.
  int wait_for_exit() {
    for (int i = 0; i < 1000; ++i) {
      int status = 0;
      if (::waitpid(child_, &status, WNOHANG) == child_) {
        child_ = -1;
        return status;
      }
      std::this_thread::sleep_for(10ms);
    }
    return 0;
  }

 private:
  pid_t child_ = -1;
};

class BlkImageLock : public testing::Test {
 protected:
  /// QEMU's block layer without a machine: exports the image to write.
  [[nodiscard]] std::vector<std::string> storage_daemon() const {
    return {"qemu-storage-daemon",
            "--blockdev",
            "driver=file,node-name=f,filename=" + path_,
            "--nbd-server",
            "addr.type=unix,addr.path=" + folder_.path() + "/nbd.sock",
            "--export",
            "type=nbd,id=e,node-name=f,writable=on"};
  }

  /// A machine that does not run, with the image as its disk.
  [[nodiscard]] std::vector<std::string> guest(const std::string& read_only) const {
    return {"qemu-system-x86_64",
            "-M",
            "q35,accel=tcg",
            "-m",
            "32",
            "-nodefaults",
            "-S",
            "-display",
            "none",
            "-drive",
            "if=virtio,format=raw,file=" + path_ + ",read-only=" + read_only};
  }

  Image writer() { return open_to_write(path_).value(); }
  Image reader() { return open_to_read(path_).value(); }

  /// The bytes of QEMU's range that somebody has locked.
  [[nodiscard]] std::vector<off_t> locked_bytes() const {
    const vhost::UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    std::vector<off_t> locked;
    for (off_t byte = 96; byte < 256; ++byte) {
      struct flock range{};
      range.l_type = F_WRLCK;
      range.l_start = byte;
      range.l_len = 1;
      EXPECT_EQ(::fcntl(fd.get(), F_OFD_GETLK, &range), 0);
      if (range.l_type != F_UNLCK) locked.push_back(byte);
    }
    return locked;
  }

  /// Is the image free for us? Tried anew, for a lock once taken would stay.
  bool refused(bool read_only) { return !lock_image(open_to(read_only, path_).value(), 0ms); }

  /// Waits for a peer that needs time to start.
  bool refused_in_time(bool read_only) {
    for (int i = 0; i < 500; ++i) {
      if (refused(read_only)) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  ScratchFolder folder_;
  std::string path_ = folder_.file("a.img", mib);
};

TEST_F(BlkImageLock, TwoWritersRefuseEachOther) {
  const Image first = writer();
  const Image second = writer();
  ASSERT_TRUE(lock_image(first, 0ms));
  const auto refused = lock_image(second, 0ms);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().fault, vhost::Fault::host);
  EXPECT_THAT(refused.error().what,
              AllOf(HasSubstr("--blk-file " + path_), HasSubstr("open for writing")));
}

TEST_F(BlkImageLock, ReadersShare) {
  const Image first = reader();
  const Image second = reader();
  EXPECT_TRUE(lock_image(first, 0ms));
  EXPECT_TRUE(lock_image(second, 0ms));
}

TEST_F(BlkImageLock, WriterRefusesAReader) {
  const Image first = writer();
  const Image second = reader();
  ASSERT_TRUE(lock_image(first, 0ms));
  const auto refused = lock_image(second, 0ms);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("open for writing"));
}

TEST_F(BlkImageLock, ReaderRefusesAWriterAndTheCureIsReadOnly) {
  const Image first = reader();
  const Image second = writer();
  ASSERT_TRUE(lock_image(first, 0ms));
  const auto refused = lock_image(second, 0ms);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, AllOf(HasSubstr("not to change"), HasSubstr("--read-only")));
}

TEST_F(BlkImageLock, RefusedOneHoldsNothing) {
  const Image refused = writer();
  {
    const Image first = reader();
    ASSERT_TRUE(lock_image(first, 0ms));
    ASSERT_FALSE(lock_image(refused, 0ms));
  }
  const Image next = writer();
  EXPECT_TRUE(lock_image(next, 0ms));
}

TEST_F(BlkImageLock, GoesWithTheDescriptors) {
  {
    const Image first = writer();
    ASSERT_TRUE(lock_image(first, 0ms));
  }
  const Image second = writer();
  EXPECT_TRUE(lock_image(second, 0ms));
}

TEST_F(BlkImageLock, StaysUntilTheLastDescriptorOfTheDescriptionIsClosed) {
  vhost::UniqueFd in_flight;
  {
    const Image first = writer();
    ASSERT_TRUE(lock_image(first, 0ms));
    in_flight = vhost::UniqueFd(::dup(first.file.get()));  // as a request in the kernel holds it
  }
  const Image second = writer();
  EXPECT_FALSE(lock_image(second, 0ms));
  in_flight = {};
  EXPECT_TRUE(lock_image(second, 0ms));
}

TEST_F(BlkImageLock, WaitsForADyingPredecessor) {
  Holder predecessor([&] {
    static Image image = writer();
    if (!lock_image(image, 0ms)) ::_exit(1);
  });
  const Image successor = writer();
  ASSERT_FALSE(lock_image(successor, 0ms));
  std::jthread killer([&] {
    std::this_thread::sleep_for(200ms);
    predecessor.end();
  });
  EXPECT_TRUE(lock_image(successor));
}

TEST_F(BlkImageLock, GivesUpWhenItsPatienceEnds) {
  const Image first = writer();
  const Image second = writer();
  ASSERT_TRUE(lock_image(first, 0ms));
  const auto start = steady_clock::now();
  EXPECT_FALSE(lock_image(second, 150ms));
  EXPECT_GE(steady_clock::now() - start, 150ms);
  EXPECT_LT(steady_clock::now() - start, 1s);
}

TEST_F(BlkImageLock, SecondDescriptorHoldsTheLockToo) {
  const LoopDevice loop(path_, 4096);
  if (!loop.path()) GTEST_SKIP() << "no loop devices here";
  vhost::UniqueFd in_flight;
  {
    const auto first = open_to_write(*loop.path(), CacheMode::none);
    ASSERT_TRUE(first && first->buffered);
    ASSERT_TRUE(lock_image(*first, 0ms));
    in_flight = vhost::UniqueFd(::dup(first->buffered.get()));
  }
  const auto second = open_to_write(*loop.path(), CacheMode::none);
  ASSERT_TRUE(second);
  EXPECT_FALSE(lock_image(*second, 0ms));
  in_flight = {};
  EXPECT_TRUE(lock_image(*second, 0ms));
}

TEST_F(BlkImageLock, QemuToolsCannotChangeWhatWeWrite) {
  if (!installed("qemu-io") || !installed("qemu-img")) GTEST_SKIP() << "qemu-utils is missing";
  const std::string write = "qemu-io -f raw -c 'write 0 512' " + path_;
  ASSERT_TRUE(succeeds(write));
  const Image image = writer();
  ASSERT_TRUE(lock_image(image, 0ms));
  EXPECT_FALSE(succeeds(write));
  EXPECT_FALSE(succeeds("qemu-img resize -f raw " + path_ + " 2M"));
  EXPECT_FALSE(succeeds("qemu-img convert -f raw -O raw " + path_ + ' ' + path_ + ".copy"));
}

TEST_F(BlkImageLock, QemuToolsMayReadWhatWeRead) {
  if (!installed("qemu-io") || !installed("qemu-img")) GTEST_SKIP() << "qemu-utils is missing";
  const Image image = reader();
  ASSERT_TRUE(lock_image(image, 0ms));
  EXPECT_TRUE(succeeds("qemu-io -r -f raw -c 'read 0 512' " + path_));
  EXPECT_TRUE(succeeds("qemu-img convert -f raw -O raw " + path_ + ' ' + path_ + ".copy"));
  EXPECT_FALSE(succeeds("qemu-io -f raw -c 'write 0 512' " + path_));
}

TEST_F(BlkImageLock, StorageDaemonThatWritesKeepsUsOut) {
  if (!installed("qemu-storage-daemon")) GTEST_SKIP() << "qemu-storage-daemon is missing";
  Peer peer(storage_daemon());
  EXPECT_TRUE(refused_in_time(true));
  EXPECT_TRUE(refused(false));
  peer.end();
  EXPECT_FALSE(refused(false));
}

TEST_F(BlkImageLock, StorageDaemonCannotWriteWhatWeWriteOrRead) {
  if (!installed("qemu-storage-daemon")) GTEST_SKIP() << "qemu-storage-daemon is missing";
  for (const bool read_only : {false, true}) {
    const Image image = open_to(read_only, path_).value();
    ASSERT_TRUE(lock_image(image, 0ms));
    EXPECT_NE(Peer(storage_daemon()).wait_for_exit(), 0);
  }
}

TEST_F(BlkImageLock, LocksTheBytesThatAGuestOfQemuLocks) {
  if (!installed("qemu-system-x86_64")) GTEST_SKIP() << "qemu-system-x86 is missing";
  for (const bool read_only : {false, true}) {
    std::vector<off_t> ours, theirs;
    {
      const Image image = open_to(read_only, path_).value();
      ASSERT_TRUE(lock_image(image, 0ms));
      ours = locked_bytes();
    }
    const Peer peer(guest(read_only ? "on" : "off"));
    ASSERT_TRUE(refused_in_time(false));
    for (int i = 0; i < 200 && theirs != ours; ++i) {  // they come one by one
      std::this_thread::sleep_for(10ms);
      theirs = locked_bytes();
    }
    EXPECT_EQ(theirs, ours);
  }
}

TEST_F(BlkImageLock, GuestOfQemuKeepsUsOut) {
  if (!installed("qemu-system-x86_64")) GTEST_SKIP() << "qemu-system-x86 is missing";
  Peer peer(guest("off"));
  EXPECT_TRUE(refused_in_time(false));
  EXPECT_TRUE(refused(true));
}

TEST_F(BlkImageLock, GuestOfQemuThatReadsSharesWithOurReader) {
  if (!installed("qemu-system-x86_64")) GTEST_SKIP() << "qemu-system-x86 is missing";
  Peer peer(guest("on"));
  EXPECT_TRUE(refused_in_time(false));
  EXPECT_FALSE(refused(true));
}

TEST_F(BlkImageLock, GuestOfQemuDoesNotStartOnWhatWeWrite) {
  if (!installed("qemu-system-x86_64")) GTEST_SKIP() << "qemu-system-x86 is missing";
  const Image image = writer();
  ASSERT_TRUE(lock_image(image, 0ms));
  EXPECT_NE(Peer(guest("off")).wait_for_exit(), 0);
  EXPECT_NE(Peer(guest("on")).wait_for_exit(), 0);
}

TEST_F(BlkImageLock, IsHandedOverWithWhatWasWritten) {
  const Image one = writer();
  const Image other = writer();
  ASSERT_TRUE(take_over_image(one));
  EXPECT_FALSE(lock_image(other, 0ms));
  hand_over_image(one);
  EXPECT_TRUE(take_over_image(other));
  EXPECT_FALSE(lock_image(one, 0ms));
  hand_over_image(other);
}

}  // namespace
}  // namespace blk
