#include <random>

#include "tests/unit/ring/ring_fixture.hpp"

/* A back-end that dies at any step owes the driver exactly what it had not given back, and knows
 * from the inflight section alone where it was: the front-end's base is that of a new ring. */
namespace vhost::tests {
namespace {

constexpr std::uint16_t ring_size = 11;
using Ids = std::vector<std::uint16_t>;
using Bytes = std::vector<std::byte>;

class PackedInflightTest : public PackedRingTest {
 protected:
  PackedInflightTest() : PackedRingTest({.size = ring_size}) {
    auto region = make_inflight_region(1, ring_size);
    auto mapped = Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes);
    region_ = std::make_shared<const Mapping>(std::move(*mapped));
  }
  [[nodiscard]] PackedInflightSection section() const {
    return {region_, region_->bytes(), ring_size};
  }
  [[nodiscard]] PackedInflightHeader& header() const {
    return *reinterpret_cast<PackedInflightHeader*>(region_->bytes().data());
  }
  [[nodiscard]] PackedInflightEntry& entry(std::uint16_t at) const {
    return reinterpret_cast<PackedInflightEntry*>(region_->bytes().data() +
                                                  sizeof(PackedInflightHeader))[at];
  }
  [[nodiscard]] int marked() const {
    int count = 0;
    for (std::uint16_t i = 0; i < ring_size; ++i) count += entry(i).inflight == 1;
    return count;
  }

  PackedRing start() { return make(driver_.setup(), section()); }
  [[nodiscard]] bool starts() const {
    return PackedRing::create(driver_.setup(), map_, section()).has_value();
  }
  Ids pop(PackedRing& ring, int count) {
    Ids ids;
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(ring.pop(chain_), Pop::ready);
      ids.push_back(chain_.head);
    }
    return ids;
  }
  /// Chains of 1, 2, 3, 1, 2, 3 ... slots.
  Ids add(int count) {
    Ids ids;
    for (int i = 0; i < count; ++i) {
      const std::vector<Buffer> buffers(1 + static_cast<std::size_t>(i) % 3,
                                        Buffer{data_at, static_cast<std::uint32_t>(10 + i), true});
      ids.push_back(driver_.add(buffers));
    }
    return ids;
  }
  Ids take_all_used() {
    Ids ids;
    while (const auto used = driver_.take_used())
      ids.push_back(static_cast<std::uint16_t>(used->id));
    return ids;
  }
  /// Everything that pop() still has.
  Ids drain(PackedRing& ring) {
    Ids ids;
    Pop answer = Pop::ready;
    while ((answer = ring.pop(chain_)) == Pop::ready) ids.push_back(chain_.head);
    EXPECT_EQ(answer, Pop::empty);
    return ids;
  }

  std::shared_ptr<const Mapping> region_;
};

TEST_F(PackedInflightTest, OwesNothingAfterAnOrderlyEnd) {
  add(3);
  PackedRing first = start();
  for (int i = 0; i < 3; ++i) serve(first);
  PackedRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(second.base(), first.base()) << "not the front-end's, which is of a new ring";
  EXPECT_EQ(drain(second), Ids{});
}

TEST_F(PackedInflightTest, OwesWhatWasPopped) {
  const Ids ids = add(4);
  PackedRing first = start();
  pop(first, 3);
  PackedRing second = start();
  EXPECT_TRUE(second.owes());
  EXPECT_TRUE(second.arm_kick()) << "there is work: do not sleep";
  std::vector<Single> singles(4);
  EXPECT_EQ(second.pop_singles(singles), 0u);
  EXPECT_EQ(second.base(), driver_.base_after(6, 0));
  EXPECT_EQ(drain(second), ids) << "what was owed, and then the one never popped";
  EXPECT_FALSE(second.owes());
}

TEST_F(PackedInflightTest, OwesASingleToo) {
  const Ids ids = add(1);
  PackedRing first = start();
  std::vector<Single> singles(4);
  ASSERT_EQ(first.pop_singles(singles), 1u);
  PackedRing second = start();
  EXPECT_TRUE(second.arm_kick()) << "it is owed, though the driver has nothing new";
  EXPECT_EQ(drain(second), ids);
  EXPECT_EQ(lengths(), Lengths{10});
  EXPECT_FALSE(second.arm_kick());
}

