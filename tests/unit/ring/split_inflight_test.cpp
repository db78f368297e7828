#include <random>

#include "tests/unit/ring/inflight_fixture.hpp"

/* A back-end that dies at any step owes the driver exactly what it had not given back. */
namespace vhost::tests {
namespace {

TEST_F(InflightTest, OwesNothingAfterAnOrderlyEnd) {
  add(3);
  SplitRing first = start();
  for (int i = 0; i < 3; ++i) serve(first);
  SplitRing second = start();
  EXPECT_FALSE(second.owes());
  EXPECT_EQ(second.base(), 3u);
  EXPECT_EQ(drain(second), U16s{});
}

TEST_F(InflightTest, KnowsItsPlaceWhateverTheFrontEndTakesItFor) {
  const U16s heads = add(3);
  SplitRing first = start();
  serve(first);
  constexpr std::uint16_t available = 3;
  SplitRing second = make(driver_.setup(available), section());
  EXPECT_EQ(drain(second), (U16s{heads[1], heads[2]})) << "seen by nobody";
  SplitRing third = make(driver_.setup(available), section());
  EXPECT_EQ(drain(third), (U16s{heads[1], heads[2]})) << "owed";
}

TEST_F(InflightTest, AFreshSectionBeginsAtTheFrontEndsBase) {
  const U16s heads = add(3);
  SplitRing ring = make(driver_.setup(2), section());
  EXPECT_EQ(drain(ring), U16s{heads[2]});
}

TEST_F(InflightTest, OwesWhatWasPopped) {
  const U16s heads = add(3);
  SplitRing first = start();
  pop(first, 2);
  SplitRing second = start();
  EXPECT_TRUE(second.owes());
  EXPECT_TRUE(second.arm_kick()) << "there is work: do not sleep";
  EXPECT_EQ(drain(second), heads) << "what was owed, and then the one never popped";
  EXPECT_FALSE(second.owes());
}

TEST_F(InflightTest, OwesWhatWasPushedAndNotPublished) {
  const U16s heads = add(2);
  SplitRing first = start();
  pop(first, 2);
  first.push(heads[1], 0);
  SplitRing second = start();
  EXPECT_EQ(drain(second), heads);
}

TEST_F(InflightTest, OwesNothingThatTheUsedIndexShowed) {
  // Died between the used index and the unmarking: put the marks back as they were then.
  const U16s heads = add(5);
  SplitRing first = start();
  pop(first, 5);
  first.push(heads[0], 0);
  (void)first.publish();
  const auto before = header().used_idx;
  for (const int i : {3, 1, 4}) first.push(heads[static_cast<std::size_t>(i)], 0);
  (void)first.publish();
  for (const int i : {3, 1, 4}) entry(heads[static_cast<std::size_t>(i)]).inflight = 1;
  header().used_idx = before;

  SplitRing second = start();
  EXPECT_EQ(drain(second), U16s{heads[2]});
  EXPECT_EQ(header().used_idx, 4);
}

TEST_F(InflightTest, OwesNothingThatWasHalfUnmarked) {
  const U16s heads = add(4);
  SplitRing first = start();
  pop(first, 4);
  for (const int i : {2, 0, 1}) first.push(heads[static_cast<std::size_t>(i)], 0);
  (void)first.publish();
  entry(heads[0]).inflight = entry(heads[1]).inflight = 1;  // only the first was unmarked
  header().used_idx = 0;
  SplitRing second = start();
  EXPECT_EQ(drain(second), U16s{heads[3]});
}

TEST_F(InflightTest, AnswersEverythingOnceWhereverItDies) {
  // Each life goes a random number of steps; what it is killed with comes back in the next.
  std::mt19937 random(11);
  std::vector<int> answered(8, 0);
  std::vector<int> offered(8, 0);
  const auto collect = [&] {
    for (const auto head : take_all_used()) ++answered[head];
  };
  for (int life = 0; life < 2000; ++life) {
    SplitRing ring = start();
    U16s mine;
    for (auto steps = random() % 20; steps > 0; --steps) {
      switch (random() % 4) {
        case 0:
          if (driver_.free_descriptors() > 0) ++offered[driver_.add({{data_at, 4}})];
          break;
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
          if (!mine.empty()) {
            std::swap(mine[random() % mine.size()], mine.back());
            ring.push(mine.back(), 0);
            mine.pop_back();
          }
          break;
        default: (void)ring.publish(); collect();
      }
      for (std::size_t head = 0; head < 8; ++head) ASSERT_LE(answered[head], offered[head]);
    }
  }
  SplitRing last = start();
  while (last.pop(chain_) == Pop::ready) last.push(chain_.head, 0);
  (void)last.publish();
  collect();
  EXPECT_EQ(answered, offered);
  EXPECT_EQ(driver_.free_descriptors(), 8u);
}

TEST_F(InflightTest, GoesOnWithANewBatchAfterOneThatWasNeverShown) {
  const U16s heads = add(3);
  SplitRing first = start();
  pop(first, 3);
  first.push(heads[0], 0);  // dies: last_batch_head names it, the used index does not show it
  SplitRing second = start();
  EXPECT_EQ(drain(second), heads);
  second.push(heads[2], 0);
  (void)second.publish();
  entry(heads[2]).inflight = 1;
  header().used_idx = 0;
  SplitRing third = start();
  EXPECT_EQ(drain(third), (U16s{heads[0], heads[1]}));
}

TEST_F(InflightTest, ResubmitsInTheOrderOfTheFirstSubmission) {
  const U16s heads = add(4);
  SplitRing first = start();
  pop(first, 4);
  entry(heads[0]).counter = 40;
  entry(heads[1]).counter = 10;
  entry(heads[2]).counter = 30;
  entry(heads[3]).counter = 20;
  SplitRing second = start();
  EXPECT_EQ(drain(second), (U16s{heads[1], heads[3], heads[2], heads[0]}));
}

TEST_F(InflightTest, CountsOnFromItsPredecessor) {
  const U16s heads = add(2);
  SplitRing first = start();
  pop(first, 1);
  entry(heads[0]).counter = 1000;
  SplitRing second = start();
  EXPECT_EQ(drain(second), heads);
  EXPECT_GT(entry(heads[1]).counter, 1000u);
  SplitRing third = start();
  EXPECT_EQ(drain(third), heads) << "owed twice, still in the driver's order";
}

TEST_F(InflightTest, MarksAHeadBeforePopReturnsIt) {
  const U16s heads = add(1);
  SplitRing ring = start();
  EXPECT_EQ(entry(heads[0]).inflight, 0);
  pop(ring, 1);
  EXPECT_EQ(entry(heads[0]).inflight, 1);
  ring.push(heads[0], 0);
  EXPECT_EQ(entry(heads[0]).inflight, 1);
  (void)ring.publish();
  EXPECT_EQ(entry(heads[0]).inflight, 0);
  EXPECT_EQ(header().used_idx, 1);
}

TEST_F(InflightTest, KeepsTheMarkOfAHeadThatWasTakenAgain) {
  const U16s heads = add(2);
  SplitRing ring = start();
  pop(ring, 2);
  ring.push(heads[0], 0);
  (void)ring.publish();
  (void)driver_.take_used();
  driver_.offer(heads[0]);
  pop(ring, 1);
  ring.push(heads[1], 0);
  (void)ring.publish();
  EXPECT_EQ(entry(heads[0]).inflight, 1);
  EXPECT_EQ(entry(heads[1]).inflight, 0);
}

TEST_F(InflightTest, DoesNotSleepOverWhatItOwes) {
  const U16s heads = add(1);
  SplitRing first = start();
  pop(first, 1);
  SplitRing second = start();
  EXPECT_TRUE(second.arm_kick());
  EXPECT_EQ(drain(second), heads);
  EXPECT_FALSE(second.arm_kick());
}

TEST_F(InflightTest, MarksNothingThatHadNoRoom) {
  driver_.add({{data_at, 1}, {data_at, 1}});
  SplitRing ring = start();
  Chain small{std::span(room_).first(1)};
  EXPECT_EQ(ring.pop(small), Pop::no_room);
  for (std::uint16_t head = 0; head < ring_size; ++head) EXPECT_EQ(entry(head).inflight, 0);
}

TEST_F(InflightTest, KeepsOwingAChainThatHadNoRoom) {
  const auto id = driver_.add({{data_at, 1}, {data_at, 1}});
  SplitRing first = start();
  pop(first, 1);
  SplitRing second = start();
  Chain small{std::span(room_).first(1)};
  EXPECT_EQ(second.pop(small), Pop::no_room);
  EXPECT_TRUE(second.owes());
  EXPECT_EQ(drain(second), U16s{id});
}

TEST_F(InflightTest, AFreshSectionBeginsAtTheRingsUsedIndex) {
  driver_.start_at(500);
  const U16s heads = add(2);
  SplitRing first = start();
  EXPECT_EQ(header().version, inflight_version);
  EXPECT_EQ(header().desc_num, ring_size);
  EXPECT_EQ(header().used_idx, 500);
  pop(first, 2);
  SplitRing second = start();  // killed before the first completion
  EXPECT_EQ(drain(second), heads);
}

TEST_F(InflightTest, WorksAcrossTheWrapOfTheUsedIndex) {
  driver_.start_at(65534);
  const U16s heads = add(4);
  SplitRing first = start();
  pop(first, 4);
  for (int i = 0; i < 3; ++i) first.push(heads[static_cast<std::size_t>(i)], 0);
  (void)first.publish();
  for (int i = 0; i < 3; ++i) entry(heads[static_cast<std::size_t>(i)]).inflight = 1;
  header().used_idx = 65534;
  SplitRing second = start();
  EXPECT_EQ(drain(second), U16s{heads[3]});
  EXPECT_EQ(second.base(), 2u);
}

TEST_F(InflightTest, GoesOnBehindWhatIsOwedWhateverBaseTheFrontEndGives) {
  const U16s heads = add(3);
  SplitRing first = start();
  pop(first, 2);
  SplitRing second = make(driver_.setup(2), section());  // one that counted for itself
  EXPECT_EQ(drain(second), heads);
}

// ---------------------------------------------------------------- lies in the region

TEST_F(InflightTest, RefusesAnotherVersion) {
  (void)start();
  header().version = 2;
  EXPECT_FALSE(SplitRing::create(driver_.setup(), map_, section()));
}

TEST_F(InflightTest, RefusesAnotherSize) {
  (void)start();
  for (const std::uint16_t lie : U16s{0, 7, 9, 65535}) {
    header().desc_num = lie;
    EXPECT_FALSE(SplitRing::create(driver_.setup(), map_, section())) << lie;
  }
}

TEST_F(InflightTest, EndsOnALoopInTheLastBatch) {
  const U16s heads = add(2);
  SplitRing first = start();
  pop(first, 2);
  entry(heads[0]).next = heads[0];
  header().last_batch_head = heads[0];
  header().used_idx = 1000;
  SplitRing second = start();
  EXPECT_EQ(pop(second, 1), U16s{heads[1]});
}

TEST_F(InflightTest, EndsOnABatchThatLeavesTheSection) {
  const U16s heads = add(1);
  SplitRing first = start();
  pop(first, 1);
  for (const std::uint16_t lie : U16s{8, 9, 32768, 65535}) {
    header().last_batch_head = lie;
    header().used_idx = 60000;
    SplitRing second = start();
    EXPECT_EQ(drain(second), heads) << lie;
  }
}

TEST_F(InflightTest, BreaksOnAnOwedHeadThatIsNoChain) {
  (void)start();
  entry(3).inflight = 1;
  driver_.descriptor(3, {data_at, 4, desc_next, 3});
  SplitRing ring = start();
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
  EXPECT_FALSE(ring.owes()) << "a broken ring can be stopped";
}

TEST_F(InflightTest, BreaksOnAnOwedHeadBehindItsTable) {
  // A section may be for longer rings than this one, and the front-end can write marks into it.
  constexpr std::uint16_t longer = 2 * ring_size;
  auto region = make_inflight_region(1, longer);
  ASSERT_TRUE(region);
  region_ = std::make_shared<const Mapping>(
      std::move(*Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes)));
  const auto start_in = [&] {
    return make(driver_.setup(), InflightSection{region_, region_->bytes(), longer});
  };
  for (const std::uint16_t head : U16s{ring_size - 1, ring_size, longer - 1}) {
    (void)start_in();
    entry(head).inflight = 1;
    driver_.descriptor(head, {data_at, 16, desc_write, 0});  // good, wherever it lies
    SplitRing ring = start_in();
    EXPECT_EQ(ring.pop(chain_), head < ring_size ? Pop::ready : Pop::broken) << head;
    entry(head).inflight = 0;
  }
}

TEST_F(InflightTest, BreaksOnAnOwedHeadThatIsOfferedToo) {
  const U16s heads = add(1);
  (void)start();
  entry(heads[0]).inflight = 1;
  driver_.offer(heads[0]);
  SplitRing ring = start();
  ASSERT_EQ(ring.pop(chain_), Pop::ready);
  EXPECT_EQ(ring.pop(chain_), Pop::broken);
}

TEST_F(InflightTest, OnlyAOneIsAMark) {
  (void)start();
  for (std::uint16_t head = 0; head < ring_size; ++head) {
    entry(head).inflight = static_cast<std::uint8_t>(head + 2);
  }
  EXPECT_FALSE(start().owes());
}

TEST_F(InflightTest, SurvivesRandomBytesInTheRegion) {
  std::mt19937 random(3);
  add(3);
  for (int round = 0; round < 1000; ++round) {
    for (std::byte& byte : region_->bytes()) byte = static_cast<std::byte>(random());
    header().version = round % 2 == 0 ? 1 : header().version;
    header().desc_num = round % 4 < 3 ? ring_size : header().desc_num;
    auto ring = SplitRing::create(driver_.setup(), map_, section());
    if (!ring) continue;
    for (int i = 0; i < 40 && ring->pop(chain_) == Pop::ready; ++i) {
      ASSERT_LT(chain_.head, ring_size);
      ring->push(chain_.head, 0);
    }
    (void)ring->publish();
  }
}

TEST_F(InflightTest, SectionsOfARegionDoNotShareCacheLines) {
  EXPECT_EQ(inflight_section_bytes(1), 64u);
  EXPECT_EQ(inflight_section_bytes(3), 64u);
  EXPECT_EQ(inflight_section_bytes(4), 128u);
  EXPECT_EQ(inflight_section_bytes(32768) % 64, 0u);
}

}  // namespace
}  // namespace vhost::tests
