// Drivers that break the rules of the ring: that ring stops and says so, its neighbour goes on, and
// a reset brings it back.
#include <poll.h>

#include <cstring>
#include <random>
#include <thread>

#include "libvhost/wire/virtqueue.hpp"
#include "tests/integration/hostile.hpp"

namespace integration {
namespace {

using vhost::SplitDesc;
using vhost::SplitLayout;
using vhost::frontend::BlkHeader;
using vhost::frontend::Poll;

constexpr std::uint16_t ring_size = 16;

class HostileRing : public Hostile {
 protected:
  /// What a test does to ring 1, with a buffer of guest memory at hand.
  struct Victim {
    Guest& disk;
    Buffer room;

    [[nodiscard]] vhost::frontend::Queue& queue() const { return disk->device().queue(1); }
    [[nodiscard]] vhost::frontend::SplitDriverRing& ring() const { return queue().ring().split(); }
    void descriptor(std::uint16_t index, const SplitDesc& desc) const {
      std::memcpy(ring().descriptor_area().data() + index * sizeof desc, &desc, sizeof desc);
    }
    void table(std::uint16_t index, const SplitDesc& desc) const {
      std::memcpy(room.data + index * sizeof desc, &desc, sizeof desc);
    }
    /// Into the available ring, behind what is there; shown by show().
    void offer(std::uint16_t head) const { ring().offer_raw(head); }
    void show() const { ring().expose(), queue().kick(); }
    void offer_and_show(std::uint16_t head) const { offer(head), show(); }
    /// The available index is moved by so much, with whatever is in the entries.
    void jump(std::uint16_t distance) const {
      auto* const idx =
          reinterpret_cast<std::uint16_t*>(ring().available_area().data() + SplitLayout::idx_at);
      std::atomic_ref(*idx).fetch_add(distance);
      queue().kick();
    }
  };
  using Mischief = std::function<void(const Victim&)>;

  static bool told_of_error(const Victim& victim) {
    pollfd error{victim.queue().error_fd(), POLLIN, 0};
    return ::poll(&error, 1, 3000 * slowness) == 1;
  }
  static bool serves(Guest& disk, std::size_t queue) {
    Load load(disk, {.queue = queue, .first_sector = 1024 * queue, .depth = 2});
    load.run(10);
    return load.failed == 0;
  }
  void breaks(const Mischief& mischief) { outcome(mischief, true); }
  void is_survived(const Mischief& mischief) { outcome(mischief, false); }