TEST_F(PackedInflightTest, OwesChainsWhoseDescriptorsWereOverwritten) {
  const Ids ids = add(3);  // of 1, 2 and 3 slots
  PackedRing first = start();
  pop(first, 3);
  first.push(ids[1], 0);
  first.push(ids[2], 0);
  (void)first.publish();  // over the slots of the first, and of the second
  PackedRing second = start();
  EXPECT_EQ(second.base(), driver_.base_after(6, 5));
  ASSERT_EQ(drain(second), Ids{ids[0]});
  EXPECT_EQ(lengths(), Lengths{10});
  second.push(ids[0], 0);
  (void)second.publish();
  EXPECT_EQ(take_all_used(), (Ids{ids[1], ids[2], ids[0]}));
}

TEST_F(PackedInflightTest, OwesIndirectChains) {
  const std::vector<Buffer> buffers{{data_at, 16}, {data_at + 512, 64, true}};
  const auto id = driver_.add_indirect(buffers, data_at + 0x10000);
  PackedRing first = start();
  pop(first, 1);
  PackedRing second = start();
  EXPECT_EQ(drain(second), Ids{id});
  EXPECT_EQ(lengths(), (Lengths{16, 64}));
}

TEST_F(PackedInflightTest, ErasesUsedDescriptorsThatWereNotShown) {
  const Ids ids = add(1);
  const auto other = driver_.add({{data_at, 1}});
  PackedRing first = start();
  pop(first, 2);
  first.push(ids[0], 0);
  first.push(other, 0);  // is in the ring, behind the one that is not
  PackedRing second = start();
  EXPECT_EQ(drain(second), (Ids{ids[0], other}));
  second.push(ids[0], 0);
  (void)second.publish();
  EXPECT_EQ(take_all_used(), ids);
}

// ---------------------------------------------------------------- every point of death

/// What a kill leaves behind if it comes within a publish(): of each thing that this writes, in its
/// order, how many are written.
class PackedDeathTest : public PackedInflightTest, public testing::WithParamInterface<int> {
 protected:
  enum Step { nothing, links, free_head, positions, shown, one_mark, marks, old_free_head, all };

  [[nodiscard]] Bytes bytes_of_region() const {
    return {region_->bytes().begin(), region_->bytes().end()};
  }
  [[nodiscard]] std::span<std::byte> ring_bytes() const {
    return {memory_.at(driver_.descriptors_at()), ring_size * sizeof(PackedDesc)};
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
    ASSERT_TRUE(first.recover(base, ring_size, {}));
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
    const auto found = second.recover(base, ring_size, [&](std::uint16_t index) {
      EXPECT_EQ(index, 9);
      return was_shown ? base.used.used_flags() : base.used.available_flags();
    });
    ASSERT_TRUE(found);
    EXPECT_EQ(found->owed.size(), was_shown ? 1u : 4u);
    EXPECT_EQ(found->owed.back().id, was_shown ? 2 : 3);
    EXPECT_EQ(found->used, was_shown ? (PackedPosition{3, true}) : base.used);
    EXPECT_EQ(found->available.ahead_of(found->used, ring_size), was_shown ? 1u : 6u);
  }
}

TEST_F(PackedInflightTest, AnswersEverythingOnceWhereverItDies) {
  // Each life goes a random number of steps; what it is killed with comes back in the next.
  std::mt19937 random(11);
  std::vector<int> answered(ring_size, 0);
  std::vector<int> offered(ring_size, 0);
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
      for (std::size_t id = 0; id < ring_size; ++id) ASSERT_LE(answered[id], offered[id]);
    }
  }
  PackedRing last = start();
  while (last.pop(chain_) == Pop::ready) last.push(chain_.head, 0);
  (void)last.publish();
  collect();
  EXPECT_EQ(answered, offered);
  EXPECT_EQ(driver_.free_descriptors(), ring_size);
}

