#include "libvhost/memory/fault_guard.hpp"
#include "tests/unit/session/session_fixture.hpp"

/* Memory that comes and goes, also under running rings; the inflight region. */
namespace vhost::tests {
namespace {

class SessionMemoryTest : public SessionTest {
 protected:
  SessionMemoryTest() { negotiate(); }

  Outcome add(std::size_t region) { return add_from(region, region); }
  /// The place of region `region`, in the file of another one.
  Outcome add_from(std::size_t region, std::size_t file) {
    return frontend_.tell(Request::add_mem_reg, SingleRegion{0, memory_.regions()[region]},
                          {memory_.fds()[file].get()});
  }
  Outcome remove(std::size_t region) {
    return frontend_.tell(Request::rem_mem_reg, SingleRegion{0, memory_.regions()[region]});
  }
  std::size_t regions() { return frontend_.session().info().memory_regions; }
};

TEST_F(SessionMemoryTest, ReplacesTheTable) {
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  EXPECT_EQ(regions(), 3u);
  EXPECT_EQ(frontend_.set_memory(memory_, {1}), Outcome::done);
  EXPECT_EQ(regions(), 1u);
  EXPECT_EQ(frontend_.set_memory(memory_, {}), Outcome::done);
  EXPECT_EQ(regions(), 0u);
}

TEST_F(SessionMemoryTest, RefusesATableWhoseCountIsNotThatOfItsDescriptors) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  const std::size_t before = open_fds();
  for (const std::uint32_t count : {0u, 1u, 7u, 8u, 9u, 0x8000001u, UINT32_MAX}) {
    for (const std::size_t fds : {0u, 1u, 2u, 7u, 8u}) {
      for (const std::size_t room : {0u, 1u, 8u}) {
        if (count == fds && count == room) continue;
        std::vector<std::byte> payload(8 + room * sizeof(MemoryRegion));
        std::memcpy(payload.data(), &count, sizeof count);
        const std::vector<int> all(fds, memory_.fds()[1].get());
        EXPECT_EQ(frontend_.tell(Request::set_mem_table, payload, all), Outcome::refused);
      }
    }
  }
  EXPECT_EQ(regions(), 1u) << "what was there stays";
  EXPECT_EQ(open_fds(), before);
}

TEST_F(SessionMemoryTest, AddsAndRemovesRegions) {
  EXPECT_EQ(add(0), Outcome::done);
  EXPECT_EQ(add(1), Outcome::done);
  EXPECT_EQ(add(1), Outcome::done) << "QEMU 7.2 adds it once for every queue pair";
  EXPECT_EQ(regions(), 2u);
  EXPECT_EQ(add_from(1, 2), Outcome::refused) << "it overlaps another";
  EXPECT_EQ(remove(0), Outcome::done);
  EXPECT_EQ(remove(0), Outcome::refused);
  EXPECT_EQ(regions(), 1u);
}

TEST_F(SessionMemoryTest, ToleratesADescriptorWithARemoval) {
  ASSERT_EQ(add(0), Outcome::done);
  const std::size_t before = open_fds();
  EXPECT_EQ(
      frontend_.tell(Request::rem_mem_reg, SingleRegion{0, memory_.regions()[0]}, {call_.get()}),
      Outcome::done);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(SessionMemoryTest, DrainsOnlyWhenARegionGoes) {
  start(0);
  ASSERT_EQ(remove(2), Outcome::done);
  ASSERT_EQ(add(2), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  EXPECT_EQ(device_.moves, (std::vector{Drain::yes, Drain::no, Drain::no, Drain::yes}));
  EXPECT_TRUE(device_.whole);
  EXPECT_EQ(device_.starts[0], 1) << "the ring went on all the time";
}

TEST_F(SessionMemoryTest, TellsTheDeviceOfARefusedTableNothing) {
  start(0);
  EXPECT_EQ(add_from(1, 2), Outcome::refused);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 0}), Outcome::refused);
  EXPECT_TRUE(device_.moves.empty());
}

