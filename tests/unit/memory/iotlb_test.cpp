#include "libvhost/memory/iotlb.hpp"

#include <poll.h>

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "tests/fakes/guest_memory.hpp"

/* What is known of the IOMMU's translations, who uses them, and what is asked for. */
namespace vhost::tests {
namespace {

using fakes::GuestMemory;

constexpr std::uint64_t page = 4096;

class IotlbTest : public testing::Test {
 protected:
  IotlbTest() {
    iotlb_->move_to(*map_);
    for (std::uint16_t ring = 0; ring < ledgers_.size(); ++ring) {
      ledgers_[ring] = std::make_shared<Ledger>();
      ledgers_[ring]->open(8);
      iotlb_->join(ring, ledgers_[ring]);
    }
  }

  [[nodiscard]] bool add(std::uint64_t iova, std::uint64_t bytes, std::uint64_t guest,
                         Access access = Access::both) {
    return iotlb_
        ->add({GuestAddress{iova}, bytes, FrontendAddress{memory_.frontend(guest)}, access})
        .has_value();
  }
  /// The byte that `iova` is; null: it is unknown, or not for this access.
  [[nodiscard]] const std::byte* at(std::uint64_t iova, Access access = Access::read) const {
    const auto place = iotlb_->find(GuestAddress{iova});
    if (place.bytes == 0 || !permits(place.access, access)) return nullptr;
    return place.begin + (iova - place.first);
  }
  [[nodiscard]] const std::byte* device_view(std::uint64_t guest) const {
    MemoryMap::Hint hint;
    return map_->prefix(GuestAddress{guest}, 1, hint).data();
  }
  [[nodiscard]] std::vector<std::uint16_t> remove(std::uint64_t iova, std::uint64_t bytes) {
    return iotlb_->remove(GuestAddress{iova}, bytes);
  }
  [[nodiscard]] bool is_wanted() const {
    pollfd look{iotlb_->wanted_fd(), POLLIN, 0};
    return ::poll(&look, 1, 0) == 1;
  }

