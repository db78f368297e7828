#include <sys/mman.h>

#include "tests/fakes/fake_packed_driver.hpp"
#include "tests/unit/session/session_fixture.hpp"

/* Packed rings: negotiated once, chosen whenever a ring starts. */
namespace vhost::tests {
namespace {

using fakes::FakePackedDriver;

class SessionPackedTest : public SessionTest {
 protected:
  static constexpr std::uint64_t packed_features =
      FakeFrontend::usual_features | bit(feature::ring_packed);
  static constexpr std::uint16_t size = 11;

  SessionPackedTest() { frontend_.negotiate(packed_features); }

  void configure_packed(FakeFrontend& frontend, std::uint32_t index) {
    ASSERT_EQ(frontend.set_memory(memory_, {0, 1, 2}), Outcome::done);
    ASSERT_EQ(frontend.num(index, size), Outcome::done);
    ASSERT_EQ(frontend.addr(index, packed_.setup()), Outcome::done);
    ASSERT_EQ(frontend.enable(index, 1), Outcome::done);
  }
  /// The last message; the ring runs if it can.
  void kick(FakeFrontend& frontend, std::uint32_t index) {
    ASSERT_EQ(frontend.vring_fd(Request::set_vring_kick, index, kick_), Outcome::done);
  }
  /// Serves one chain; its id.
  std::uint16_t serve(PackedRing& ring) {
    EXPECT_EQ(ring.pop(chain_), Pop::ready);
    ring.push(chain_.head, 0);
    (void)ring.publish();
    return chain_.head;
  }