TEST_F(PackedInflightTest, KnowsABatchOfTheWholeRing) {
  // Both indexes are the same then, and only the laps differ.
  std::vector<Buffer> all(ring_size, Buffer{data_at, 1});
  const auto id = driver_.add(all);
  PackedRing first = start();
  serve(first);
  entry(0).inflight = 1;  // died between showing it and unmarking it
  header().old_used_wrap_counter = 1;
  header().old_free_head = ring_size;
  PackedRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(second.base(), (PackedPosition{0, false}.bits()) * 0x10001u);
  EXPECT_EQ(take_all_used(), Ids{id});
}

TEST_F(PackedInflightTest, KnowsABatchThatTheDriverTookAndFilledAgain) {
  std::vector<Buffer> all(ring_size, Buffer{data_at, 1});
  driver_.add(all);
  PackedRing first = start();
  serve(first);
  entry(0).inflight = 1;
  header().old_used_wrap_counter = 1;
  header().old_free_head = ring_size;
  EXPECT_EQ(take_all_used().size(), 1u);
  const Ids next = add(2);
  PackedRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(drain(second), next);
}

TEST_F(PackedInflightTest, ResubmitsInTheOrderOfTheFirstSubmission) {
  const Ids ids = add(3);
  PackedRing first = start();
  pop(first, 3);
  entry(0).counter = 40;
  entry(1).counter = 10;
  entry(3).counter = 1000;
  PackedRing second = start();
  EXPECT_EQ(drain(second), (Ids{ids[1], ids[0], ids[2]}));
  const Ids more = add(1);
  pop(second, 1);
  EXPECT_GT(entry(6).counter, 1000u);
  EXPECT_EQ(entry(6).id, more[0]);
}

TEST_F(PackedInflightTest, TakesNoEntryOfABatchBeforeItIsShown) {
  const Ids ids = add(1);
  PackedRing ring = start();
  pop(ring, 1);
  ring.push(ids[0], 0);
  const auto second = driver_.add({{data_at, 1}});
  pop(ring, 1);
  EXPECT_EQ(entry(0).id, ids[0]);
  EXPECT_EQ(entry(1).id, second);
  PackedRing next = start();
  EXPECT_EQ(drain(next), (Ids{ids[0], second}));
}

TEST_F(PackedInflightTest, MarksNothingThatHadNoRoomOrIsNoChain) {
  driver_.add({{data_at, 1}, {data_at, 1}});
  PackedRing ring = start();
  Chain small{std::span(room_).first(1)};
  EXPECT_EQ(ring.pop(small), Pop::no_room);
  EXPECT_EQ(marked(), 0);
  pop(ring, 1);
  EXPECT_EQ(marked(), 1);
  EXPECT_EQ(entry(0).num, 2);
  driver_.write({{data_at, 1, 99, 0}});
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  EXPECT_EQ(marked(), 1);
}

TEST_F(PackedInflightTest, OwesAgainWhatWasOwedAndUnpopped) {
  const Ids ids = add(3);
  PackedRing first = start();
  pop(first, 2);
  PackedRing second = start();
  pop(second, 3);
  for (const int newest : {2, 1, 0}) second.unpop(ids[static_cast<std::size_t>(newest)]);
  EXPECT_EQ(second.base(), driver_.base_after(3, 0));
  EXPECT_TRUE(second.owes());
  EXPECT_EQ(marked(), 2);
  EXPECT_EQ(drain(second), ids);
  PackedRing third = start();
  EXPECT_EQ(drain(third), ids) << "a successor owes them too";
}

TEST_F(PackedInflightTest, AFreshSectionBeginsAtTheFrontEndsBase) {
  const std::uint32_t base = driver_.start_at({7, false});
  const Ids ids = add(2);
  PackedRing first = make(driver_.setup(base), section());
  EXPECT_EQ(header().version, inflight_version);
  EXPECT_EQ(header().desc_num, ring_size);
  EXPECT_EQ(header().used_idx, 7);
  EXPECT_EQ(header().used_wrap_counter, 0);
  pop(first, 2);
  PackedRing second = start();  // killed before the first completion
  EXPECT_EQ(drain(second), ids);
  EXPECT_EQ(second.base(), first.base());
}

// ---------------------------------------------------------------- lies in the region

