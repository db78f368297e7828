// Drivers of split rings that break the rules of that layout.
#include "libvhost/wire/virtqueue.hpp"
#include "tests/integration/hostile_ring.hpp"

namespace integration {
namespace {

using vhost::SplitLayout;
using vhost::frontend::BlkHeader;

class SplitHostileRing : public HostileRing {
 protected:
  static void descriptor(const Victim& victim, std::uint16_t index, const SplitDesc& desc) {
    std::memcpy(victim.ring().areas().descriptor_area().data() + index * sizeof desc, &desc,
                sizeof desc);
  }
  /// Into the available ring, behind what is there.
  static void offer(const Victim& victim, std::uint16_t head) { victim.ring().offer_raw(head); }
  static void offer_and_show(const Victim& victim, std::uint16_t head) {
    offer(victim, head);
    victim.show();
  }
  /// The available index is moved by so much, with whatever is in the entries.
  static void jump(const Victim& victim, std::uint16_t distance) {
    auto* const idx = reinterpret_cast<std::uint16_t*>(victim.ring().areas().driver_area().data() +
                                                       SplitLayout::idx_at);
    std::atomic_ref(*idx).fetch_add(distance);
    victim.queue().kick();
  }
};

TEST_F(SplitHostileRing, AChainThatIsALoopBreaksIt) {
  breaks([](const Victim& v) {
    descriptor(v, 0, {v.room.guest_address, 16, vhost::desc_next, 0});
    offer_and_show(v, 0);
  });
  breaks([](const Victim& v) {
    descriptor(v, 0, {v.room.guest_address, 16, vhost::desc_next, 1});
    descriptor(v, 1, {v.room.guest_address, 16, vhost::desc_next, 0});
    offer_and_show(v, 0);
  });
}

TEST_F(SplitHostileRing, ASuccessorThatIsNoneBreaksIt) {
  for (const std::uint16_t next : {std::uint16_t{ring_size}, std::uint16_t{0xffff}}) {
    breaks([&](const Victim& v) {
      descriptor(v, 0, {v.room.guest_address, 16, vhost::desc_next, next});
      offer_and_show(v, 0);
    });
  }
}

TEST_F(SplitHostileRing, AHeadThatIsNoneBreaksIt) {
  for (const std::uint16_t head :
       {std::uint16_t{ring_size}, std::uint16_t{255}, std::uint16_t{0xffff}}) {
    breaks([&](const Victim& v) { offer_and_show(v, head); });
  }
}

TEST_F(SplitHostileRing, AHeadThatIsInFlightBreaksIt) {
  breaks([](const Victim& v) {
    const BlkHeader read{0, 0, 0};
    std::memcpy(v.room.data, &read, sizeof read);
    descriptor(v, 0, {v.room.guest_address, 16, vhost::desc_next, 1});
    descriptor(v, 1, {v.room.guest_address + 4096, 32769, vhost::desc_write, 0});
    for (int i = 0; i < ring_size; ++i) offer(v, 0);
    v.show();
  });
}

TEST_F(SplitHostileRing, AnAvailableIndexThatJumpsBreaksIt) {
  for (const unsigned by : {ring_size + 1U, 0xffffU, 32768U}) {
    breaks([&](const Victim& v) { jump(v, static_cast<std::uint16_t>(by)); });
  }
}

TEST_F(SplitHostileRing, AnIndirectTableThatOnlyBeginsInMemoryIsSurvived) {
  is_survived([](const Victim& v) {
    v.table(0, {v.room.guest_address + 4096, 16, vhost::desc_next});
    v.table(1, {v.room.guest_address + 4096, 16, vhost::desc_write});
    v.offer_and_show({{v.room.guest_address, 0xfffffff0, vhost::desc_indirect}});
  });
}

TEST_F(SplitHostileRing, ALoopInATableOf65536EntriesBreaksIt) {
  auto disk = guest(rings());
  const Victim victim{disk, disk.allocate(mebi)};
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const SplitDesc desc{victim.room.guest_address, 16, vhost::desc_next,
                         static_cast<std::uint16_t>(i + 1)};
    std::memcpy(victim.room.data + i * sizeof desc, &desc, sizeof desc);
  }
  descriptor(victim, 0, {victim.room.guest_address, mebi, vhost::desc_indirect, 0});
  offer_and_show(victim, 0);
  EXPECT_TRUE(told_of_error(victim));
  EXPECT_TRUE(serves(disk, 0));
}

}  // namespace
}  // namespace integration
