// Drivers of packed rings that break the rules of that layout.
#include "libvhost/wire/virtqueue.hpp"
#include "tests/integration/hostile_ring.hpp"

namespace integration {
namespace {

using vhost::PackedPosition;
using vhost::frontend::BlkHeader;
using vhost::frontend::Completion;
using vhost::frontend::Poll;

class PackedHostileRing : public HostileRing {
 protected:
  [[nodiscard]] BlkOptions rings() const override { return packed(HostileRing::rings()); }

  /// `id` counts from the one that each chain should have.
  static void offer(const Victim& victim, std::span<const PackedDesc> chain) {
    victim.ring().offer_raw(victim.ring().packed().place_raw(chain, 0).value());
  }
  static void offer(const Victim& victim, std::initializer_list<PackedDesc> chain) {
    offer(victim, std::span(chain.begin(), chain.size()));
  }
  /// A chain that is no request goes to the device and comes back.
  static void expect_service(const Victim& victim) {
    victim.offer_and_show({{victim.room.guest_address, 8}});
    Completion completion;
    EXPECT_TRUE(eventually([&] { return victim.ring().poll(completion) == Poll::done; }));
  }
  static void flags(const Victim& victim, std::size_t slot, std::uint16_t value) {
    const auto area = victim.ring().areas().descriptor_area();
    std::byte* const at = area.data() + slot * sizeof(PackedDesc) + PackedDesc::flags_at;
    std::atomic_ref(*reinterpret_cast<std::uint16_t*>(at)).store(value);
  }
};

TEST_F(PackedHostileRing, AnIdThatIsNoneBreaksIt) {
  for (const std::uint16_t id :
       {std::uint16_t{ring_size}, std::uint16_t{255}, std::uint16_t{0xffff}}) {
    breaks([&](const Victim& v) {
      offer(v, {{v.room.guest_address, 16, id, 0}});
      v.show();
    });
    breaks([&](const Victim& v) {  // the last descriptor's is the chain's
      offer(v,
            {{v.room.guest_address, 16, 0, vhost::desc_next}, {v.room.guest_address, 16, id, 0}});
      v.show();
    });
  }
}

TEST_F(PackedHostileRing, AnIdThatIsInFlightBreaksIt) {
  breaks([](const Victim& v) {
    const BlkHeader read{0, 0, 0};
    std::memcpy(v.room.data, &read, sizeof read);
    for (const std::uint16_t id : {std::uint16_t{0}, std::uint16_t{0xfffe}}) {
      offer(v, {{v.room.guest_address, 16, id, vhost::desc_next},
                {v.room.guest_address + 4096, 32769, id, vhost::desc_write}});
    }
    v.show();
  });
}

TEST_F(PackedHostileRing, AChainThatNeverEndsBreaksIt) {
  breaks([](const Victim& v) {
    const PackedDesc more{v.room.guest_address, 16, 0, vhost::desc_next};
    offer(v, std::vector<PackedDesc>(ring_size, more));
    v.show();
  });
}

TEST_F(PackedHostileRing, AChainThatRunsIntoTheDevicesOwnSlotsBreaksIt) {
  breaks([](const Victim& v) {
    const PackedDesc more{v.room.guest_address, 16, 0, vhost::desc_next};
    offer(v, {{v.room.guest_address, 16, 0, 0}});
    offer(v, std::vector<PackedDesc>(ring_size - 1, more));
    v.show();
  });
}

TEST_F(PackedHostileRing, SlotsThatAreMarkedButNotOfferedBreakIt) {
  breaks([](const Victim& v) {
    for (std::size_t slot = 1; slot < ring_size; ++slot) flags(v, slot, vhost::desc_available);
    v.offer_and_show({{v.room.guest_address, 8}});
  });
}

TEST_F(PackedHostileRing, MarksOfAnotherLapAreNoOffer) {
  for (const unsigned lie :
       {0U, unsigned{vhost::desc_used}, unsigned{vhost::desc_available | vhost::desc_used}}) {
    is_survived([&](const Victim& v) {
      for (std::size_t slot = 0; slot < ring_size; ++slot) {
        flags(v, slot, static_cast<std::uint16_t>(lie));
      }
      v.queue().kick();
      ::usleep(1000);
      std::ranges::fill(v.ring().areas().descriptor_area(), std::byte{});
      expect_service(v);
    });
  }
}

TEST_F(PackedHostileRing, AnIndirectTableThatOnlyBeginsInMemoryBreaksIt) {
  for (const std::uint32_t length : {0xfffffff0U, 1025 * 16U}) {  // the longest has 1024
    breaks([&](const Victim& v) {
      for (std::uint16_t i = 0; i < 1025; ++i) v.table(i, {v.room.guest_address, 0});
      v.offer_and_show({{v.room.guest_address, length, vhost::desc_indirect}});
    });
  }
}

TEST_F(PackedHostileRing, AnIndirectTableBehindAnotherDescriptorBreaksIt) {
  breaks([](const Victim& v) {
    v.table(0, {v.room.guest_address + 4096, 16});
    v.offer_and_show({{v.room.guest_address + 4096, 16, vhost::desc_next},
                      {v.room.guest_address, 16, vhost::desc_indirect}});
  });
}

TEST_F(PackedHostileRing, AnEventThatIsNoneIsSurvived) {
  is_survived([](const Victim& v) {
    auto& event = *reinterpret_cast<std::uint32_t*>(v.ring().areas().driver_area().data());
    for (const std::uint32_t position : {0U, 15U, 16U, 0x7fffU, 0x8010U, 0xffffU}) {
      for (const std::uint32_t wish : {0U, 1U, 2U, 3U, 0xfffeU, 0xffffU}) {
        std::atomic_ref(event).store(position | wish << 16);
        expect_service(v);
      }
    }
  });
}

TEST_F(PackedHostileRing, UsedDescriptorsThatAreRewrittenMakeNoDifference) {
  is_survived([](const Victim& v) {
    PackedPosition at;
    for (int i = 0; i < 100; ++i) {
      expect_service(v);
      const auto area = v.ring().areas().descriptor_area();
      const PackedDesc junk{~std::uint64_t{0}, 0xffffffff, 0xffff, at.used_flags()};
      std::memcpy(area.data() + at.index * sizeof junk, &junk, sizeof junk);
      at.advance(1, ring_size);
    }
  });
}

}  // namespace
}  // namespace integration
