#include <algorithm>
#include <deque>
#include <random>

#include "tests/unit/ring/translated_ring.hpp"

/* An honest driver and the ring against a trivial model: a queue of chains, each a list of bytes'
 * places, and a list of answers. */
namespace vhost::tests {
namespace {

struct Expected {
  std::uint16_t id;
  std::vector<const std::byte*> bytes[2];  // readable, writable
};

template <class Driver>
class RingModelTest : public RingTest<Driver> {
 protected:
  RingModelTest() : RingTest<Driver>({.size = 16, .event_idx = true}) {}

  std::vector<Buffer> some_buffers(std::size_t most) {
    const std::size_t count = 1 + random_() % most;
    const std::size_t readable = random_() % (count + 1);
    std::vector<Buffer> buffers;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t places[] = {data_at + random_() % 4096,
                                      GuestMemory::high - random_() % 64,
                                      GuestMemory::far + random_() % 256};
      buffers.push_back(
          {places[random_() % 3], static_cast<std::uint32_t>(random_() % 96), i >= readable});
    }
    return buffers;
  }
  Expected expect(std::uint16_t id, const std::vector<Buffer>& buffers) const {
    Expected expected{id, {}};
    for (const Buffer& buffer : buffers) {
      for (std::uint32_t i = 0; i < buffer.length; ++i) {
        expected.bytes[buffer.writable].push_back(this->device_view(buffer.address + i));
      }
    }
    return expected;
  }
  static std::vector<const std::byte*> flat(std::span<const iovec> pieces) {
    std::vector<const std::byte*> bytes;
    for (const iovec& piece : pieces) {
      for (std::size_t i = 0; i < piece.iov_len; ++i) {
        bytes.push_back(static_cast<const std::byte*>(piece.iov_base) + i);
      }
    }
    return bytes;
  }

  std::mt19937 random_{42};
};
TYPED_TEST_SUITE(RingModelTest, AllDrivers);

TYPED_TEST(RingModelTest, AgreesWithTheModelOverRandomSequences) {
  auto ring = this->make();
  auto& random = this->random_;
  std::deque<Expected> offered;
  std::vector<std::uint16_t> popped;
  std::vector<Expected> unpoppable;  // popped after all that was pushed, newest last
  std::deque<UsedElem> pushed;
  std::deque<UsedElem> shown;
  std::size_t served = 0;
  std::size_t singles_seen = 0;
  for (int step = 0; step < 40'000; ++step) {
    switch (random() % 7) {
      case 0: {
        const auto free = this->driver_.free_descriptors();
        if (free == 0) break;
        const bool indirect = random() % 2 == 0;
        const auto buffers = this->some_buffers(indirect ? 40 : std::min<std::size_t>(free, 5));
        const std::uint64_t table = GuestMemory::high - 16 * (random() % 40) - random() % 16;
        const auto id =
            indirect ? this->driver_.add_indirect(buffers, table) : this->driver_.add(buffers);
        offered.push_back(this->expect(id, buffers));
        if (indirect) {  // the one table is reused: have it read before it is written again
          while (ring.pop(this->chain_) == Pop::ready) {
            ASSERT_FALSE(offered.empty());
            ASSERT_EQ(this->chain_.head, offered.front().id);
            ASSERT_EQ(this->flat(this->chain_.readable()), offered.front().bytes[0]);
            ASSERT_EQ(this->flat(this->chain_.writable()), offered.front().bytes[1]);
            popped.push_back(offered.front().id);
            offered.pop_front();
          }
          ASSERT_TRUE(offered.empty());
          unpoppable.clear();
        }
        break;
      }
      case 1: {
        std::array<Single, 3> singles{};
        const std::size_t count = ring.pop_singles(singles);
        singles_seen += count;
        for (const Single& single : std::span(singles).first(count)) {
          ASSERT_FALSE(offered.empty());
          ASSERT_EQ(single.head, offered.front().id);
          const iovec piece{single.begin, single.bytes};
          ASSERT_EQ(this->flat({&piece, 1}), offered.front().bytes[single.writable]);
          ASSERT_TRUE(offered.front().bytes[!single.writable].empty());
          popped.push_back(offered.front().id);
          unpoppable.push_back(std::move(offered.front()));
          offered.pop_front();
        }
        break;
      }
      case 2: {
        const Pop answer = ring.pop(this->chain_);
        ASSERT_EQ(answer, offered.empty() ? Pop::empty : Pop::ready);
        if (answer == Pop::empty) break;
        ASSERT_EQ(this->chain_.head, offered.front().id);
        ASSERT_EQ(this->flat(this->chain_.readable()), offered.front().bytes[0]);
        ASSERT_EQ(this->flat(this->chain_.writable()), offered.front().bytes[1]);
        popped.push_back(offered.front().id);
        unpoppable.push_back(std::move(offered.front()));
        offered.pop_front();
        break;
      }
      case 3: {
        if (popped.empty()) break;
        std::swap(popped[random() % popped.size()], popped.back());
        const UsedElem answer{popped.back(), static_cast<std::uint32_t>(random())};
        popped.pop_back();
        ring.push(static_cast<std::uint16_t>(answer.id), answer.length);
        pushed.push_back(answer);
        const auto newer = std::ranges::find(unpoppable, answer.id, &Expected::id);
        if (newer != unpoppable.end()) unpoppable.erase(unpoppable.begin(), newer + 1);
        break;
      }
      case 4:
        if (unpoppable.empty()) break;
        ring.unpop(unpoppable.back().id);
        std::erase(popped, unpoppable.back().id);
        offered.push_front(std::move(unpoppable.back()));
        unpoppable.pop_back();
        break;
      case 5:
        (void)ring.publish();
        shown.insert(shown.end(), pushed.begin(), pushed.end());
        pushed.clear();
        break;
      default:
        while (const auto used = this->driver_.take_used()) {
          ASSERT_FALSE(shown.empty());
          ASSERT_EQ(used->id, shown.front().id);
          ASSERT_EQ(used->length, shown.front().length);
          shown.pop_front();
          ++served;
        }
        ASSERT_TRUE(shown.empty());
    }
    ASSERT_EQ(ring.in_flight(), popped.size());
  }
  EXPECT_GT(served, 2'000u);
  EXPECT_GT(singles_seen, 200u);
}

}  // namespace
}  // namespace vhost::tests