  FakePackedDriver packed_{memory_, {.size = size}};
  std::vector<iovec> room_ = std::vector<iovec>(16);
  Chain chain_{room_};
};

TEST_F(SessionPackedTest, IsOfferedForEveryDevice) {
  const auto offered = frontend_.ask<std::uint64_t>(Request::get_features);
  EXPECT_TRUE(has(*offered, feature::ring_packed));
}

TEST_F(SessionPackedTest, TakesAnyRingSizeUpTo32768) {
  for (const std::uint32_t good : {1u, 2u, 3u, 100u, 32767u, 32768u}) {
    EXPECT_EQ(frontend_.num(0, good), Outcome::done) << good;
  }
  for (const std::uint32_t bad : {0u, 32769u, 65536u, 1u << 31, UINT32_MAX}) {
    EXPECT_EQ(frontend_.num(0, bad), Outcome::refused) << bad;
  }
}

TEST_F(SessionPackedTest, StartsNoSplitRingOfAPackedRingsSize) {
  configure_packed(frontend_, 0);
  ASSERT_EQ(frontend_.tell(Request::set_features, FakeFrontend::usual_features), Outcome::done);
  kick(frontend_, 0);
  EXPECT_TRUE(device_.running.empty());
  ASSERT_EQ(frontend_.tell(Request::set_features, packed_features), Outcome::done);
  EXPECT_EQ(device_.running.count(0), 1u);
}

TEST_F(SessionPackedTest, RefusesEventAreasThatAreNotAligned) {
  for (const auto part : {&RingSetup::descriptors, &RingSetup::available, &RingSetup::used}) {
    RingSetup bad = packed_.setup();
    bad.*part = FrontendAddress{std::to_underlying(bad.*part) + 2};
    EXPECT_EQ(frontend_.addr(0, bad), Outcome::refused);
  }
  EXPECT_EQ(frontend_.addr(0, packed_.setup()), Outcome::done);
}

TEST_F(SessionPackedTest, BeginsANewRingWithoutABase) {
  EXPECT_EQ(frontend_.get_base(0), new_packed_base);
  configure_packed(frontend_, 0);
  kick(frontend_, 0);
  EXPECT_EQ(device_.packed_ring(0).base(), new_packed_base);
}

TEST_F(SessionPackedTest, GoesOnWhereItWasStopped) {
  configure_packed(frontend_, 0);
  kick(frontend_, 0);
  for (int lap = 0; lap < 30; ++lap) {
    const auto id = packed_.add(std::vector(3, fakes::Buffer{GuestMemory::far, 1}));
    EXPECT_EQ(serve(device_.packed_ring(0)), id);
    ASSERT_TRUE(packed_.take_used());
    const std::uint32_t base = packed_.next().bits() * 0x10001u;
    ASSERT_EQ(frontend_.get_base(0), base);
    const std::uint32_t told = lap % 2 == 0 ? base : base & 0xffff;  // the latter as DPDK does
    if (lap % 3 != 0) {
      ASSERT_EQ(frontend_.base(0, told), Outcome::done);
    }
    kick(frontend_, 0);
    ASSERT_EQ(device_.packed_ring(0).base(), base);
  }
}

TEST_F(SessionPackedTest, StartsNoRingAtABaseThatIsBehindItsEnd) {
  configure_packed(frontend_, 0);
  ASSERT_EQ(frontend_.base(0, 0x800b800b), Outcome::done);
  kick(frontend_, 0);
  EXPECT_TRUE(device_.running.empty());
  ASSERT_EQ(frontend_.base(0, 0x800a800a), Outcome::done);
  EXPECT_EQ(device_.running.count(0), 1u);
}

TEST_F(SessionPackedTest, TheNextBackEndKnowsFromTheInflightRegionWhereThisOneWas) {
  const InflightDescription request{0, 0, 4, size, 0};
  ASSERT_TRUE(
      frontend_.send(static_cast<std::uint32_t>(Request::get_inflight_fd), bytes_of(request)));
  const auto answer = frontend_.reply();
  ASSERT_TRUE(answer && answer->fds.size() == 1);
  const auto region = read_once<InflightDescription>(answer->payload.data());
  const auto keep = [&](FakeFrontend& frontend) {
    return frontend.tell(Request::set_inflight_fd, region, {answer->fds.front().get()});
  };
  ASSERT_EQ(keep(frontend_), Outcome::done);
  configure_packed(frontend_, 3);
  kick(frontend_, 3);
  const auto first = packed_.add({{GuestMemory::far, 1}});
  const auto second = packed_.add({{GuestMemory::far, 1}, {GuestMemory::far, 2}});
  EXPECT_EQ(serve(device_.packed_ring(3)), first);
  ASSERT_EQ(device_.packed_ring(3).pop(chain_), Pop::ready);

  FakeDevice next;
  FakeFrontend frontend(next);
  frontend.negotiate(packed_features);
  ASSERT_EQ(keep(frontend), Outcome::done);
  ASSERT_EQ(frontend.base(3, new_packed_base), Outcome::done) << "as QEMU: where it once began";
  configure_packed(frontend, 3);
  kick(frontend, 3);
  EXPECT_TRUE(next.packed_ring(3).owes());
  EXPECT_EQ(serve(next.packed_ring(3)), second);
  EXPECT_EQ(next.packed_ring(3).base(), packed_.base_after(3, 3));
}

TEST_F(SessionPackedTest, StartsNoPackedRingInARegionThatHasNoRoomForItAndTheKeepsake) {
  const std::uint64_t split = 4 * inflight_section_bytes(64);  // as an older version made it
  const std::uint64_t packed = 4 * packed_inflight_section_bytes(64);
  for (const std::uint64_t bytes : {split + keepsake_bytes, packed, packed + keepsake_bytes}) {
    FakeDevice device;
    FakeFrontend frontend(device);
    frontend.negotiate(packed_features);
    const UniqueFd file(::memfd_create("inflight", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    ASSERT_EQ(frontend.tell(Request::set_inflight_fd, InflightDescription{bytes, 0, 4, 64, 0},
                            {file.get()}),
              Outcome::done);
    configure_packed(frontend, 3);
    kick(frontend, 3);
    EXPECT_EQ(device.running.size(), bytes > packed ? 1u : 0u) << bytes;
    EXPECT_TRUE(frontend.connected());
  }
}

TEST_F(SessionPackedTest, EverySectionIsApart) {
  const InflightDescription request{0, 0, 4, size, 0};
  ASSERT_TRUE(
      frontend_.send(static_cast<std::uint32_t>(Request::get_inflight_fd), bytes_of(request)));
  const auto answer = frontend_.reply();
  const auto region = read_once<InflightDescription>(answer->payload.data());
  ASSERT_EQ(frontend_.tell(Request::set_inflight_fd, region, {answer->fds.front().get()}),
            Outcome::done);
  configure_packed(frontend_, 1);
  kick(frontend_, 1);
  const auto mapping = Mapping::map(answer->fds.front().get(), 0, region.mmap_size_bytes);
  for (std::uint16_t ring = 0; ring < 4; ++ring) {
    const std::size_t at = ring * packed_inflight_section_bytes(size);
    const auto header = read_once<PackedInflightHeader>(mapping->bytes().data() + at);
    EXPECT_EQ(header.version, ring == 1 ? 1 : 0);
  }
}

}  // namespace
}  // namespace vhost::tests
