// Drivers that break the rules of the ring, or that offer frames and buffers that are none.
#include <cstring>
#include <random>

#include "libvhost/wire/virtqueue.hpp"
#include "tests/integration/net_hostile.hpp"
#include "tests/integration/tcp.hpp"

namespace integration {
namespace {

using vhost::SplitLayout;
using vhost::frontend::NetQueue;
using vhost::frontend::NetSent;
using vhost::frontend::Poll;
using vhost::frontend::Queue;

constexpr std::size_t to_guest = 0;
constexpr std::size_t from_guest = 1;

class NetHostileRing : public NetHostile {
 protected:
  /// What a mischief has at hand: the ring, and memory of the guest's.
  struct Scene {
    SplitDriverRing& ring;
    Buffer room;

    void descriptor(std::uint16_t index, const SplitDesc& desc) const {
      std::memcpy(ring.descriptor_area().data() + index * sizeof desc, &desc, sizeof desc);
    }
    void table(std::uint16_t index, const SplitDesc& desc) const {
      std::memcpy(room.data + index * sizeof desc, &desc, sizeof desc);
    }
    void offer(std::uint16_t head) const { ring.offer_raw(head); }
  };
  using Mischief = std::function<void(const Scene&)>;

  /// It stops that ring, is counted and told, and a reset brings the ring back: in each direction.
  void breaks(const Mischief& mischief) {
    for (const std::size_t direction : {to_guest, from_guest}) {
      Station a = victim(small(1));
      Queue& queue = a->device().queue(direction);
      const char* const name = direction == to_guest ? "to_guest" : "from_guest";
      const std::uint64_t before = counted(name, "broken_ring");
      const auto area = queue.ring().split().descriptor_area();
      const Bytes good(area.begin(), area.end());
      mischief({queue.ring().split(), must(a.memory().allocate(mebi, 4096))});
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

  static constexpr std::size_t mebi = 1 << 20;
};

TEST_F(NetHostileRing, AChainThatIsALoopBreaksIt) {
  breaks([](const Scene& scene) {
    scene.descriptor(5, {scene.room.guest_address, 16, vhost::desc_next, 5});
    scene.offer(5);
  });
  breaks([](const Scene& scene) {
    scene.descriptor(5, {scene.room.guest_address, 16, vhost::desc_next | vhost::desc_write, 6});
    scene.descriptor(6, {scene.room.guest_address, 16, vhost::desc_next | vhost::desc_write, 5});
    scene.offer(5);
  });
}

TEST_F(NetHostileRing, AHeadOrASuccessorThatIsNoneBreaksIt) {
  for (const std::uint16_t none : {ring_size, std::uint16_t{0xffff}}) {
    breaks([&](const Scene& scene) { scene.offer(none); });
    breaks([&](const Scene& scene) {
      scene.descriptor(5, {scene.room.guest_address, 16, vhost::desc_next, none});
      scene.offer(5);
    });
  }
}

TEST_F(NetHostileRing, AnAvailableIndexThatJumpsBreaksIt) {
  breaks([](const Scene& scene) {
    for (int i = 0; i < ring_size + 1; ++i) scene.offer(0);
  });
}

TEST_F(NetHostileRing, AnIndirectTableThatIsNoneBreaksIt) {
  for (const std::uint32_t length : {0U, 15U, 24U}) {
    breaks([&](const Scene& scene) {
      scene.descriptor(5, {scene.room.guest_address, length, vhost::desc_indirect, 0});
      scene.offer(5);
    });
  }
  breaks([](const Scene& scene) {
    scene.descriptor(5, {std::uint64_t{1} << 50, 32, vhost::desc_indirect, 0});
    scene.offer(5);
  });
  breaks([](const Scene& scene) {  // a table in a table
    scene.table(0, {scene.room.guest_address, 16, vhost::desc_indirect, 0});
    scene.descriptor(5, {scene.room.guest_address, 16, vhost::desc_indirect, 0});
    scene.offer(5);
  });
}

TEST_F(NetHostileRing, ALoopInATableOf65536EntriesBreaksIt) {
  breaks([](const Scene& scene) {
    for (std::uint32_t i = 0; i < 65536; ++i) {
      const SplitDesc desc{scene.room.guest_address, 16, vhost::desc_next,
                           static_cast<std::uint16_t>(i + 1)};
      std::memcpy(scene.room.data + i * sizeof desc, &desc, sizeof desc);
    }
    scene.descriptor(5, {scene.room.guest_address, mebi, vhost::desc_indirect, 0});
    scene.offer(5);
  });
}

TEST_F(NetHostileRing, ABufferOutsideOfMemoryBreaksIt) {
  for (const SplitDesc& bad :
       {SplitDesc{0, 16, vhost::desc_write, 0}, SplitDesc{~std::uint64_t{15}, 16, 0, 0},
        SplitDesc{std::uint64_t{1} << 63, 0xffffffff, 0, 0}}) {
    breaks([&](const Scene& scene) {
      scene.descriptor(5, bad);
      scene.offer(5);
    });
  }
}

// --- receive buffers ----------------------------------------------------------------------------

class NetHostileBuffers : public NetHostile {
 protected:
  /// Changes every receive buffer of the victim's, which the daemon has not looked at yet.
  template <class Change>
  static void change_buffers(Station& a, Change change) {
    const auto area = a->device().queue(to_guest).ring().split().descriptor_area();
    for (std::size_t at = 0; at < area.size(); at += sizeof(SplitDesc)) {
      SplitDesc desc;
      std::memcpy(&desc, area.data() + at, sizeof desc);
      change(desc);
      std::memcpy(area.data() + at, &desc, sizeof desc);
    }
  }
  void send_to(const Station& a, int frames = 4) const {
    for (int i = 0; i < frames; ++i) d->send(a.mac);
  }
};

TEST_F(NetHostileBuffers, OnesShorterThanAHeaderAreReturnedAndCounted) {
  for (const std::uint32_t bytes : {0U, 1U, 11U}) {
    Station a = victim(small());
    const std::uint64_t before = dropped("to_guest", "bad_buffers");
    change_buffers(a, [&](SplitDesc& desc) { desc.length = bytes; });
    send_to(a);
    EXPECT_TRUE(drops_more("to_guest", "bad_buffers", before)) << bytes;
    change_buffers(a, [](SplitDesc& desc) { desc.length = 2048; });
    expect_revival(a);
  }
}

TEST_F(NetHostileBuffers, OnesThatHoldLittleMoreThanAHeaderTakeAFrameTogether) {
  for (const std::uint32_t bytes : {12U, 13U}) {
    Station a = victim(small());
    const std::uint64_t before = counted("to_guest", "frames");
    change_buffers(a, [&](SplitDesc& desc) { desc.length = bytes; });
    send_to(a, 1);
    EXPECT_TRUE(eventually([&] { return counted("to_guest", "frames") == before + 1; })) << bytes;
    change_buffers(a, [](SplitDesc& desc) { desc.length = 2048; });
    expect_revival(a);
  }
}

TEST_F(NetHostileBuffers, OnesThatAreTooShortAloneAreNotFilled) {
  NetOptions options = small();
  options.wishes.features = vhost::frontend::Wishes{}.features;  // not mergeable
  for (const std::uint32_t bytes : {12U, 13U}) {
    Station a = victim(options);
    const std::uint64_t before = dropped("to_guest", "too_big");
    change_buffers(a, [&](SplitDesc& desc) { desc.length = bytes; });
    send_to(a);
    EXPECT_TRUE(drops_more("to_guest", "too_big", before)) << bytes;
    change_buffers(a, [](SplitDesc& desc) { desc.length = 2048; });
    expect_revival(a);
  }
}

TEST_F(NetHostileBuffers, OnesThatMayOnlyBeReadAreReturnedUntouched) {
  Station a = victim(small());
  const std::uint64_t before = dropped("to_guest", "bad_buffers");
  change_buffers(a, [](SplitDesc& desc) { desc.flags = 0; });
  send_to(a);
  EXPECT_TRUE(drops_more("to_guest", "bad_buffers", before));
  change_buffers(a, [](SplitDesc& desc) { desc.flags = vhost::desc_write; });
  expect_revival(a);
}

TEST_F(NetHostileBuffers, AGuestThatOffersNoneLosesItsFramesAndNobodyElsesRate) {
  const auto rate = [&] {
    const std::uint64_t before = chat->delivered();
    ::usleep(500'000);
    return chat->delivered() - before;
  };
  std::vector<std::uint64_t> quiet{rate(), rate()};
  Station a = victim(small(1));
  std::jthread sender([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      d->send(a.mac);
      ::usleep(1000);
    }
  });
  const std::size_t resident = daemon->resident_bytes();
  const std::vector<std::uint64_t> starved{rate(), rate()};
  EXPECT_GT(std::ranges::max(starved), std::ranges::min(quiet) / 4);  // a busy machine varies
  // A sanitizer's own books grow with what the daemon gives back to it.
  if (!sanitized) {
    EXPECT_LT(daemon->resident_bytes(), resident + (1 << 20));
  }
  sender = {};
  EXPECT_TRUE(drops_more("to_guest", "no_buffers", 100));
  EXPECT_EQ(counted("to_guest", "frames"), 1U + 1U) << "one of SetUp(), one for the one buffer";
}

// --- frames -------------------------------------------------------------------------------------

class NetHostileFrames : public NetHostile {
 protected:
  void SetUp() override {
    NetHostile::SetUp();
    NetOptions options;
    options.queue.ring = {.size = 256, .indirect = 128};
    a = std::make_unique<Station>(connect(socket("a")), 1, options);
  }
  void TearDown() override {
    expect_talk(*a);
    a.reset();
    NetHostile::TearDown();
  }

  [[nodiscard]] static Bytes with_header(const NetHeader& header, const Bytes& frame) {
    Bytes all(sizeof header);
    std::memcpy(all.data(), &header, sizeof header);
    all.insert(all.end(), frame.begin(), frame.end());
    return all;
  }
  /// Sends a chain of these bytes, of descriptors of these lengths and one of the rest.
  void send_chain(const Bytes& all, const std::vector<std::uint32_t>& cuts = {}) {
    const Buffer room = must(a->memory().allocate(all.size() + 1));
    std::ranges::copy(all, room.data);
    std::vector<Segment> pieces;
    std::uint32_t used = 0;
    for (const std::uint32_t cut : cuts) {
      pieces.push_back(room.segment(used, cut));
      used += cut;
    }
    pieces.push_back(room.segment(used, static_cast<std::uint32_t>(all.size()) - used));
    NetQueue& queue = (*a)->queue(0);
    const auto slot = queue.prepare(pieces);
    ASSERT_TRUE(slot);
    queue.start(*slot);
    queue.kick();
    NetSent sent;
    EXPECT_TRUE(eventually([&] { return queue.poll_sent(sent) == Poll::done; })) << all.size();
    EXPECT_TRUE(queue.drop(*slot));
    a->memory().release(room);
  }
  void drops(const char* why, const Bytes& all) {
    const std::uint64_t before = dropped("from_guest", why);
    send_chain(all);
    EXPECT_TRUE(drops_more("from_guest", why, before)) << why << ' ' << all.size();
  }
  void drops_request(const char* why, const NetHeader& header, std::uint16_t payload = 3000) {
    drops(why, with_header(header, tcp_frame(a->mac, d->mac, payload)));
  }

  std::unique_ptr<Station> a;
};

TEST_F(NetHostileFrames, OnesInPiecesOfOneByteArrive) {
  const Bytes whole = frame(a->mac, d->mac, 90, 4);
  send_chain(with_header({}, whole), std::vector<std::uint32_t>(12, 1));
  EXPECT_TRUE(hears(*d, whole));
  send_chain(with_header({}, whole), std::vector<std::uint32_t>(100, 1));
  EXPECT_TRUE(hears(*d, whole));
}

TEST_F(NetHostileFrames, OnesInPiecesOfNothingArrive) {
  const Bytes whole = frame(a->mac, d->mac, 90, 5);
  send_chain(with_header({}, whole), {0, 6, 0, 0, 6, 0, 14, 0});
  EXPECT_TRUE(hears(*d, whole));
}

TEST_F(NetHostileFrames, OnesThatAreTooShortAreCounted) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{11}, std::size_t{12},
                                  std::size_t{13}, std::size_t{25}}) {
    drops("too_short", Bytes(bytes));
  }
  const Bytes shortest = frame(a->mac, d->mac, 14);
  send_chain(with_header({}, shortest));
  EXPECT_TRUE(hears(*d, shortest));
}

TEST_F(NetHostileFrames, OnesThatAreTooLongAreCounted) {
  const Bytes longest = frame(a->mac, d->mac, 9216, 6);
  send_chain(with_header({}, longest));
  EXPECT_TRUE(hears(*d, longest));
  drops("too_long", with_header({}, frame(a->mac, d->mac, 9300)));
  drops("too_long", with_header({}, frame(a->mac, d->mac, 70'000)));
  drops("too_long", with_header(tcp_request(1000), frame(a->mac, d->mac, 1'000'000)));
}

TEST_F(NetHostileFrames, AChecksumOutsideOfTheFrameIsCounted) {
  for (const std::uint16_t start :
       {std::uint16_t{3055}, std::uint16_t{0xfffe}, std::uint16_t{0xffff}}) {
    NetHeader header{.flags = vhost::frontend::net_needs_csum, .csum_start = start};
    drops_request("bad_checksum", header);
    header.csum_offset = 0xffff;
    drops_request("bad_checksum", header);
  }
  drops_request("bad_checksum",
                {.flags = vhost::frontend::net_needs_csum, .csum_start = 34, .csum_offset = 3020});
}

TEST_F(NetHostileFrames, ASegmentationThatMakesNoSenseIsCounted) {
  NetHeader header = tcp_request(0);
  drops_request("bad_segmentation", header);
  header = tcp_request(1);  // 3000 segments
  drops_request("bad_segmentation", header);
  header = tcp_request(1000);
  for (const int kind : {2, 3, 4, 5, 0x7f, 0xff}) {  // none, UDP, TCP over IPv6, ...
    header.gso_type = static_cast<std::uint8_t>(kind);
    drops_request("bad_segmentation", header);
  }
  header = tcp_request(1000);
  drops("bad_segmentation", with_header(header, frame(a->mac, d->mac, 3000)));  // no TCP
}

// --- everything at once -------------------------------------------------------------------------

TEST_F(NetHostile, RingsThatAreRewrittenWhileTheyAreServedHarmNobody) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
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
        for (Queue* const queue : {&sends, &receives}) {
          const auto area = queue->ring().split().descriptor_area();
          auto* const desc =
              reinterpret_cast<std::uint16_t*>(area.data()) + random() % ring_size * 8;
          std::atomic_ref(desc[4]).store(value % 4000);                            // length
          std::atomic_ref(desc[6]).store(value >> 8 & (queue == &sends ? 1 : 3));  // flags
          std::atomic_ref(desc[7]).store(value % ring_size);                       // next
          if (value % 64 == 0) std::atomic_ref(desc[0]).store(value);              // address
        }
      }
    });
    for (std::uint16_t i = 0; i < ring_size; ++i) {
      const SplitDesc desc{room.guest_address, 3066, 0, 0};
      std::memcpy(sends.ring().split().descriptor_area().data() + i * sizeof desc, &desc,
                  sizeof desc);
    }
    const auto round_ends = std::chrono::steady_clock::now() + milliseconds(20);
    for (std::uint16_t i = 0; std::chrono::steady_clock::now() < round_ends; ++i) {
      std::memcpy(room.data, &request, sizeof request);
      std::ranges::copy(whole, room.data + sizeof request);
      sends.ring().split().offer_raw(i % ring_size);
      receives.ring().split().offer_raw(i % ring_size);
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