TEST_F(SessionMemoryTest, ARingThatLosesItsMemoryStopsAndMayStartAgain) {
  start(0, 7);
  EXPECT_EQ(remove(0), Outcome::done);
  EXPECT_FALSE(device_.whole);
  EXPECT_EQ(frontend_.get_base(0), 7u);
  EXPECT_EQ(add(0), Outcome::done);
  EXPECT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_EQ(device_.starts[0], 2);
}

TEST_F(SessionMemoryTest, KeepsMemoryOverAReset) {
  start(0);
  EXPECT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  EXPECT_EQ(regions(), 3u);
}

TEST_F(SessionMemoryTest, KnowsWhenAFileWasTruncated) {
  ASSERT_TRUE(fault_guard::install());
  start(0);
  EXPECT_TRUE(frontend_.session().memory_is_whole());
  ASSERT_EQ(::ftruncate(memory_.fds()[0].get(), 0), 0);
  (void)device_.ring(0).arm_kick();
  EXPECT_FALSE(frontend_.session().memory_is_whole());
}

// ---------------------------------------------------------------- inflight region

/// A front-end that has no addresses of its own (GPA_ADDRESSES).
class SessionGuestAddressTest : public SessionMemoryTest {
 protected:
  static constexpr std::uint64_t protocol = FakeFrontend::all_protocol_features;

  SessionGuestAddressTest() { frontend_.negotiate(FakeFrontend::usual_features, protocol); }

  /// A region as such a front-end tells it. What stands in the place of its own address is nothing
  /// to go by.
  Outcome tell(Request request, std::size_t which, std::uint64_t own) {
    MemoryRegion region = memory_.regions()[which];
    region.frontend_address = own;
    const int fd = memory_.fds()[which].get();
    const bool adds = request == Request::add_mem_reg;
    return frontend_.tell(request, bytes_of(SingleRegion{0, region}),
                          adds ? std::span(&fd, 1) : std::span<const int>{});
  }
  /// The areas of the driver's ring, where the guest has them.
  RingSetup setup() {
    RingSetup setup = driver_.setup();
    for (const auto part : {&RingSetup::descriptors, &RingSetup::available, &RingSetup::used}) {
      const auto own = std::to_underlying(setup.*part);
      setup.*part = FrontendAddress{own - GuestMemory::frontend_low + GuestMemory::low};
    }
    return setup;
  }
  void start_with(const RingSetup& setup) {
    ASSERT_EQ(frontend_.num(0, 8), Outcome::done);
    ASSERT_EQ(frontend_.addr(0, setup), Outcome::done);
    ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
    ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  }
};

TEST_F(SessionGuestAddressTest, FindsRingsWhereTheGuestHasThem) {
  for (const std::uint64_t own : {std::uint64_t{0}, GuestMemory::low, UINT64_MAX}) {
    ASSERT_EQ(tell(Request::add_mem_reg, 0, own), Outcome::done) << own;
    start_with(setup());
    ASSERT_EQ(device_.running.count(0), 1u) << own;
    const auto head = driver_.add({{GuestMemory::low, 1}});
    std::vector<iovec> room(4);
    Chain chain(room);
    ASSERT_EQ(device_.ring(0).pop(chain), Pop::ready);
    EXPECT_EQ(chain.head, head);
    device_.ring(0).push(head, 0);
    (void)device_.ring(0).publish();
    ASSERT_TRUE(driver_.take_used()) << own;
    ASSERT_TRUE(frontend_.get_base(0));
    ASSERT_EQ(tell(Request::rem_mem_reg, 0, own + 1), Outcome::done) << own;
  }
}

TEST_F(SessionGuestAddressTest, FindsRingsInATableToo) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  start_with(driver_.setup());
  EXPECT_TRUE(device_.running.empty()) << "these are addresses of nobody";
  ASSERT_EQ(frontend_.addr(0, setup()), Outcome::done);
  EXPECT_EQ(device_.running.count(0), 1u);
}