 private:
  void outcome(const Mischief& mischief, bool must_break) {
    auto disk = guest(with_queues(2, ring_size));
    const Victim victim{disk, disk.allocate(64 * kibi)};
    mischief(victim);
    if (must_break) {
      EXPECT_TRUE(told_of_error(victim));
    }
    EXPECT_TRUE(serves(disk, 0)) << "the neighbour";
    (void)disk->detach();
    must(disk->device().reset());
    must(disk->start());
    EXPECT_TRUE(serves(disk, 1)) << "after the reset";
  }
};

TEST_F(HostileRing, AChainThatIsALoopBreaksIt) {
  breaks([](const Victim& v) {
    v.descriptor(0, {v.room.guest_address, 16, vhost::desc_next, 0});
    v.offer_and_show(0);
  });
  breaks([](const Victim& v) {
    v.descriptor(0, {v.room.guest_address, 16, vhost::desc_next, 1});
    v.descriptor(1, {v.room.guest_address, 16, vhost::desc_next, 0});
    v.offer_and_show(0);
  });
}

TEST_F(HostileRing, ASuccessorThatIsNoneBreaksIt) {
  for (const std::uint16_t next : {std::uint16_t{ring_size}, std::uint16_t{0xffff}}) {
    breaks([&](const Victim& v) {
      v.descriptor(0, {v.room.guest_address, 16, vhost::desc_next, next});
      v.offer_and_show(0);
    });
  }
}

TEST_F(HostileRing, AHeadThatIsNoneBreaksIt) {
  for (const std::uint16_t head :
       {std::uint16_t{ring_size}, std::uint16_t{255}, std::uint16_t{0xffff}}) {
    breaks([&](const Victim& v) { v.offer_and_show(head); });
  }
}

TEST_F(HostileRing, AHeadThatIsInFlightBreaksIt) {
  breaks([](const Victim& v) {
    const BlkHeader read{0, 0, 0};
    std::memcpy(v.room.data, &read, sizeof read);
    v.descriptor(0, {v.room.guest_address, 16, vhost::desc_next, 1});
    v.descriptor(1, {v.room.guest_address + 4096, 32769, vhost::desc_write, 0});
    for (int i = 0; i < ring_size; ++i) v.offer(0);
    v.show();
  });
}

TEST_F(HostileRing, AnAvailableIndexThatJumpsBreaksIt) {
  for (const unsigned jump : {ring_size + 1U, 0xffffU, 32768U}) {
    breaks([&](const Victim& v) { v.jump(static_cast<std::uint16_t>(jump)); });
  }
}

TEST_F(HostileRing, AnIndirectTableThatIsNoneBreaksIt) {
  for (const std::uint32_t length : {0U, 15U, 24U, 0xffffffffU}) {
    breaks([&](const Victim& v) {
      v.table(0, {v.room.guest_address + 4096, 16, vhost::desc_next, 1});
      v.table(1, {v.room.guest_address + 4096, 16, vhost::desc_next, 9000});
      v.descriptor(0, {v.room.guest_address, length, vhost::desc_indirect, 0});
      v.offer_and_show(0);
    });
  }
  breaks([](const Victim& v) {  // outside of memory
    v.descriptor(0, {std::uint64_t{1} << 50, 32, vhost::desc_indirect, 0});
    v.offer_and_show(0);
  });
}

TEST_F(HostileRing, AnIndirectTableThatOnlyBeginsInMemoryIsSurvived) {
  is_survived([](const Victim& v) {
    v.table(0, {v.room.guest_address + 4096, 16, vhost::desc_next, 1});
    v.table(1, {v.room.guest_address + 4096, 16, vhost::desc_write, 0});
    v.descriptor(0, {v.room.guest_address, 0xfffffff0, vhost::desc_indirect, 0});
    v.offer_and_show(0);
  });
}

TEST_F(HostileRing, AnIndirectTableInATableBreaksIt) {
  breaks([](const Victim& v) {
    v.table(0, {v.room.guest_address, 16, vhost::desc_indirect, 0});
    v.descriptor(0, {v.room.guest_address, 16, vhost::desc_indirect, 0});
    v.offer_and_show(0);
  });
}

TEST_F(HostileRing, AnIndirectTableThatGoesOnBreaksIt) {
  breaks([](const Victim& v) {
    v.table(0, {v.room.guest_address + 4096, 16, 0, 0});
    v.descriptor(0, {v.room.guest_address, 16, vhost::desc_indirect | vhost::desc_next, 1});
    v.descriptor(1, {v.room.guest_address + 8192, 16, vhost::desc_write, 0});
    v.offer_and_show(0);
  });
}

TEST_F(HostileRing, ALoopInATableOf65536EntriesBreaksIt) {
  BlkOptions options = with_queues(2, ring_size);
  auto disk = guest(options);
  const Victim victim{disk, disk.allocate(mebi)};
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const SplitDesc desc{victim.room.guest_address, 16, vhost::desc_next,
                         static_cast<std::uint16_t>(i + 1)};
    std::memcpy(victim.room.data + i * sizeof desc, &desc, sizeof desc);
  }
  victim.descriptor(0, {victim.room.guest_address, mebi, vhost::desc_indirect, 0});
  victim.offer_and_show(0);
  EXPECT_TRUE(told_of_error(victim));
  EXPECT_TRUE(serves(disk, 0));
}

TEST_F(HostileRing, ABufferOutsideOfMemoryBreaksIt) {
  const auto breaks_at = [&](const std::function<SplitDesc(const Victim&)>& bad) {
    breaks([&](const Victim& v) {
      v.descriptor(0, bad(v));
      v.offer_and_show(0);
    });
  };
  breaks_at([](const Victim&) { return SplitDesc{0, 16, 0, 0}; });
  breaks_at([](const Victim&) { return SplitDesc{~std::uint64_t{0}, 16, 0, 0}; });
  breaks_at([](const Victim&) { return SplitDesc{~std::uint64_t{15}, 16, 0, 0}; });
  breaks_at([](const Victim& v) { return SplitDesc{v.room.guest_address, 0xffffffff, 0, 0}; });
  breaks_at([](const Victim& v) {
    const auto& wire = v.disk.memory().regions()[0]->wire();
    return SplitDesc{wire.guest_address + wire.size_bytes - 8, 16, 0, 0};
  });
  breaks_at([](const Victim& v) {
    return SplitDesc{v.disk.memory().regions()[0]->wire().guest_address - 1, 16, 0, 0};
  });
}

TEST_F(HostileRing, AChainThatComesBackOrBreaksIsNeverSilence) {
  const auto flags = {0, int{vhost::desc_write}};
  for (const int first : flags) {
    for (const int second : flags) {
      for (const std::uint32_t length : {0U, 1U, 16U, 4096U}) {
        is_survived([&](const Victim& v) {
          v.descriptor(0, {v.room.guest_address, length,
                           static_cast<std::uint16_t>(first | vhost::desc_next), 1});
          v.descriptor(
              1, {v.room.guest_address + 4096, length, static_cast<std::uint16_t>(second), 0});
          v.offer_and_show(0);
          const auto& used = v.ring();
          EXPECT_TRUE(eventually([&] {
            pollfd error{v.queue().error_fd(), POLLIN, 0};
            return !used.caught_up() || ::poll(&error, 1, 0) == 1;
          })) << first
              << ' ' << second << ' ' << length;
        });
      }
    }
  }
}

TEST_F(HostileRing, BadChainsLeakNoSlots) {
  auto disk = guest(with_queues(2, ring_size));
  const Segment piece = disk.allocate(64).segment(0, 8);
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(disk.perform(std::span(&piece, 1), {}, 1), BlkStatus::untouched);
  }
  EXPECT_TRUE(serves(disk, 1));
}

