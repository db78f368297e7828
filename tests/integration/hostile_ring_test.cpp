// Drivers that break the rules that both layouts of rings have.
#include "tests/integration/hostile_ring.hpp"

#include <thread>

#include "tests/integration/layout.hpp"

namespace integration {
namespace {

class AnyHostileRing : public HostileRing, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] BlkOptions rings() const override {
    return GetParam() ? packed(HostileRing::rings()) : HostileRing::rings();
  }
};
INSTANTIATE_TEST_SUITE_P(Rings, AnyHostileRing, ::testing::Bool(), layout_name);

TEST_P(AnyHostileRing, AnIndirectTableThatIsNoneBreaksIt) {
  for (const std::uint32_t length : {0U, 15U, 24U, 0xffffffffU}) {
    breaks([&](const Victim& v) {
      v.table(0, {v.room.guest_address + 4096, 16, vhost::desc_next});
      v.table(1, {v.room.guest_address + 4096, 16});
      v.offer_and_show({{v.room.guest_address, length, vhost::desc_indirect}});
    });
  }
  breaks([](const Victim& v) {  // outside of memory
    v.offer_and_show({{std::uint64_t{1} << 50, 32, vhost::desc_indirect}});
  });
}

TEST_P(AnyHostileRing, AnIndirectTableInATableBreaksIt) {
  breaks([](const Victim& v) {
    v.table(0, {v.room.guest_address, 16, vhost::desc_indirect});
    v.offer_and_show({{v.room.guest_address, 16, vhost::desc_indirect}});
  });
}

TEST_P(AnyHostileRing, AnIndirectTableThatGoesOnBreaksIt) {
  for (const std::uint32_t length : {0U, 15U, 16U, 24U, 0xfffffff0U}) {
    breaks([&](const Victim& v) {
      v.table(0, {v.room.guest_address + 4096, 16});
      v.offer_and_show({{v.room.guest_address, length, vhost::desc_indirect | vhost::desc_next},
                        {v.room.guest_address + 8192, 16, vhost::desc_write}});
    });
  }
}

TEST_P(AnyHostileRing, ABufferOutsideOfMemoryBreaksIt) {
  const auto breaks_at = [&](const std::function<Piece(const Victim&)>& bad) {
    breaks([&](const Victim& v) { v.offer_and_show({bad(v)}); });
  };
  breaks_at([](const Victim&) { return Piece{0, 16}; });
  breaks_at([](const Victim&) { return Piece{~std::uint64_t{0}, 16}; });
  breaks_at([](const Victim&) { return Piece{~std::uint64_t{15}, 16}; });
  breaks_at([](const Victim& v) { return Piece{v.room.guest_address, 0xffffffff}; });
  breaks_at([](const Victim& v) {
    const auto& wire = v.disk.memory().regions()[0]->wire();
    return Piece{wire.guest_address + wire.size_bytes - 8, 16};
  });
  breaks_at([](const Victim& v) {
    return Piece{v.disk.memory().regions()[0]->wire().guest_address - 1, 16};
  });
}

TEST_P(AnyHostileRing, AChainThatComesBackOrBreaksIsNeverSilence) {
  const std::uint16_t flags[] = {0, vhost::desc_write};
  for (const std::uint16_t first : flags) {
    for (const std::uint16_t second : flags) {
      for (const std::uint32_t length : {0U, 1U, 16U, 4096U}) {
        is_survived([&](const Victim& v) {
          const auto more = static_cast<std::uint16_t>(first | vhost::desc_next);
          v.offer_and_show({{v.room.guest_address, length, more},
                            {v.room.guest_address + 4096, length, second}});
          EXPECT_TRUE(eventually([&] {
            pollfd error{v.queue().error_fd(), POLLIN, 0};
            return !v.ring().caught_up() || ::poll(&error, 1, 0) == 1;
          })) << first
              << ' ' << second << ' ' << length;
        });
      }
    }
  }
}

TEST_P(AnyHostileRing, BadChainsLeakNoSlots) {
  auto disk = guest(rings());
  const Segment piece = disk.allocate(64).segment(0, 8);
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(disk.perform(std::span(&piece, 1), {}, 1), BlkStatus::untouched);
  }
  EXPECT_TRUE(serves(disk, 1));
}