TEST_F(PackedInflightTest, RefusesAnotherVersionAndAnotherSize) {
  (void)start();
  header().version = 2;
  EXPECT_FALSE(starts());
  header().version = 1;
  for (const std::uint16_t lie : U16s{0, ring_size - 1, ring_size + 1, 65535}) {
    header().desc_num = lie;
    EXPECT_FALSE(starts()) << lie;
  }
  header().desc_num = ring_size;
  EXPECT_TRUE(starts());
}

TEST_F(PackedInflightTest, RefusesAPositionBehindTheRing) {
  (void)start();
  for (const std::uint16_t lie : U16s{ring_size, 32768, 65535}) {
    header().used_idx = header().old_used_idx = lie;
    EXPECT_FALSE(starts()) << lie;
    header().used_idx = 0;  // it may be the one to look at
    EXPECT_FALSE(starts()) << lie;
  }
}

TEST_F(PackedInflightTest, RefusesMarksThatAreNoChains) {
  add(3);
  {
    PackedRing ring = start();
    pop(ring, 3);
  }
  const Bytes good(region_->bytes().begin(), region_->bytes().end());
  const auto refuses = [&](const auto& lie) {
    std::ranges::copy(good, region_->bytes().begin());
    EXPECT_TRUE(starts());
    std::ranges::copy(good, region_->bytes().begin());
    lie();
    EXPECT_FALSE(starts());
  };
  refuses([&] { entry(0).num = 0; });
  refuses([&] { entry(0).num = ring_size; });
  refuses([&] { entry(0).num = 65535; });
  refuses([&] { entry(1).next = 1; });
  refuses([&] { entry(1).next = ring_size; });
  refuses([&] { entry(1).next = 65535; });
  refuses([&] { entry(4).next = 0; });
  refuses([&] { entry(2).inflight = 1; });
}

TEST_F(PackedInflightTest, EndsOnALoopInTheLastBatch) {
  const Ids ids = add(2);
  PackedRing first = start();
  pop(first, 2);
  first.push(ids[0], 0);
  (void)first.publish();
  header().free_head = 0;
  header().old_free_head = 9;
  entry(0).next = 0;
  header().old_used_idx = 0;
  PackedRing second = start();
  EXPECT_EQ(drain(second), Ids{ids[1]});
}

TEST_F(PackedInflightTest, BreaksOnAnOwedIdThatIsNone) {
  const Ids ids = add(2);
  (void)start();
  for (const std::uint16_t lie : U16s{ring_size, 65535}) {
    PackedRing first = start();
    if (!first.owes()) pop(first, 2);
    entry(0).id = lie;
    PackedRing second = start();
    EXPECT_EQ(second.pop(chain_), Pop::broken) << lie;
    EXPECT_FALSE(second.owes()) << "a broken ring can be stopped";
  }
  entry(0).id = ids[1];  // twice
  PackedRing ring = start();
  EXPECT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(PackedInflightTest, OnlyAOneIsAMark) {
  (void)start();
  for (std::uint16_t i = 0; i < ring_size; ++i) {
    entry(i).inflight = static_cast<std::uint8_t>(i + 2);
  }
  EXPECT_FALSE(start().owes());
}

TEST_F(PackedInflightTest, SurvivesRandomBytesInTheRegion) {
  std::mt19937 random(3);
  add(3);
  for (int round = 0; round < 3000; ++round) {
    const auto some = 1u << random() % 9;
    for (std::byte& byte : region_->bytes()) {
      byte = random() % some == 0 ? static_cast<std::byte>(random() % 3) : std::byte{0};
    }
    header().version = 1;
    header().desc_num = ring_size;
    auto ring = PackedRing::create(driver_.setup(), map_, section());
    if (!ring) continue;
    for (int i = 0; i < 40 && ring->pop(chain_) == Pop::ready; ++i) {
      ASSERT_LT(chain_.head, ring_size);
      ring->push(chain_.head, 0);
    }
    (void)ring->publish();
  }
}

TEST_F(PackedInflightTest, SectionsOfARegionDoNotShareCacheLines) {
  EXPECT_EQ(packed_inflight_section_bytes(1), 64u);
  EXPECT_EQ(packed_inflight_section_bytes(2), 128u);
  EXPECT_EQ(packed_inflight_section_bytes(32768) % 64, 0u);
}

}  // namespace
}  // namespace vhost::tests