TEST_F(HostileRing, RingAreasOnTopOfEachOtherHarmOnlyTheirDriver) {
  for (int mix = 0; mix < 6; ++mix) {
    auto disk = guest(with_queues(2, ring_size));
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
    for (std::uint16_t i = 0; i < 40; ++i) {
      victim.descriptor(i % ring_size,
                        {victim.room.guest_address, 64, static_cast<std::uint16_t>(i % 8), 3});
      victim.offer_and_show(i % ring_size);
    }
    EXPECT_TRUE(answers_or_closes(connection)) << mix;
    ASSERT_TRUE(daemon->running()) << daemon->words();
  }
}

TEST_F(HostileRing, RingAddressesAtEveryEdgeAreRefusedOrSurvived) {
  auto disk = guest(with_queues(2, ring_size));
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

TEST_F(HostileRing, DescriptorsThatChangeWhileTheyAreReadHarmNobody) {
  for (std::uint32_t seed = 1; seed <= 6; ++seed) {
    auto disk = guest(with_queues(2, ring_size));
    const Victim victim{disk, disk.allocate(64 * kibi)};
    std::atomic<bool> stop = false;
    std::jthread flipper([&] {
      std::minstd_rand random(seed);
      auto* const words = reinterpret_cast<std::uint16_t*>(victim.ring().descriptor_area().data());
      while (!stop) {
        const auto at = random() % (ring_size * 8);
        const std::uint16_t small = random() % 24 & 0xffff;
        std::atomic_ref(words[at]).store(at % 8 < 4 && at % 8 > 1 ? 0 : small);
      }
    });
    for (int i = 0; i < 2000; ++i) {
      victim.offer(static_cast<std::uint16_t>(i % ring_size));
      victim.show();
      if (i % 64 == 0) ::usleep(100);
    }
    stop = true;
    flipper.join();
    EXPECT_TRUE(serves(disk, 0));
  }
}

}  // namespace
}  // namespace integration