TEST_F(SessionGuestAddressTest, RegionsMayHaveTheSamePlaceInTheFrontEnd) {
  EXPECT_EQ(tell(Request::add_mem_reg, 0, 0), Outcome::done);
  EXPECT_EQ(tell(Request::add_mem_reg, 2, 0), Outcome::done);
  EXPECT_EQ(regions(), 2u);
}

TEST_F(SessionGuestAddressTest, IsNotTurnedOnOrOffUnderMemory) {
  const auto set = [&](std::uint64_t features) {
    return frontend_.tell(Request::set_protocol_features, features);
  };
  const std::uint64_t without = FakeFrontend::usual_protocol_features;
  EXPECT_EQ(set(without), Outcome::done);
  EXPECT_EQ(set(protocol), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  EXPECT_EQ(set(without), Outcome::refused);
  EXPECT_EQ(set(protocol), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {}), Outcome::done);
  EXPECT_EQ(set(without), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  EXPECT_EQ(set(protocol), Outcome::refused);
}

class SessionInflightTest : public SessionMemoryTest {
 protected:
  struct Offer {
    InflightDescription description{};
    UniqueFd fd;
  };
  Offer get(std::uint16_t queues, std::uint16_t size) {
    const InflightDescription request{0, 0, queues, size, 0};
    if (!frontend_.send(static_cast<std::uint32_t>(Request::get_inflight_fd), bytes_of(request))) {
      return {};
    }
    auto answer = frontend_.reply();
    if (!answer || answer->payload.size() != 24) return {};
    Offer offer{read_once<InflightDescription>(answer->payload.data()), {}};
    if (!answer->fds.empty()) offer.fd = std::move(answer->fds.front());
    return offer;
  }
  Outcome set(const InflightDescription& description, const UniqueFd& fd) {
    return frontend_.tell(Request::set_inflight_fd, description, {fd.get()});
  }
};

TEST_F(SessionInflightTest, GivesARegionAndTakesItBack) {
  const Offer offer = get(4, 8);
  ASSERT_TRUE(offer.fd);
  EXPECT_EQ(offer.description.queues, 4);
  EXPECT_EQ(offer.description.queue_size, 8);
  EXPECT_EQ(offer.description.mmap_size_bytes,
            4 * packed_inflight_section_bytes(8) + keepsake_bytes)
      << "for rings of either layout";
  EXPECT_EQ(set(offer.description, offer.fd), Outcome::done);
}

TEST_F(SessionInflightTest, GivesNoRegionForMoreThanThereIs) {
  for (const auto& [queues, size] : std::vector<std::pair<std::uint16_t, std::uint16_t>>{
           {0, 8}, {4, 0}, {5, 8}, {65535, 65535}, {4, 32769}, {1, 65535}}) {
    const Offer offer = get(queues, size);
    EXPECT_FALSE(offer.fd) << queues << " x " << size;
    EXPECT_EQ(offer.description.mmap_size_bytes, 0u);
    EXPECT_TRUE(frontend_.connected()) << "a description of nothing says no";
  }
  EXPECT_TRUE(get(4, 32768).fd);
}

TEST_F(SessionInflightTest, AsksMayComeAsOftenAsTheyLike) {
  const std::size_t before = open_fds();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(get(4, 32768).fd);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(SessionInflightTest, RefusesARegionThatIsTooSmallOrMisplaced) {
  const Offer offer = get(4, 8);
  InflightDescription bad = offer.description;
  bad.mmap_size_bytes = 4 * inflight_section_bytes(8) - 1;
  EXPECT_EQ(set(bad, offer.fd), Outcome::refused);
  bad = offer.description;
  bad.mmap_offset_bytes = 64;
  EXPECT_EQ(set(bad, offer.fd), Outcome::refused) << "it reaches beyond the file";
  bad.mmap_offset_bytes = 1;
  EXPECT_EQ(set(bad, offer.fd), Outcome::refused);
  bad = offer.description;
  bad.queues = 5;
  EXPECT_EQ(set(bad, offer.fd), Outcome::refused);
  bad = offer.description;
  bad.queue_size = 65535;
  bad.mmap_size_bytes = UINT64_MAX;
  EXPECT_EQ(set(bad, offer.fd), Outcome::refused);
  EXPECT_EQ(set(offer.description, call_), Outcome::refused) << "not a file";
}

TEST_F(SessionInflightTest, RefusesARegionWhoseEntriesWouldNotBeAligned) {
  const UniqueFd file(::memfd_create("inflight", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 1 << 20), 0);
  EXPECT_EQ(set({4096, 1, 4, 8, 0}, file), Outcome::refused);
  EXPECT_EQ(set({4096, 64, 4, 8, 0}, file), Outcome::done);
}

TEST_F(SessionInflightTest, GivesEveryRingItsOwnSection) {
  const Offer offer = get(4, 8);
  ASSERT_EQ(set(offer.description, offer.fd), Outcome::done);
  start(1);
  const auto mapping = Mapping::map(offer.fd.get(), 0, offer.description.mmap_size_bytes);
  const auto version = [&](std::uint16_t ring) {
    return read_once<InflightHeader>(mapping->bytes().data() + ring * inflight_section_bytes(8))
        .version;
  };
  EXPECT_EQ(version(0), 0);
  EXPECT_EQ(version(1), inflight_version);
  EXPECT_EQ(version(2), 0);
}

TEST_F(SessionInflightTest, AResetForgetsIt) {
  const Offer offer = get(4, 8);
  ASSERT_EQ(set(offer.description, offer.fd), Outcome::done);
  ASSERT_EQ(frontend_.tell(Request::reset_device), Outcome::done);
  negotiate();
  start(1);
  const auto mapping = Mapping::map(offer.fd.get(), 0, offer.description.mmap_size_bytes);
  const auto* section = mapping->bytes().data() + inflight_section_bytes(8);
  EXPECT_EQ(read_once<InflightHeader>(section).version, 0);
}

TEST_F(SessionInflightTest, RefusesToChangeItUnderARunningRing) {
  const Offer offer = get(4, 8);
  start(0);
  EXPECT_EQ(set(offer.description, offer.fd), Outcome::refused);
}

TEST_F(SessionInflightTest, TheNextBackEndServesWhatThisOneOwed) {
  const Offer offer = get(4, 8);
  ASSERT_EQ(set(offer.description, offer.fd), Outcome::done);
  start(1);
  const auto head = driver_.add({{GuestMemory::far, 1}});
  std::vector<iovec> room(4);
  Chain chain(room);
  ASSERT_EQ(device_.ring(1).pop(chain), Pop::ready);

  FakeDevice next;
  FakeFrontend frontend(next);
  frontend.negotiate();
  ASSERT_EQ(frontend.tell(Request::set_inflight_fd, offer.description, {offer.fd.get()}),
            Outcome::done);
  frontend.set_memory(memory_, {0, 1, 2});
  frontend.num(1, 8);
  frontend.addr(1, driver_.setup());
  frontend.vring_fd(Request::set_vring_kick, 1, kick_);
  frontend.enable(1, 1);
  ASSERT_EQ(next.starts[1], 1);
  EXPECT_TRUE(next.ring(1).owes());
  ASSERT_EQ(next.ring(1).pop(chain), Pop::ready);
  EXPECT_EQ(chain.head, head);
}

TEST_F(SessionInflightTest, DoesNotStartARingThatItsSectionCannotHold) {
  const Offer offer = get(4, 4);
  ASSERT_EQ(set(offer.description, offer.fd), Outcome::done);
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  configure(0);
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  (void)frontend_.enable(0, 1);
  EXPECT_EQ(device_.starts[0], 0);
  EXPECT_TRUE(frontend_.connected());
}

}  // namespace
}  // namespace vhost::tests
