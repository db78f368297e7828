#include <random>

#include "tests/unit/ring/packed_inflight_fixture.hpp"

/* A back-end that dies at any step owes the driver exactly what it had not given back. */
namespace vhost::tests {
namespace {

/// What a kill leaves behind if it comes within a publish(): of each thing that this writes, in its
/// order, how many are written.
class PackedDeathTest : public PackedInflightTest, public testing::WithParamInterface<int> {
 protected:
  enum Step { nothing, links, free_head, positions, shown, one_mark, marks, old_free_head, all };

  [[nodiscard]] Bytes bytes_of_region() const {
    return {region_->bytes().begin(), region_->bytes().end()};
  }
  [[nodiscard]] std::span<std::byte> ring_bytes() const {
    return {memory_.at(driver_.descriptors_at()), odd_size * sizeof(PackedDesc)};
  }
};

TEST_P(PackedDeathTest, EndsABatchOrUndoesIt) {
  const int died = GetParam();
  // Near the end, so that the batch goes over it.
  const std::uint32_t base = driver_.start_at({9, false});
  const Ids ids = add(5);  // 1, 2, 3, 1 and 2 slots: entries 0, 1-2, 3-5, 6 and 7-8
  {
    PackedRing ring = make(driver_.setup(base), section());
    pop(ring, 5);
    for (const int i : {3, 1, 4}) ring.push(ids[static_cast<std::size_t>(i)], 0);
    const Bytes before = bytes_of_region();
    const Bytes ring_before(ring_bytes().begin(), ring_bytes().end());
    const PackedInflightHeader head_before = header();
    (void)ring.publish();
    const PackedInflightHeader head_after = header();

    if (died < shown) std::ranges::copy(ring_before, ring_bytes().begin());
    if (died < links) std::ranges::copy(before, region_->bytes().begin());
    if (died < one_mark) entry(6).inflight = 1;
    if (died < marks) entry(1).inflight = entry(7).inflight = 1;
    if (died < old_free_head) header().old_free_head = 9;
    if (died < all) {
      header().old_used_idx = head_before.used_idx;
      header().old_used_wrap_counter = head_before.used_wrap_counter;
    }
    if (died < positions) {
      header().used_idx = head_before.used_idx;
      header().used_wrap_counter = head_before.used_wrap_counter;
    }
    if (died < free_head) header().free_head = 9;
    EXPECT_NE(head_after.used_wrap_counter, head_before.used_wrap_counter);
  }
  PackedRing next = start();
  const Ids owed = died < shown ? ids : Ids{ids[0], ids[2]};
  EXPECT_EQ(drain(next), owed);
  EXPECT_EQ(marked(), static_cast<int>(owed.size()));
  for (const auto id : owed) next.push(id, 0);
  (void)next.publish();
  Ids used = take_all_used();
  std::ranges::sort(used);
  EXPECT_EQ(used, (Ids{0, 1, 2, 3, 4})) << "each of the first five ids, once";
  EXPECT_EQ(marked(), 0);
  for (int i = 0; i < 40; ++i) {  // and all goes on
    const Ids more = add(1 + i % 5);
    ASSERT_EQ(drain(next), more);
    for (const auto id : more) next.push(id, 0);
    (void)next.publish();
    ASSERT_EQ(take_all_used(), more);
  }
}
INSTANTIATE_TEST_SUITE_P(EveryStep, PackedDeathTest, testing::Range(0, 9));

TEST_F(PackedInflightTest, HasWrittenABatchDownBeforeItIsShown) {
  const PackedInflightSection::Recovered base{{9, false}, {9, false}, {}};
  for (const bool was_shown : {false, true}) {
    std::ranges::fill(region_->bytes(), std::byte{});
    PackedInflightSection first = section();
    ASSERT_TRUE(first.recover(base, odd_size, {}));
    std::vector<std::uint16_t> entries;
    for (std::uint16_t id = 0; id < 4; ++id) {
      for (int slots = 0; slots <= id % 2; ++slots) first.note({data_at, 1, id, 0});
      entries.push_back(first.take(id));
    }
    first.give_back(entries[3]);
    first.give_back(entries[1]);
    first.give_back(entries[0]);
    first.prepare({3, true});  // and dies, before it is shown or behind it

    PackedInflightSection second = section();
    const auto found = second.recover(base, odd_size, [&](std::uint16_t index) {
      EXPECT_EQ(index, 9);
      return was_shown ? base.used.used_flags() : base.used.available_flags();
    });
    ASSERT_TRUE(found);
    EXPECT_EQ(found->owed.size(), was_shown ? 1u : 4u);
    EXPECT_EQ(found->owed.back().id, was_shown ? 2 : 3);
    EXPECT_EQ(found->used, was_shown ? (PackedPosition{3, true}) : base.used);
    EXPECT_EQ(found->available.ahead_of(found->used, odd_size), was_shown ? 1u : 6u);
  }
}

TEST_F(PackedInflightTest, AnswersEverythingOnceWhereverItDies) {
  // Each life goes a random number of steps; what it is killed with comes back in the next.
  std::mt19937 random(11);
  std::vector<int> answered(odd_size, 0);
  std::vector<int> offered(odd_size, 0);
  const auto collect = [&] {
    for (const auto id : take_all_used()) ++answered[id];
  };
  for (int life = 0; life < 4000; ++life) {
    PackedRing ring = start();
    Ids mine;
    for (auto steps = random() % 20; steps > 0; --steps) {
      switch (random() % 5) {
        case 0: {
          const auto slots = 1 + random() % 4;
          if (driver_.free_descriptors() < slots) break;
          ++offered[driver_.add(std::vector<Buffer>(slots, Buffer{data_at, 4}))];
          break;
        }
        case 1: {
          const Pop answer = ring.pop(chain_);
          ASSERT_TRUE(answer == Pop::ready || answer == Pop::empty);
          if (answer == Pop::empty) break;
          if (random() % 4 == 0) {
            ring.unpop(chain_.head);
          } else {
            mine.push_back(chain_.head);
          }
          break;
        }
        case 2:
          if (std::vector<Single> singles(2); const auto count = ring.pop_singles(singles)) {
            for (std::size_t i = 0; i < count; ++i) mine.push_back(singles[i].head);
          }
          break;
        case 3:
          if (!mine.empty()) {
            std::swap(mine[random() % mine.size()], mine.back());
            ring.push(mine.back(), 0);
            mine.pop_back();
          }
          break;
        default: (void)ring.publish(); collect();
      }
      for (std::size_t id = 0; id < odd_size; ++id) ASSERT_LE(answered[id], offered[id]);
    }
  }
  PackedRing last = start();
  while (last.pop(chain_) == Pop::ready) last.push(chain_.head, 0);
  (void)last.publish();
  collect();
  EXPECT_EQ(answered, offered);
  EXPECT_EQ(driver_.free_descriptors(), odd_size);
}

TEST_F(PackedInflightTest, KnowsABatchOfTheWholeRing) {
  // Both indexes are the same then, and only the laps differ.
  std::vector<Buffer> all(odd_size, Buffer{data_at, 1});
  const auto id = driver_.add(all);
  PackedRing first = start();
  serve(first);
  entry(0).inflight = 1;  // died between showing it and unmarking it
  header().old_used_wrap_counter = 1;
  header().old_free_head = odd_size;
  PackedRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(second.base(), (PackedPosition{0, false}.bits()) * 0x10001u);
  EXPECT_EQ(take_all_used(), Ids{id});
}

TEST_F(PackedInflightTest, KnowsABatchThatTheDriverTookAndFilledAgain) {
  std::vector<Buffer> all(odd_size, Buffer{data_at, 1});
  driver_.add(all);
  PackedRing first = start();
  serve(first);
  entry(0).inflight = 1;
  header().old_used_wrap_counter = 1;
  header().old_free_head = odd_size;
  EXPECT_EQ(take_all_used().size(), 1u);
  const Ids next = add(2);
  PackedRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(drain(second), next);
}

}  // namespace
}  // namespace vhost::tests