TEST_P(AnyHostileRing, RingAreasOnTopOfEachOtherHarmOnlyTheirDriver) {
  for (int mix = 0; mix < 6; ++mix) {
    auto disk = guest(rings());
    must(disk->stop());
    auto& connection = disk->device().connection();
    auto addresses = disk->device().queue(1).ring().addresses(1);
    if (mix == 0) addresses.used = addresses.descriptors;
    if (mix == 1) addresses.available = addresses.descriptors;
    if (mix == 2) addresses.used = addresses.available / 4 * 4;
    if (mix == 3) addresses.used = disk->device().queue(0).ring().addresses(0).descriptors;
    if (mix == 4)
      addresses.descriptors = addresses.used = addresses.available = addresses.used / 16 * 16;
    if (mix == 5) addresses.available = addresses.used + 4;
    must(connection.tell(Request::set_vring_addr, addresses));
    must(connection.tell(Request::set_vring_enable, vhost::VringState{1, 1}));
    const int kick = disk->device().queue(1).kick_fd();
    must(connection.tell(Request::set_vring_kick, std::uint64_t{1}, std::span(&kick, 1)));
    const Victim victim{disk, disk.allocate(4096)};
    std::vector<std::uint16_t> heads;
    for (unsigned i = 0; i < ring_size; ++i) {
      const auto flags = static_cast<std::uint16_t>(i % 8);
      heads.push_back(place_raw(victim.ring(), {{victim.room.guest_address, 64, flags}}));
    }
    for (std::size_t i = 0; i < 40; ++i) {
      victim.ring().offer_raw(heads[i % ring_size]);
      victim.show();
    }
    EXPECT_TRUE(answers_or_closes(connection)) << mix;
    ASSERT_TRUE(daemon->running()) << daemon->words();
  }
}

TEST_P(AnyHostileRing, RingAddressesAtEveryEdgeAreRefusedOrSurvived) {
  auto disk = guest(rings());
  must(disk->stop());
  auto& connection = disk->device().connection();
  const auto& wire = disk.memory().regions()[0]->wire();
  const std::uint64_t end = wire.frontend_address + wire.size_bytes;
  const auto good = disk->device().queue(1).ring().addresses(1);
  const int kick = disk->device().queue(1).kick_fd();
  for (const std::uint64_t bad :
       {std::uint64_t{0}, end, end - 16, end - 1, wire.frontend_address - 16, ~std::uint64_t{0},
        ~std::uint64_t{15}, good.descriptors + 1, good.used + 2}) {
    for (int part = 0; part < 3; ++part) {
      auto addresses = good;
      (part == 0 ? addresses.descriptors : part == 1 ? addresses.available : addresses.used) = bad;
      (void)connection.tell(Request::set_vring_addr, addresses);
      (void)connection.tell(Request::set_vring_enable, vhost::VringState{1, 1});
      (void)connection.tell(Request::set_vring_kick, std::uint64_t{1}, std::span(&kick, 1));
      disk->device().queue(1).kick();
      EXPECT_TRUE(connection.ask_for<vhost::VringState>(Request::get_vring_base,
                                                        bytes_of(vhost::VringState{1, 0})));
    }
  }
}

TEST_P(AnyHostileRing, RingsThatAreRewrittenWhileTheyAreServedHarmNobody) {
  for (std::uint32_t seed = 1; seed <= 6; ++seed) {
    auto disk = guest(rings());
    const Victim victim{disk, disk.allocate(64 * kibi)};
    std::vector<std::uint16_t> heads;
    for (int i = 0; i < ring_size; ++i) {
      heads.push_back(place_raw(victim.ring(), {{victim.room.guest_address, 512}}));
    }
    const std::jthread mutator([&](const std::stop_token& stop) {
      std::minstd_rand random(seed);
      while (!stop.stop_requested()) scramble(victim.ring(), random, 7);
    });
    for (std::size_t i = 0; i < 2000; ++i) {
      victim.ring().offer_raw(heads[i % ring_size]);
      victim.show();
      if (i % 64 == 0) ::usleep(100);
    }
    EXPECT_TRUE(serves(disk, 0));
  }
}

}  // namespace
}  // namespace integration
