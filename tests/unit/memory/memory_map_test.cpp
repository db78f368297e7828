#include "libvhost/memory/memory_map.hpp"

#include <array>

#include "libvhost/memory/fault_guard.hpp"
#include "tests/unit/memory/shared_file.hpp"

namespace vhost::tests {
namespace {

constexpr std::uint64_t gpa = 0x100000;
constexpr std::uint64_t uva = 0x7f0000000000;

class MemoryMapTest : public testing::Test {
 protected:
  static MemoryRegion region(std::uint64_t guest, std::uint64_t size, std::uint64_t frontend,
                             std::uint64_t offset = 0) {
    return {guest, size, frontend, offset};
  }
  Result<MemoryMap> of(std::vector<MemoryRegion> regions, const MemoryMap& previous = {}) {
    std::vector<UniqueFd> fds;
    for (std::size_t i = 0; i < regions.size(); ++i) fds.emplace_back(::dup(file_.get()));
    return MemoryMap::of(regions, fds, previous);
  }
  static std::span<std::byte> prefix(const MemoryMap& map, std::uint64_t address,
                                     std::uint64_t length) {
    MemoryMap::Hint hint;
    return map.prefix(GuestAddress{address}, length, hint);
  }

  UniqueFd file_ = shared_file(64 * page);
  MemoryRegion first_ = region(gpa, 4 * page, uva);
  MemoryRegion second_ = region(gpa + 4 * page, 4 * page, uva - 0x10000000, 8 * page);
};

TEST_F(MemoryMapTest, TranslatesWithinOneRegion) {
  const auto map = of({first_, second_});
  ASSERT_TRUE(map);
  put(file_, 10, 'a');
  put(file_, 8 * page, 'b');
  EXPECT_EQ(prefix(*map, gpa + 10, 1)[0], std::byte{'a'});
  EXPECT_EQ(prefix(*map, gpa + 4 * page, 1)[0], std::byte{'b'});
  EXPECT_EQ(prefix(*map, gpa + 4 * page - 1, 10).size(), 1u);
  EXPECT_EQ(prefix(*map, gpa + 8 * page - 1, 10).size(), 1u);
}

TEST_F(MemoryMapTest, HasNothingOutsideItsRegions) {
  const auto map = of({first_});
  for (const std::uint64_t address : {std::uint64_t{0}, gpa - 1, gpa + 4 * page, UINT64_MAX}) {
    EXPECT_TRUE(prefix(*map, address, 1).empty()) << address;
  }
  EXPECT_TRUE(prefix(*map, gpa, 0).empty());
  EXPECT_EQ(prefix(*map, gpa, UINT64_MAX).size(), 4 * page);
  EXPECT_TRUE(prefix({}, gpa, 1).empty());
}

TEST_F(MemoryMapTest, RemembersTheRegionItFound) {
  const auto map = of({first_, second_});
  MemoryMap::Hint hint;
  EXPECT_EQ(map->prefix(GuestAddress{gpa + 5 * page}, 1, hint).size(), 1u);
  EXPECT_EQ(hint.start, gpa + 4 * page);
  EXPECT_EQ(map->prefix(GuestAddress{gpa}, 1, hint).size(), 1u);
  EXPECT_EQ(hint.start, gpa);
  EXPECT_TRUE(map->prefix(GuestAddress{0}, 1, hint).empty());
  EXPECT_EQ(hint.start, gpa) << "a miss leaves it alone";
}

TEST_F(MemoryMapTest, CopiesAcrossRegions) {
  const auto map = of({first_, second_});
  put(file_, 4 * page - 1, 'a');
  put(file_, 8 * page, 'b');
  std::array<std::byte, 2> copy{};
  MemoryMap::Hint hint;
  ASSERT_TRUE(map->copy_from(GuestAddress{gpa + 4 * page - 1}, copy, hint));
  EXPECT_EQ(copy[0], std::byte{'a'});
  EXPECT_EQ(copy[1], std::byte{'b'});
  EXPECT_FALSE(map->copy_from(GuestAddress{gpa + 8 * page - 1}, copy, hint));
}

TEST_F(MemoryMapTest, AtNeverSpansRegions) {
  // Adjacent in the front-end's addresses, and not in ours.
  const auto map = of({first_, region(gpa + 64 * page, 4 * page, uva + 4 * page, 8 * page)});
  ASSERT_TRUE(map);
  EXPECT_EQ(map->at(FrontendAddress{uva}, 4 * page).size(), 4 * page);
  EXPECT_EQ(map->at(FrontendAddress{uva + 4 * page - 1}, 1).size(), 1u);
  EXPECT_TRUE(map->at(FrontendAddress{uva + 4 * page - 1}, 2).empty());
  EXPECT_TRUE(map->at(FrontendAddress{uva}, UINT64_MAX).empty());
  EXPECT_TRUE(map->at(FrontendAddress{uva + 1}, UINT64_MAX).empty());
  EXPECT_TRUE(map->at(FrontendAddress{uva - 1}, 1).empty());
  EXPECT_TRUE(map->at(FrontendAddress{gpa}, 1).empty()) << "that is the other address space";
}

TEST_F(MemoryMapTest, RefusesOverlapsInGuestAddresses) {
  for (const std::uint64_t guest : {gpa, gpa - 4 * page + 1, gpa + 4 * page - 1, gpa + page}) {
    EXPECT_FALSE(of({first_, region(guest, 4 * page, uva + 0x100000)})) << guest;
  }
  EXPECT_FALSE(of({first_, region(gpa - page, 8 * page, uva + 0x100000)})) << "around it";
  EXPECT_TRUE(of({first_, region(gpa - 4 * page, 4 * page, uva + 0x100000)}));
  EXPECT_TRUE(of({first_, region(gpa + 4 * page, 4 * page, uva + 0x100000)}));
}

TEST_F(MemoryMapTest, RefusesOverlapsInFrontendAddresses) {
  for (const std::uint64_t at : {uva, uva - 4 * page + 1, uva + 4 * page - 1, uva + page}) {
    EXPECT_FALSE(of({first_, region(gpa + 0x1000000, 4 * page, at)})) << at;
  }
  EXPECT_TRUE(of({first_, region(gpa + 0x1000000, 4 * page, uva + 4 * page)}));
}

TEST_F(MemoryMapTest, RefusesRegionsThatWrap) {
  EXPECT_FALSE(of({region(UINT64_MAX - page, 2 * page, uva)}));
  EXPECT_FALSE(of({region(gpa, 2 * page, UINT64_MAX - page)}));
  EXPECT_FALSE(of({region(gpa, 0, uva)}));
  EXPECT_FALSE(of({region(gpa, UINT64_MAX, uva)}));
  EXPECT_TRUE(of({region(UINT64_MAX - 2 * page + 1 - page, 2 * page, uva)}));
}

TEST_F(MemoryMapTest, RefusesWhatTheFileDoesNotHold) {
  EXPECT_TRUE(of({region(gpa, 64 * page, uva)}));
  EXPECT_FALSE(of({region(gpa, 64 * page + 1, uva)}));
  EXPECT_FALSE(of({region(gpa, page, uva, 64 * page)}));
  EXPECT_FALSE(of({region(gpa, page, uva, UINT64_MAX - 4)}));
}

TEST_F(MemoryMapTest, Holds509RegionsAndNoMore) {
  MemoryMap map;
  for (std::uint64_t i = 0; i < 509; ++i) {
    auto next = map.with(region(gpa + i * page, page, uva + i * page), file_.get());
    ASSERT_TRUE(next) << i << next.error().what;
    map = std::move(*next);
  }
  EXPECT_EQ(map.size(), 509u);
  EXPECT_FALSE(map.with(region(gpa + 509 * page, page, uva + 509 * page), file_.get()));
  for (std::uint64_t i = 0; i < 509; ++i) ASSERT_EQ(prefix(map, gpa + i * page, page).size(), page);
}

TEST_F(MemoryMapTest, FindsEveryRegionInWhateverOrderTheyCameAndGo) {
  // Region i is one page at every third page. 7 steps through all of them, for 60 is no multiple.
  constexpr std::uint64_t count = 60;
  const auto at = [](std::uint64_t i) { return gpa + 3 * i * page; };
  const auto nth = [&](std::uint64_t i) {
    return region(at(i), page, uva - 2 * i * page, i * page);
  };
  MemoryMap map;
  for (std::uint64_t step = 0; step < 2 * count; ++step) {
    const std::uint64_t changed = step * 7 % count;
    auto next = step < count ? map.with(nth(changed), file_.get()) : map.without(nth(changed));
    ASSERT_TRUE(next) << next.error().what;
    map = std::move(*next);
    for (std::uint64_t i = 0; i < count; ++i) {
      // i was the step that had i = step * 7, and 7 * 43 = 5 * 60 + 1.
      const bool came = i * 43 % count <= step;
      const bool gone = step >= count && i * 43 % count <= step - count;
      const std::size_t found = came && !gone ? 1 : 0;
      ASSERT_EQ(prefix(map, at(i), 1).size(), found) << i << " at " << step;
      ASSERT_EQ(prefix(map, at(i) + page - 1, 2).size(), found) << i << " at " << step;
      ASSERT_EQ(map.at(FrontendAddress{uva - 2 * i * page}, page).size(), found * page);
      ASSERT_TRUE(prefix(map, at(i) - 1, 1).empty());
      ASSERT_TRUE(prefix(map, at(i) + page, 1).empty());
    }
  }
  EXPECT_EQ(map.size(), 0u);
}

TEST_F(MemoryMapTest, AddsAndRemovesOneRegion) {
  const auto one = MemoryMap().with(first_, file_.get());
  const auto two = one->with(second_, file_.get());
  ASSERT_TRUE(two);
  const auto rest = two->without(first_);
  ASSERT_TRUE(rest);
  EXPECT_TRUE(prefix(*rest, gpa, 1).empty());
  EXPECT_EQ(prefix(*rest, gpa + 4 * page, 1).data(), prefix(*two, gpa + 4 * page, 1).data());
  EXPECT_EQ(rest->at(FrontendAddress{second_.frontend_address}, page).size(), page);
  EXPECT_EQ(one->size(), 1u) << "a map does not change";
}

TEST_F(MemoryMapTest, AddsTheVerySameRegionOnlyOnce) {
  const auto one = MemoryMap().with(first_, file_.get());
  const auto again = one->with(first_, file_.get());
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_EQ(again->size(), 1u);
  EXPECT_EQ(prefix(*again, gpa, 1).data(), prefix(*one, gpa, 1).data());
  EXPECT_FALSE(one->with(region(gpa, 4 * page, uva, page), file_.get())) << "another part of it";
  EXPECT_FALSE(one->with(region(gpa, 3 * page, uva), file_.get())) << "less of it";
  const UniqueFd other(::memfd_create("other", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(other.get(), 64 * page), 0);
  EXPECT_FALSE(one->with(first_, other.get())) << "the same place in another file";
}

TEST_F(MemoryMapTest, RemovesARegionWhenItWasRemovedAsOftenAsAdded) {
  const auto twice = MemoryMap().with(first_, file_.get())->with(first_, file_.get());
  const auto once = twice->without(first_);
  ASSERT_TRUE(once);
  EXPECT_EQ(prefix(*once, gpa, 1).data(), prefix(*twice, gpa, 1).data());
  const auto none = once->without(first_);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->size(), 0u);
  EXPECT_FALSE(none->without(first_));
}

TEST_F(MemoryMapTest, RemovesOnlyAnExactMatchAndIgnoresTheOffset) {
  const auto map = of({first_});
  EXPECT_FALSE(map->without(region(gpa + 1, 4 * page, uva)));
  EXPECT_FALSE(map->without(region(gpa, 3 * page, uva)));
  EXPECT_FALSE(map->without(region(gpa, 4 * page, uva + page)));
  EXPECT_TRUE(map->without(region(gpa, 4 * page, uva, 999)));
}

TEST_F(MemoryMapTest, KeepsTheMappingOfRegionsThatStay) {
  const auto before = of({first_, second_});
  const auto* place = prefix(*before, gpa, 1).data();
  const auto after = of({first_}, *before);
  EXPECT_EQ(prefix(*after, gpa, 1).data(), place);
  const auto grown = of({second_, first_}, *after);
  EXPECT_EQ(prefix(*grown, gpa, 1).data(), place) << "in whatever order";
}

TEST_F(MemoryMapTest, MapsAnewWhatIsAnotherFileOrPlace) {
  const auto before = of({first_});
  const auto* place = prefix(*before, gpa, 1).data();
  EXPECT_NE(prefix(*of({region(gpa, 4 * page, uva, page)}, *before), gpa, 1).data(), place);
  EXPECT_NE(prefix(*of({region(gpa, 5 * page, uva)}, *before), gpa, 1).data(), place);
  EXPECT_NE(prefix(*of({region(gpa, 4 * page, uva + page)}, *before), gpa, 1).data(), place);
  file_ = shared_file(64 * page);
  EXPECT_NE(prefix(*of({first_}, *before), gpa, 1).data(), place);
}

TEST_F(MemoryMapTest, KnowsWhetherAnythingIsGivenUp) {
  const auto one = of({first_});
  const auto two = one->with(second_, file_.get());
  EXPECT_TRUE(two->keeps_all_of(*one));
  EXPECT_FALSE(one->keeps_all_of(*two));
  EXPECT_TRUE(one->keeps_all_of({}));
  EXPECT_TRUE(of({second_, first_}, *two)->keeps_all_of(*two));
  EXPECT_FALSE(of({first_})->keeps_all_of(*one)) << "the same place, mapped anew";
}

TEST_F(MemoryMapTest, KnowsThatItIsLost) {
  const UniqueFd other = shared_file(page);
  const auto map = of({first_})->with(region(gpa + 0x1000000, page, uva + 0x100000), other.get());
  EXPECT_FALSE(map->lost());
  ASSERT_EQ(::ftruncate(other.get(), 0), 0);
  ASSERT_TRUE(fault_guard::install());
  // Nothing is lost before somebody looks.
  const auto bytes = prefix(*map, gpa + 0x1000000, 1);
  (void)*static_cast<volatile std::byte*>(bytes.data());
  EXPECT_TRUE(map->lost());
}

TEST_F(MemoryMapTest, RefusesARegionWithoutAFile) {
  EXPECT_FALSE(MemoryMap().with(first_, -1));
}

}  // namespace
}  // namespace vhost::tests