  GuestMemory memory_;
  std::shared_ptr<const MemoryMap> map_ = memory_.map();
  std::shared_ptr<Iotlb> iotlb_ = *Iotlb::create(2);
  std::array<std::shared_ptr<Ledger>, 2> ledgers_;
};

TEST_F(IotlbTest, TranslatesFromTheFirstByteToTheLast) {
  ASSERT_TRUE(add(0x5000, page, GuestMemory::low + 100));
  EXPECT_EQ(at(0x4fff), nullptr);
  EXPECT_EQ(at(0x5000), device_view(GuestMemory::low + 100));
  EXPECT_EQ(at(0x5fff), device_view(GuestMemory::low + 100 + page - 1));
  EXPECT_EQ(at(0x6000), nullptr);
}

TEST_F(IotlbTest, PermitsWhatTheEntryDoes) {
  ASSERT_TRUE(add(0, page, GuestMemory::low, Access::read));
  EXPECT_NE(at(0, Access::read), nullptr);
  EXPECT_EQ(at(0, Access::write), nullptr);
  EXPECT_TRUE(iotlb_->has({GuestAddress{5}, Access::read}));
  EXPECT_FALSE(iotlb_->has({GuestAddress{5}, Access::both}));
  ASSERT_TRUE(add(0, page, GuestMemory::low, Access::both));
  EXPECT_NE(at(0, Access::both), nullptr);
  EXPECT_FALSE(add(0, page, GuestMemory::low, Access::none));
}

TEST_F(IotlbTest, RefusesWhatIsNotInTheMemoryOrWraps) {
  EXPECT_FALSE(add(0, 0, GuestMemory::low));
  EXPECT_FALSE(add(UINT64_MAX, 2, GuestMemory::low));
  EXPECT_TRUE(add(UINT64_MAX, 1, GuestMemory::low));
  EXPECT_FALSE(add(0, GuestMemory::low_bytes + 1, GuestMemory::low));
  EXPECT_TRUE(add(0, GuestMemory::low_bytes, GuestMemory::low));
  EXPECT_FALSE(add(0, UINT64_MAX, GuestMemory::low));
  const auto wild = iotlb_->add({GuestAddress{0}, 1, FrontendAddress{12345}, Access::read});
  EXPECT_FALSE(wild);
  EXPECT_NE(at(0), nullptr) << "what is refused changes nothing";
}

TEST_F(IotlbTest, TakesAnEntryThatLiesInTwoRegions) {
  fakes::GuestMemory memory;
  memory.add({std::uint64_t{1} << 40, page, GuestMemory::frontend_low + GuestMemory::low_bytes, 0});
  iotlb_->move_to(*memory.map({0, 3}));
  ASSERT_TRUE(iotlb_->add(
      {GuestAddress{0}, 2 * page,
       FrontendAddress{GuestMemory::frontend_low + GuestMemory::low_bytes - page}, Access::both}));
  EXPECT_NE(at(page - 1), nullptr);
  EXPECT_NE(at(2 * page - 1), nullptr);
  EXPECT_EQ(iotlb_->entries(), 2u);
}

TEST_F(IotlbTest, AnUpdateReplacesWhatItCovers) {
  ASSERT_TRUE(add(0, 4 * page, GuestMemory::low));
  ASSERT_TRUE(add(page, page, GuestMemory::far));
  EXPECT_EQ(at(page - 1), device_view(GuestMemory::low + page - 1));
  EXPECT_EQ(at(page), device_view(GuestMemory::far));
  EXPECT_EQ(at(2 * page - 1), device_view(GuestMemory::far + page - 1));
  EXPECT_EQ(at(2 * page), device_view(GuestMemory::low + 2 * page));
}

TEST_F(IotlbTest, AnInvalidationCutsEntries) {
  ASSERT_TRUE(add(0, 4 * page, GuestMemory::low));
  EXPECT_TRUE(remove(page + 1, page).empty());
  EXPECT_EQ(at(page), device_view(GuestMemory::low + page));
  EXPECT_EQ(at(page + 1), nullptr);
  EXPECT_EQ(at(2 * page), nullptr);
  EXPECT_EQ(at(2 * page + 1), device_view(GuestMemory::low + 2 * page + 1));
}

TEST_F(IotlbTest, AnInvalidationOfEverythingReachesTheEnd) {
  const auto fill = [this] {
    ASSERT_TRUE(add(0, page, GuestMemory::low));
    ASSERT_TRUE(add(UINT64_MAX - page + 1, page, GuestMemory::low));
  };
  for (const std::uint64_t bytes : {std::uint64_t{0}, UINT64_MAX}) {
    fill();
    EXPECT_TRUE(remove(0, bytes).empty());
    EXPECT_EQ(at(0), nullptr);
    EXPECT_EQ(at(UINT64_MAX - 1), nullptr);
    EXPECT_EQ(at(UINT64_MAX) == nullptr, bytes == 0) << "one byte less than all";
  }
  fill();
  EXPECT_TRUE(remove(1, UINT64_MAX).empty()) << "as if it had said up to the end";
  EXPECT_NE(at(0), nullptr);
  EXPECT_EQ(at(UINT64_MAX), nullptr);
}

TEST_F(IotlbTest, NeighboursInBothSpacesAreOneEntry) {
  for (const std::uint64_t i : {0u, 2u, 1u, 3u}) {
    ASSERT_TRUE(add(i * page, page, GuestMemory::low + i * page));
  }
  EXPECT_EQ(iotlb_->entries(), 1u);
  ASSERT_TRUE(add(4 * page, page, GuestMemory::low + 5 * page)) << "a neighbour in one space";
  ASSERT_TRUE(add(5 * page, page, GuestMemory::low + 6 * page, Access::read));
  EXPECT_EQ(iotlb_->entries(), 3u);
  EXPECT_EQ(at(4 * page), device_view(GuestMemory::low + 5 * page));
}

TEST_F(IotlbTest, ForgetsAllWhenThereIsNoMoreRoom) {
  const auto fill = [this] {
    for (std::uint64_t i = 0; i < Iotlb::most_entries; ++i) {
      ASSERT_TRUE(add(2 * i * page, page, GuestMemory::low));
    }
    EXPECT_EQ(iotlb_->entries(), Iotlb::most_entries);
  };
  fill();
  EXPECT_EQ(iotlb_->overflows(), 0u);
  const std::uint64_t version = iotlb_->version();
  ASSERT_TRUE(add(UINT64_MAX, 1, GuestMemory::low));
  EXPECT_EQ(iotlb_->entries(), 1u);
  EXPECT_EQ(iotlb_->overflows(), 1u);
  EXPECT_NE(iotlb_->version(), version) << "who remembers a look-up must look again";
  EXPECT_TRUE(remove(UINT64_MAX, 1).empty());
  fill();
  ASSERT_TRUE(add(1, 1, GuestMemory::low)) << "it replaces a part of one, and both ends stay";
  EXPECT_EQ(iotlb_->entries(), 1u);
  EXPECT_EQ(iotlb_->overflows(), 2u);
}

TEST_F(IotlbTest, WhatIsRememberedOfItIsOutdatedByChangesAlone) {
  ASSERT_TRUE(add(0, page, GuestMemory::low));
  const std::uint64_t version = iotlb_->version();
  ASSERT_TRUE(add(8 * page, page, GuestMemory::low));
  EXPECT_TRUE(remove(4 * page, page).empty());
  EXPECT_EQ(iotlb_->version(), version);
  EXPECT_TRUE(remove(page - 1, 1).empty());
  EXPECT_NE(iotlb_->version(), version);
}

TEST_F(IotlbTest, KnowsWhichRingsUseWhatGoes) {
  ASSERT_TRUE(add(0, 16 * page, GuestMemory::low));
  const auto begin = const_cast<std::byte*>(at(0));
  ledgers_[0]->note({GuestAddress{100}, begin + 100, 50, false});
  ledgers_[0]->note({GuestAddress{5 * page}, begin, page, true});
  ledgers_[0]->keep(3);
  ledgers_[1]->pin({GuestAddress{9 * page}, begin, page, true});
  using Rings = std::vector<std::uint16_t>;
  EXPECT_EQ(remove(0, 100), Rings{});
  EXPECT_EQ(remove(99, 2), Rings{0});
  EXPECT_EQ(remove(149, 1), Rings{0});
  EXPECT_EQ(remove(150, 5 * page - 150), Rings{});
  EXPECT_EQ(remove(5 * page, 1), Rings{0});
  EXPECT_EQ(remove(6 * page - 1, 1), Rings{0});
  EXPECT_EQ(remove(9 * page, 1), Rings{1});
  EXPECT_EQ(remove(10 * page, page), Rings{});
  EXPECT_EQ(remove(0, 0), (Rings{0, 1}));
  ledgers_[0]->end(3);
  EXPECT_EQ(remove(0, 9 * page), Rings{});
  iotlb_->join(1, nullptr);
  EXPECT_EQ(remove(0, 0), Rings{});
}

TEST_F(IotlbTest, AChainThatEndedUsesNothing) {
  Ledger::Singles(*ledgers_[0]).keep(1, {GuestAddress{0}, nullptr, 10, true});
  EXPECT_TRUE(ledgers_[0]->uses(0, 0));
  ledgers_[0]->end(1);
  EXPECT_FALSE(ledgers_[0]->uses(0, UINT64_MAX));
}

TEST_F(IotlbTest, MovesWithTheMemory) {
  ASSERT_TRUE(add(0, page, GuestMemory::low));
  ASSERT_TRUE(add(page, page, GuestMemory::far));
  const auto without = memory_.map({0, 1}, *map_);
  iotlb_->move_to(*without);
  EXPECT_NE(at(0), nullptr);
  EXPECT_EQ(at(page), nullptr);
}

TEST_F(IotlbTest, DoesNotKeepAMapAliveThatItTranslates) {
  auto map = std::make_shared<const MemoryMap>(map_->translated_by(iotlb_));
  iotlb_->move_to(*map);
  const std::weak_ptr<Iotlb> watched = iotlb_;
  map.reset();
  iotlb_.reset();
  EXPECT_TRUE(watched.expired());
}

TEST_F(IotlbTest, TellsOnceWhatIsWanted) {
  EXPECT_FALSE(is_wanted());
  const Miss miss{GuestAddress{0x1000}, Access::write};
  EXPECT_TRUE(iotlb_->want(*ledgers_[1], miss));
  EXPECT_TRUE(iotlb_->want(*ledgers_[1], miss));
  EXPECT_TRUE(is_wanted());
  const auto wanted = iotlb_->take_wanted();
  ASSERT_EQ(wanted.size(), 1u);
  EXPECT_EQ(wanted[0].ring, 1);
  EXPECT_EQ(wanted[0].misses, std::vector<Miss>{miss});
  EXPECT_FALSE(is_wanted());
  EXPECT_TRUE(iotlb_->want(*ledgers_[1], miss));
  EXPECT_TRUE(is_wanted()) << "it may be missing once more";
}

TEST_F(IotlbTest, ARingWantsNoMoreAtATimeThanItsShare) {
  for (std::uint64_t i = 0; i < 2 * Ledger::most_wanted; ++i) {
    EXPECT_TRUE(iotlb_->want(*ledgers_[0], {GuestAddress{i * page}, Access::read}));
  }
  EXPECT_TRUE(ledgers_[0]->wants_much());
  EXPECT_EQ(iotlb_->take_wanted().at(0).misses.size(), Ledger::most_wanted);
}

TEST_F(IotlbTest, ARingThatNeverReadsAChainIsGivenUp) {
  const auto wants_in_vain = [&](std::uint64_t most) {
    for (std::uint64_t wanted = 0; wanted < most; ++wanted) {
      if (!iotlb_->want(*ledgers_[0], {GuestAddress{wanted * page}, Access::read})) return wanted;
      (void)iotlb_->take_wanted();
    }
    return most;
  };
  EXPECT_EQ(wants_in_vain(UINT64_MAX), Ledger::most_in_vain);
  EXPECT_GT(Ledger::most_in_vain, Iotlb::most_entries) << "that a chain needs so many is no reason";
  ledgers_[0]->keep(0);
  EXPECT_EQ(wants_in_vain(UINT64_MAX), Ledger::most_in_vain);
  Ledger::Singles(*ledgers_[0]).keep(0, {GuestAddress{0}, nullptr, 10, true});
  EXPECT_EQ(wants_in_vain(1), 1u);
}

TEST_F(IotlbTest, WhatIsRefusedToOneRingIsSoUntilItIsTranslated) {
  const Miss miss{GuestAddress{0x1008}, Access::write};
  const std::uint64_t generation = iotlb_->generation();
  iotlb_->refuse(0, miss);
  EXPECT_NE(iotlb_->generation(), generation) << "whoever waits looks again";
  EXPECT_FALSE(iotlb_->want(*ledgers_[0], miss));
  EXPECT_TRUE(iotlb_->want(*ledgers_[0], {miss.address, Access::read}));
  EXPECT_TRUE(iotlb_->want(*ledgers_[1], miss));
  ASSERT_TRUE(add(0x2000, page, GuestMemory::low));
  EXPECT_FALSE(iotlb_->want(*ledgers_[0], miss));
  ASSERT_TRUE(add(0x1000, page, GuestMemory::low));
  EXPECT_TRUE(remove(0x1000, page).empty());
  EXPECT_TRUE(iotlb_->want(*ledgers_[0], miss));
  for (const std::uint64_t edge : {0x1000u, 0x1fffu}) {
    iotlb_->refuse(0, {GuestAddress{edge}, Access::read});
    ASSERT_TRUE(add(0x1000, page, GuestMemory::low));
    EXPECT_TRUE(iotlb_->want(*ledgers_[0], {GuestAddress{edge}, Access::read})) << edge;
  }
}

/// Against a table of single bytes, each with its own place.
TEST_F(IotlbTest, AgreesWithATableOfBytesOverRandomChanges) {
  constexpr std::uint64_t space = 512;
  struct Byte {
    const std::byte* place = nullptr;
    Access access = Access::none;
  };
  std::array<Byte, space> model{};
  std::mt19937 random(7);
  for (int step = 0; step < 20'000; ++step) {
    const std::uint64_t start = random() % space;
    const std::uint64_t bytes = 1 + random() % std::min<std::uint64_t>(space - start, 40);
    if (random() % 3 == 0) {
      EXPECT_TRUE(remove(start, bytes).empty());
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(start), bytes, Byte{});
    } else {
      // Often a neighbour in both spaces.
      const std::uint64_t guest = GuestMemory::low + start + 64 * (random() % 2);
      const Access access = random() % 4 == 0 ? Access::read : Access::both;
      ASSERT_TRUE(add(start, bytes, guest, access));
      for (std::uint64_t i = 0; i < bytes; ++i) {
        model[start + i] = {device_view(guest + i), access};
      }
    }
    for (std::uint64_t i = 0; i < space; ++i) {
      ASSERT_EQ(at(i, Access::read), model[i].place) << i;
      ASSERT_EQ(at(i, Access::write),
                permits(model[i].access, Access::write) ? model[i].place : nullptr)
          << i;
    }
  }
}

// ---------------------------------------------------------------- areas of several places

TEST(MappingGather, ShowsPagesOfSeveralPlacesSideBySide) {
  const GuestMemory memory;
  const auto map = memory.map();
  MemoryMap::Hint hint;
  const auto piece = [&](std::uint64_t guest, std::uint64_t bytes) {
    return map->prefix(GuestAddress{guest}, bytes, hint);
  };
  const std::array pieces{piece(GuestMemory::low + 3 * page - 64, 64),
                          piece(GuestMemory::far, page), piece(GuestMemory::low + page, 100)};
  auto gathered = Mapping::gather(pieces);
  ASSERT_TRUE(gathered) << gathered.error().what;
  ASSERT_EQ(gathered->bytes().size(), 64 + page + 100);
  memory.store(GuestMemory::low + 3 * page - 1, std::uint8_t{1});
  memory.store(GuestMemory::far, std::uint8_t{2});
  gathered->bytes()[64 + page] = std::byte{3};
  EXPECT_EQ(gathered->bytes()[63], std::byte{1});
  EXPECT_EQ(gathered->bytes()[64], std::byte{2});
  EXPECT_EQ(memory.load<std::uint8_t>(GuestMemory::low + page), 3);
}

TEST(MappingGather, RefusesWhatDoesNotMeetAtTheEndOfAPage) {
  const GuestMemory memory;
  const auto map = memory.map();
  MemoryMap::Hint hint;
  const auto piece = [&](std::uint64_t guest, std::uint64_t bytes) {
    return map->prefix(GuestAddress{guest}, bytes, hint);
  };
  EXPECT_FALSE(Mapping::gather(
      std::array{piece(GuestMemory::low, page - 1), piece(GuestMemory::far, page)}));
  EXPECT_FALSE(
      Mapping::gather(std::array{piece(GuestMemory::low, page), piece(GuestMemory::far + 1, 10)}));
}

TEST_F(IotlbTest, RemembersTheLastRefusalsAndNoMore) {
  const auto miss = [](std::uint64_t i) { return Miss{GuestAddress{i * page}, Access::read}; };
  for (std::uint64_t i = 0; i <= Ledger::most_refused; ++i) iotlb_->refuse(0, miss(i));
  EXPECT_EQ(ledgers_[0]->refusals(), Ledger::most_refused);
  EXPECT_TRUE(ledgers_[0]->want(miss(0))) << "forgotten: it is asked for again";
  EXPECT_FALSE(ledgers_[0]->want(miss(1)));
  EXPECT_FALSE(ledgers_[0]->want(miss(Ledger::most_refused)));
}

}  // namespace
}  // namespace vhost::tests
