#include <future>

#include "tests/unit/ring/translated_ring.hpp"

/* What a ring promises of addresses that are not translated, or not for this use. */
namespace vhost::tests {
namespace {

constexpr std::uint64_t page = fakes::ScatteredMemory::page;

/// The ring itself; the test stands for the IOMMU.
template <class Driver>
class RingIommuTest : public testing::Test {
 protected:
  using Ring = typename Driver::DeviceRing;

  RingIommuTest() {
    iotlb_->move_to(*map_);
    iotlb_->join(0, ledger_);
  }
  RingSetup setup() {
    RingSetup setup = driver_.setup();
    setup.iova = true;
    setup.ledger = ledger_;
    return setup;
  }
  /// With its areas translated.
  Ring make() {
    know(first_area(), Access::both);
    know(first_area() + page, Access::both);
    auto ring = Ring::create(setup(), map_);
    EXPECT_TRUE(ring.has_value()) << ring.error().what;
    return std::move(*ring);
  }
  static std::uint64_t first_area() { return GuestMemory::low; }
  void know(std::uint64_t address, Access access) {
    const auto place = fakes::ScatteredMemory::page_at(*map_, address);
    ASSERT_TRUE(iotlb_->add({GuestAddress{address / page * page}, page, *place, access}));
  }
  /// What the ring has asked for since the last time.
  std::vector<Miss> wanted() {
    std::vector<Miss> all;
    for (auto& of : iotlb_->take_wanted()) all = std::move(of.misses);
    return all;
  }
  static Miss read_of(std::uint64_t address) { return {GuestAddress{address}, Access::read}; }
  static Miss write_of(std::uint64_t address) { return {GuestAddress{address}, Access::write}; }

