// What the error descriptor of a ring tells (SET_VRING_ERR), and that nobody waits in telling it.
#include <fcntl.h>
#include <sys/eventfd.h>

#include "tests/integration/fixture.hpp"
#include "tests/integration/qemu.hpp"

namespace integration {
namespace {

using vhost::bytes_of;
using vhost::Request;
using vhost::UniqueFd;
using vhost::VringState;
using vhost::frontend::Completion;
using vhost::frontend::Poll;

/// Of either device: the ring that takes what the driver gives to be read.
class RingError : public Served, public ::testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::blk) {
      serve({"--workers", "2"});
    } else {
      daemon = std::make_unique<Daemon>(
          folder, Strings{"--port", "a,socket=" + socket + ",queues=2", "--workers", "2"},
          Launch{.program = "VHOST_USER_NET"});
    }
    ring = GetParam() == Kind::blk ? 0 : 1;
    other = ring + 2;
    connect_again();
  }
  void connect_again() {
    qemu = nullptr;
    qemu = std::make_unique<Qemu>(
        socket, QemuOptions{.version = Version::qemu_10, .kind = GetParam(), .rings = 4});
    room = must(qemu->memory().allocate(4096, 4096));
    std::memset(room.data, 0, room.size_bytes);
  }

  /// A request that the device can do nothing with, and gives back: bytes without a status, or a
  /// header without a frame.
  void offer(std::uint32_t to, std::uint64_t guest_address) {
    const Segment piece{guest_address, 12};
    ASSERT_TRUE(qemu->queue(to).ring().add(std::span(&piece, 1), {}, 0));
    qemu->queue(to).submit();
    qemu->queue(to).kick();
  }
  [[nodiscard]] bool serves(std::uint32_t which) {
    offer(which, room.guest_address);
    Completion done;
    return eventually([&] { return qemu->queue(which).ring().poll(done) == Poll::done; });
  }
  void break_ring(std::uint32_t which) { offer(which, 0); }

  [[nodiscard]] static std::uint64_t taken(int fd) {
    std::uint64_t count = 0;
    return ::read(fd, &count, sizeof count) == sizeof count ? count : 0;
  }
  [[nodiscard]] bool told(std::uint32_t which) {
    return eventually([&] { return taken(qemu->queue(which).error_fd()) > 0; });
  }
  /// No ring has told of an error, after a while in which one might have.
  void expect_silence() {
    ::usleep(20'000);
    for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(taken(qemu->queue(i).error_fd()), 0U) << i;
  }
  /// Gives a ring another descriptor to tell errors on; without one if it is no descriptor.
  void set_error(std::uint32_t which, const UniqueFd& fd) {
    const int one = fd.get();
    if (one < 0) {
      qemu->say_and_wait(Request::set_vring_err, std::uint64_t{which | vhost::vring_no_fd});
    } else {
      qemu->say_and_wait(Request::set_vring_err, std::uint64_t{which}, std::span(&one, 1));
    }
  }
  [[nodiscard]] static UniqueFd event() {
    return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  }

  std::unique_ptr<Qemu> qemu;
  Buffer room;
  std::uint32_t ring = 0, other = 0;
};

TEST_P(RingError, NothingIsToldOfARingThatIsServedStoppedAndStarted) {
  for (int round = 0; round < 5; ++round) {
    qemu->start();
    ASSERT_TRUE(serves(ring));
    ASSERT_TRUE(serves(other));
    qemu->stop();
    if (round % 2 == 0) qemu->reset();
  }
  expect_silence();
}

TEST_P(RingError, IsToldOfTheRingThatTheDriverBrokeAndOfNoOther) {
  qemu->start();
  ASSERT_TRUE(serves(other));
  break_ring(ring);
  EXPECT_TRUE(told(ring));
  ASSERT_TRUE(serves(other));
  expect_silence();
}

TEST_P(RingError, IsToldOfARingThatIsNotInMemoryWhenItStarts) {
  const auto where = qemu->queue(ring).ring().addresses(ring);
  qemu->start();
  qemu->stop();
  expect_silence();
  auto elsewhere = where;
  elsewhere.used = std::uint64_t{1} << 30;
  qemu->say_and_wait(Request::set_vring_addr, elsewhere);
  const int kick = qemu->queue(ring).kick_fd();
  qemu->say_and_wait(Request::set_vring_kick, std::uint64_t{ring}, std::span(&kick, 1));
  qemu->say_and_wait(Request::set_vring_enable, VringState{ring, 1});
  EXPECT_TRUE(told(ring));
  expect_silence();
  qemu->say_and_wait(Request::set_vring_addr, where);
  EXPECT_TRUE(serves(ring));
  expect_silence();
}

TEST_P(RingError, IsToldOfRingsWhoseMemoryGoesUnderThem) {
  qemu->start();
  ASSERT_TRUE(serves(ring));
  const auto wire = qemu->memory().regions().front()->wire();
  const int times = GetParam() == Kind::net ? 2 : 1;  // each pair has shared it
  for (int i = 0; i < times; ++i) {
    expect_silence();
    qemu->say_and_wait(Request::rem_mem_reg, vhost::SingleRegion{0, wire});
  }
  for (std::uint32_t each = 0; each < 4; ++each) EXPECT_TRUE(told(each)) << each;
  connect_again();
  qemu->start();
  EXPECT_TRUE(serves(ring));
}

TEST_P(RingError, ARingWithoutADescriptorBreaksInSilence) {
  qemu->start();
  set_error(ring, UniqueFd());
  ASSERT_TRUE(serves(ring));
  break_ring(ring);
  ASSERT_TRUE(serves(other));
  expect_silence();
  EXPECT_EQ(qemu->status(), 0xfU) << "the connection goes on";
}

TEST_P(RingError, IsToldOnTheDescriptorThatCameLast) {
  qemu->start();
  ASSERT_TRUE(serves(ring));
  const UniqueFd first = event();
  const UniqueFd last = event();
  set_error(ring, first);
  ASSERT_TRUE(serves(ring)) << "it goes on where it was";
  set_error(ring, last);
  ASSERT_TRUE(serves(ring));
  break_ring(ring);
  EXPECT_TRUE(eventually([&] { return taken(last.get()) > 0; }));
  EXPECT_EQ(taken(first.get()), 0U);
  expect_silence();
}

TEST_P(RingError, NobodyWaitsForADescriptorThatIsFullAndBlocks) {
  qemu->start();
  const UniqueFd full = event();
  const std::uint64_t most = UINT64_MAX - 1;
  ASSERT_EQ(::write(full.get(), &most, sizeof most), ssize_t{sizeof most});
  set_error(ring, full);
  ASSERT_EQ(::fcntl(full.get(), F_SETFL, 0), 0);  // undoes what the daemon did
  break_ring(ring);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(serves(other));
    EXPECT_EQ(qemu->status(), 0xfU);
  }
  qemu->stop();
  qemu->reset();
  qemu->start();
  EXPECT_TRUE(serves(ring)) << "a reset revives it";
}

INSTANTIATE_TEST_SUITE_P(Devices, RingError, ::testing::Values(Kind::blk, Kind::net),
                         [](const auto& kind) {
                           return std::string(kind.param == Kind::blk ? "Blk" : "Net");
                         });

}  // namespace
}  // namespace integration
