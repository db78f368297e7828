// Drivers that break the rules of the ring.
#include "libvhost/wire/virtqueue.hpp"
#include "tests/integration/net_hostile.hpp"
#include "tests/integration/tcp.hpp"

namespace integration {
namespace {

using vhost::frontend::NetHeader;
using vhost::frontend::Queue;

constexpr std::size_t to_guest = 0;
constexpr std::size_t from_guest = 1;

class NetHostileRing : public NetHostile {
 protected:
  static constexpr std::size_t mebi = 1 << 20;

  /// What a mischief has at hand: the ring, and memory of the guest's.
  struct Scene {
    AnyDriverRing& ring;
    Buffer room;

    /// An entry of a table in that memory.
    void table(std::uint16_t index, const Piece& piece) const {
      write_entry(ring, room.data, index, piece);
    }
    void offer(std::initializer_list<Piece> pieces) const {
      ring.offer_raw(place_raw(ring, pieces));
    }
  };
  using Mischief = std::function<void(const Scene&)>;

  /// It stops that ring, is counted and told, and a reset brings the ring back: in each direction.
  void breaks(const Mischief& mischief) {
    for (const std::size_t direction : {to_guest, from_guest}) {
      Station a = victim(small(1));
      Queue& queue = a->device().queue(direction);
      const char* const name = direction == to_guest ? "to_guest" : "from_guest";
      const std::uint64_t before = counted(name, "broken_ring");
      const auto area = queue.ring().areas().descriptor_area();
      const Bytes good(area.begin(), area.end());
      mischief({queue.ring(), must(a.memory().allocate(mebi, 4096))});
      queue.ring().expose();
      queue.kick();
      if (direction == to_guest) {
        for (int i = 0; i < 3; ++i) d->send(a.mac);
      }
      pollfd error{queue.error_fd(), POLLIN, 0};
      ASSERT_EQ(::poll(&error, 1, 3000 * slowness), 1) << name;
      std::uint64_t times = 0;
      EXPECT_EQ(::read(queue.error_fd(), &times, sizeof times), 8);
      EXPECT_TRUE(eventually([&] { return counted(name, "broken_ring") == before + 1; })) << name;
      std::ranges::copy(good, area.begin());
      expect_revival(a);
    }
  }
};

class AnyNetHostileRing : public NetHostileRing, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] NetOptions rings() const override { return on_rings(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Rings, AnyNetHostileRing, ::testing::Bool(), layout_name);

TEST_P(AnyNetHostileRing, AnIndirectTableThatIsNoneBreaksIt) {
  for (const std::uint32_t length : {0U, 15U, 24U}) {
    breaks([&](const Scene& scene) {
      scene.offer({{scene.room.guest_address, length, vhost::desc_indirect}});
    });
  }
  breaks([](const Scene& scene) {
    scene.offer({{std::uint64_t{1} << 50, 32, vhost::desc_indirect}});
  });
  breaks([](const Scene& scene) {  // a table in a table
    scene.table(0, {scene.room.guest_address, 16, vhost::desc_indirect});
    scene.offer({{scene.room.guest_address, 16, vhost::desc_indirect}});
  });
}

TEST_P(AnyNetHostileRing, AnIndirectTableThatGoesOnBreaksIt) {
  breaks([](const Scene& scene) {
    scene.table(0, {scene.room.guest_address, 16});
    scene.offer({{scene.room.guest_address, 16, vhost::desc_indirect | vhost::desc_next},
                 {scene.room.guest_address, 16, vhost::desc_write}});
  });
}

TEST_P(AnyNetHostileRing, ATableOf65536EntriesThatGoOnBreaksIt) {
  breaks([](const Scene& scene) {
    for (std::uint32_t i = 0; i < 65536; ++i) {
      scene.table(static_cast<std::uint16_t>(i), {scene.room.guest_address, 16, vhost::desc_next});
    }
    scene.offer({{scene.room.guest_address, mebi, vhost::desc_indirect}});
  });
}

TEST_P(AnyNetHostileRing, ABufferOutsideOfMemoryBreaksIt) {
  for (const Piece& bad : {Piece{0, 16, vhost::desc_write}, Piece{~std::uint64_t{15}, 16, 0},
                           Piece{std::uint64_t{1} << 63, 0xffffffff, 0}}) {
    breaks([&](const Scene& scene) { scene.offer({bad}); });
  }
}

// --- one layout's own ----------------------------------------------------------------------------

class SplitNetHostileRing : public NetHostileRing {
 protected:
  static void descriptor(const Scene& scene, std::uint16_t index, const SplitDesc& desc) {
    std::memcpy(scene.ring.areas().descriptor_area().data() + index * sizeof desc, &desc,
                sizeof desc);
  }
  static void offer(const Scene& scene, std::uint16_t head) { scene.ring.offer_raw(head); }
};

TEST_F(SplitNetHostileRing, AChainThatIsALoopBreaksIt) {
  breaks([](const Scene& scene) {
    descriptor(scene, 5, {scene.room.guest_address, 16, vhost::desc_next, 5});
    offer(scene, 5);
  });
  breaks([](const Scene& scene) {
    descriptor(scene, 5, {scene.room.guest_address, 16, vhost::desc_next | vhost::desc_write, 6});
    descriptor(scene, 6, {scene.room.guest_address, 16, vhost::desc_next | vhost::desc_write, 5});
    offer(scene, 5);
  });
}

TEST_F(SplitNetHostileRing, AHeadOrASuccessorThatIsNoneBreaksIt) {
  for (const std::uint16_t none : {ring_size, std::uint16_t{0xffff}}) {
    breaks([&](const Scene& scene) { offer(scene, none); });
    breaks([&](const Scene& scene) {
      descriptor(scene, 5, {scene.room.guest_address, 16, vhost::desc_next, none});
      offer(scene, 5);
    });
  }
}

TEST_F(SplitNetHostileRing, AnAvailableIndexThatJumpsBreaksIt) {
  breaks([](const Scene& scene) {
    for (int i = 0; i < ring_size + 1; ++i) offer(scene, 0);
  });
}

class PackedNetHostileRing : public NetHostileRing {
 protected:
  [[nodiscard]] NetOptions rings() const override { return on_rings(true); }
  /// `id` counts from the one that the chain should have.
  static void offer(const Scene& scene, std::span<const PackedDesc> chain) {
    scene.ring.offer_raw(scene.ring.packed().place_raw(chain, 0).value());
  }
};

TEST_F(PackedNetHostileRing, AnIdThatIsNoneBreaksIt) {
  for (const std::uint16_t id : {ring_size, std::uint16_t{0x8000}}) {
    breaks([&](const Scene& scene) {
      const PackedDesc desc{scene.room.guest_address, 64, id, 0};
      offer(scene, std::span(&desc, 1));
    });
  }
}

TEST_F(PackedNetHostileRing, AnIdThatIsInFlightBreaksIt) {
  breaks([](const Scene& scene) {
    for (const std::uint16_t id : {std::uint16_t{0}, std::uint16_t{0xffff}}) {
      const PackedDesc desc{scene.room.guest_address, 64, id, vhost::desc_write};
      offer(scene, std::span(&desc, 1));
    }
  });
}

TEST_F(PackedNetHostileRing, AnEventThatIsNoneIsSurvived) {
  Station a = victim(rings());
  for (const std::size_t direction : {to_guest, from_guest}) {
    const auto area = a->device().queue(direction).ring().areas().driver_area();
    for (const std::uint32_t wish : {0x0002'0010U, 0x0002'7fffU, 0x0002'ffffU, 0x0003'0000U}) {
      std::atomic_ref(*reinterpret_cast<std::uint32_t*>(area.data())).store(wish);
      expect_talk(a);
    }
  }
}

// --- everything at once -------------------------------------------------------------------------

TEST_P(AnyNetHostileRing, RingsThatAreRewrittenWhileTheyAreServedHarmNobody) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  for (std::uint32_t seed = 1; std::chrono::steady_clock::now() < end; ++seed) {
    Station a = victim(small());
    Queue& sends = a->device().queue(from_guest);
    Queue& receives = a->device().queue(to_guest);
    const Buffer room = must(a.memory().allocate(1 << 16, 4096));
    const Bytes whole = tcp_frame(a.mac, d->mac, 3000);
    const NetHeader request = tcp_request(1000);
    const std::jthread mutator([&](const std::stop_token& stop) {
      std::minstd_rand random(seed);
      const auto rewrite = [&](std::span<std::byte> bytes, std::uint16_t value) {
        auto* const words = reinterpret_cast<std::uint16_t*>(bytes.data());
        std::atomic_ref(words[random() % (bytes.size() / 2)]).store(value);
      };
      while (!stop.stop_requested()) {
        const auto value = static_cast<std::uint16_t>(random());
        rewrite(room.bytes().first(12), value);        // the virtio-net header
        rewrite(room.bytes().subspan(12, 54), value);  // the frame's
        rewrite(room.bytes().subspan(66, 3000), value);
        scramble(sends.ring(), random, vhost::desc_next);
        scramble(receives.ring(), random, vhost::desc_next | vhost::desc_write);
      }
    });
    std::vector<std::uint16_t> heads;
    for (std::uint16_t i = 0; i < ring_size; ++i) {
      heads.push_back(place_raw(sends.ring(), {{room.guest_address, 3066}}));
    }
    const auto round_ends = std::chrono::steady_clock::now() + milliseconds(20);
    for (std::uint16_t i = 0; std::chrono::steady_clock::now() < round_ends; ++i) {
      std::memcpy(room.data, &request, sizeof request);
      std::ranges::copy(whole, room.data + sizeof request);
      sends.ring().offer_raw(heads[i % ring_size]);
      receives.ring().offer_raw(i % ring_size);
      sends.ring().expose();
      receives.ring().expose();
      sends.kick();
      d->send(a.mac, 64 + i % 1400);
    }
  }
  Station a = victim(small());
  expect_revival(a);
}

}  // namespace
}  // namespace integration