  fakes::ScatteredMemory memory_;
  std::shared_ptr<const MemoryMap> map_ = memory_.map();
  std::shared_ptr<Iotlb> iotlb_ = map_->iotlb();
  std::shared_ptr<Ledger> ledger_ = std::make_shared<Ledger>();
  Driver driver_{memory_, {.at = GuestMemory::low + page - 64}};
  std::vector<iovec> room_ = std::vector<iovec>(2048);
  Chain chain_{room_};
};
using Layouts = testing::Types<FakeSplitDriver, FakePackedDriver>;
TYPED_TEST_SUITE(RingIommuTest, Layouts);

using Misses = std::vector<Miss>;

TYPED_TEST(RingIommuTest, DoesNotStartBeforeItsAreasAreKnown) {
  EXPECT_FALSE(TypeParam::DeviceRing::create(this->setup(), this->map_));
  EXPECT_TRUE(this->ledger_->waiting);
  const auto asked = [misses = this->wanted()](std::uint64_t address) {
    return std::ranges::find(misses, GuestAddress{address}, &Miss::address) != misses.end();
  };
  EXPECT_TRUE(asked(this->first_area() + page - 64));
  EXPECT_TRUE(asked(this->first_area() + page)) << "both pages of the area at once";
  this->know(this->first_area(), Access::both);
  this->ledger_->waiting = false;
  EXPECT_FALSE(TypeParam::DeviceRing::create(this->setup(), this->map_)) << "half of them";
  EXPECT_TRUE(this->ledger_->waiting);
  this->make();
}

TYPED_TEST(RingIommuTest, DoesNotStartWhereItMayNotWrite) {
  this->know(this->first_area(), Access::read);
  this->know(this->first_area() + page, Access::read);
  EXPECT_FALSE(TypeParam::DeviceRing::create(this->setup(), this->map_));
  for (const Miss& miss : this->wanted()) {
    EXPECT_TRUE(permits(miss.access, Access::write));
    this->iotlb_->refuse(0, miss);
  }
  this->ledger_->waiting = false;
  EXPECT_FALSE(TypeParam::DeviceRing::create(this->setup(), this->map_));
  EXPECT_FALSE(this->ledger_->waiting) << "and nobody will let it";
}

/// As pieces of huge pages do, these do not meet where memory can be mapped once more.
TYPED_TEST(RingIommuTest, SaysWhyScatteredAreasCannotBeUsed) {
  const auto here = this->first_area() + page - 32;  // the area begins before it, and ends behind
  const auto first = *fakes::ScatteredMemory::page_at(*this->map_, this->first_area());
  ASSERT_TRUE(
      this->iotlb_->add({GuestAddress{this->first_area()}, page - 32, first, Access::both}));
  ASSERT_TRUE(this->iotlb_->add({GuestAddress{here}, page, first, Access::both}));
  const auto ring = TypeParam::DeviceRing::create(this->setup(), this->map_);
  ASSERT_FALSE(ring.has_value());
  EXPECT_FALSE(this->ledger_->waiting);
  EXPECT_NE(ring.error().what.find("huge pages"), std::string::npos) << ring.error().what;
}

TYPED_TEST(RingIommuTest, AreasThatItLostAreNotInUse) {
  auto ring = this->make();
  const GuestAddress areas{this->first_area()};
  EXPECT_EQ(this->iotlb_->remove(areas, 2 * page).size(), 1u);
  EXPECT_FALSE(ring.move_to(this->map_));
  EXPECT_TRUE(this->iotlb_->remove(areas, 2 * page).empty());
}

TYPED_TEST(RingIommuTest, AsksForAllThatAChainMissesAndGivesItWhenTheLastIsThere) {
  auto ring = this->make();
  this->driver_.add({{data_at + page - 8, 16}, {data_at + 4 * page, 2 * page, true}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted(),
            (Misses{this->read_of(data_at + page - 8), this->read_of(data_at + page),
                    this->write_of(data_at + 4 * page), this->write_of(data_at + 5 * page)}));
  for (const std::uint64_t here : {0U, 1U, 4U}) {
    this->know(data_at + here * page, Access::both);
    EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  }
  this->know(data_at + 5 * page, Access::write);
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  const auto read = this->chain_.readable();
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].iov_base,
            this->map_->at(*this->memory_.page_at(*this->map_, data_at), page).last(8).data());
  EXPECT_EQ(read[0].iov_len, 8u) << "to the end of what is translated in one piece";
  EXPECT_EQ(read[1].iov_len, 8u);
  EXPECT_EQ(this->chain_.writable().size(), 2u);
}

/// No neighbours among its pages are neighbours for us; buffers may lie on top of each other.
TYPED_TEST(RingIommuTest, ServesALongChainOfScatteredPagesAndNoLonger) {
  auto ring = this->make();
  const std::uint64_t table = data_at + 32 * page;
  for (std::uint64_t i = 0; i < 16; ++i) this->know(data_at + i * page, Access::both);
  for (std::uint64_t i = 0; i < 3; ++i) this->know(table + i * page, Access::both);
  constexpr std::size_t most = 1024 + 509 + 8192;
  std::vector<iovec> room(most);
  std::vector<Buffer> buffers(most / 16, Buffer{data_at, 16 * page, true});
  buffers.push_back({data_at, most % 16 * page, true});

  this->driver_.add_indirect(buffers, table);
  ASSERT_EQ(ring.longest_chain(), most);
  Chain chain(room);
  ASSERT_EQ(ring.pop(chain), Pop::ready);
  EXPECT_EQ(chain.writable().size(), most);
  buffers.back().length += page;
  this->driver_.add_indirect(buffers, table);
  EXPECT_EQ(ring.pop(chain), Pop::broken);
}

TYPED_TEST(RingIommuTest, AsksForWhatChainsBehindTheNextOneMiss) {
  auto ring = this->make();
  for (const std::uint64_t i : {0U, 2U, 4U}) this->driver_.add({{data_at + i * page, 1}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted(), (Misses{this->read_of(data_at), this->read_of(data_at + 2 * page),
                                    this->read_of(data_at + 4 * page)}));
}

TYPED_TEST(RingIommuTest, AsksAheadOnceATranslationWasMissing) {
  auto ring = this->make();
  this->driver_.add({{data_at, 1}});
  ring.look_ahead(4);
  EXPECT_TRUE(this->wanted().empty()) << "most likely it is known";
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted().size(), 1u);
  this->know(data_at, Access::both);
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
  this->driver_.add({{data_at + 2 * page, 1, true}});
  ring.look_ahead(4);
  EXPECT_EQ(this->wanted(), Misses{this->write_of(data_at + 2 * page)});
}

TYPED_TEST(RingIommuTest, BreaksOnWhatNobodyTranslates) {
  auto ring = this->make();
  this->know(data_at, Access::both);
  this->driver_.add({{data_at, 2 * page, true}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  this->iotlb_->refuse(0, this->write_of(data_at + page));
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
  EXPECT_EQ(ring.in_flight(), 0u);
}

TYPED_TEST(RingIommuTest, DoesNotWriteWhereItMayOnlyRead) {
  auto ring = this->make();
  this->know(data_at, Access::read);
  this->know(data_at + page, Access::both);
  this->driver_.add({{data_at, 2 * page, true}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted(), Misses{this->write_of(data_at)});
  this->know(data_at, Access::read);
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty) << "that is no answer";
  this->iotlb_->refuse(0, this->write_of(data_at));
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
}

TYPED_TEST(RingIommuTest, DoesNotWriteBehindWhereItMay) {
  auto ring = this->make();
  this->know(data_at, Access::both);
  this->know(data_at + page, Access::read);
  this->driver_.add({{data_at, page + 1, true}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  this->iotlb_->refuse(0, this->write_of(data_at + page));
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
}

TYPED_TEST(RingIommuTest, DoesNotReadWhereItMayOnlyWrite) {
  auto ring = this->make();
  this->know(data_at, Access::write);
  this->driver_.add({{data_at, 16}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted(), Misses{this->read_of(data_at)});
  this->iotlb_->refuse(0, this->read_of(data_at));
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
}

TYPED_TEST(RingIommuTest, DoesNotReadATableWhereItMayOnlyWrite) {
  auto ring = this->make();
  this->know(data_at, Access::both);
  this->know(data_at + page, Access::write);
  const std::array<Buffer, 2> buffers{{{data_at, 1}, {data_at + 1, 1}}};
  this->driver_.add_indirect(buffers, data_at + page);
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted(), Misses{this->read_of(data_at + page)});
  this->iotlb_->refuse(0, this->read_of(data_at + page));
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken);
}

TYPED_TEST(RingIommuTest, SinglesEndWhereOneIsNotTranslatedForItsUse) {
  auto ring = this->make();
  this->know(data_at, Access::read);
  this->driver_.add({{data_at, 16}});
  this->driver_.add({{data_at, 16, true}});
  std::array<Single, 4> singles{};
  EXPECT_EQ(ring.pop_singles(singles), 1u);
  EXPECT_FALSE(singles[0].writable);
  EXPECT_EQ(this->wanted(), Misses{this->write_of(data_at)});
  EXPECT_EQ(ring.pop_singles(singles), 0u);
  this->know(data_at, Access::both);
  EXPECT_EQ(ring.pop_singles(singles), 1u);
  EXPECT_TRUE(singles[0].writable);
}

TYPED_TEST(RingIommuTest, WhatItRemembersIsGoneWithTheTranslation) {
  auto ring = this->make();
  this->know(data_at, Access::both);
  for (int i = 0; i < 2; ++i) this->driver_.add({{data_at, 16}});
  ASSERT_EQ(ring.pop(this->chain_), Pop::ready);
  EXPECT_EQ(this->iotlb_->remove(GuestAddress{data_at}, page).size(), 1u);
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_EQ(this->wanted(), Misses{this->read_of(data_at)});
}

TYPED_TEST(RingIommuTest, IsNotKickedForWhatWaitsUntilItCanBeRead) {
  auto ring = this->make();
  this->driver_.add({{data_at, 16}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_TRUE(this->ledger_->waiting) << "who answers, kicks";
  EXPECT_FALSE(ring.arm_kick()) << "there is nothing to do";
  this->know(data_at, Access::both);
  EXPECT_TRUE(ring.arm_kick());
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
}

TYPED_TEST(RingIommuTest, ACorruptChainBreaksItAfterOneThatHadToWait) {
  auto ring = this->make();
  this->driver_.add({{data_at, 16}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  this->know(data_at, Access::both);
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
  this->driver_.add_indirect({}, data_at);
  EXPECT_EQ(ring.pop(this->chain_), Pop::broken) << "a table of no entries";
}

TYPED_TEST(RingIommuTest, TranslationsStayWhileSeveralChainsArePopped) {
  auto ring = this->make();
  this->know(data_at, Access::both);
  for (int i = 0; i < 2; ++i) this->driver_.add({{data_at, 16}});
  const auto may_change = [this] {
    return std::async([this] {
             return std::unique_lock(this->ledger_->lock, std::try_to_lock).owns_lock();
           })
        .get();
  };
  {
    auto reading = ring.reading();
    EXPECT_TRUE(may_change()) << "nothing was read yet";
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(ring.pop(this->chain_, reading), Pop::ready);
      EXPECT_FALSE(may_change());
    }
  }
  EXPECT_TRUE(may_change());
}

/// As a device does that polls.
TYPED_TEST(RingIommuTest, TranslationsMayChangeWhereThereIsNothingToPop) {
  auto ring = this->make();
  std::future<Pop> answer;
  {
    const std::unique_lock held_by_another(this->ledger_->lock);
    answer = std::async([&] { return ring.pop(this->chain_); });
    EXPECT_EQ(answer.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  }
  EXPECT_EQ(answer.get(), Pop::empty);
}

TYPED_TEST(RingIommuTest, AChainThatWasReadInPartIsInNobodysWay) {
  auto ring = this->make();
  this->know(data_at, Access::both);
  this->driver_.add({{data_at, 16}, {data_at + page, 16}});
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty);
  EXPECT_TRUE(this->iotlb_->remove(GuestAddress{data_at}, page).empty());
  this->know(data_at + page, Access::both);
  EXPECT_EQ(ring.pop(this->chain_), Pop::empty) << "the first page has to come again";
  this->know(data_at, Access::both);
  EXPECT_EQ(ring.pop(this->chain_), Pop::ready);
}

}  // namespace
}  // namespace vhost::tests
