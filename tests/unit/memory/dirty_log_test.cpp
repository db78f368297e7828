#include "libvhost/memory/dirty_log.hpp"

#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "tests/fakes/dirty_pages.hpp"
#include "tests/unit/memory/shared_file.hpp"

namespace vhost::tests {
namespace {

using fakes::DirtyPages;
using Pages = std::set<std::uint64_t>;

class DirtyLogTest : public testing::Test {
 protected:
  DirtyLogTest() { marks_.move_to(log_.get()); }

  Pages mark(std::uint64_t guest_physical, std::uint64_t bytes) {
    marks_.add(guest_physical, bytes);
    marks_.flush();
    return pages_.take();
  }
  static Pages run(std::uint64_t first, std::uint64_t last) {
    Pages pages;
    for (std::uint64_t i = first; i <= last; ++i) pages.insert(i);
    return pages;
  }

  DirtyPages pages_{64};  // 512 pages: 2 MiB
  std::shared_ptr<DirtyLog> log_ = pages_.map();
  DirtyMarks marks_;
};

TEST_F(DirtyLogTest, MarksThePagesThatAWriteTouchesAndNoOther) {
  EXPECT_EQ(mark(0, 1), Pages{0});
  EXPECT_EQ(mark(page - 1, 1), Pages{0});
  EXPECT_EQ(mark(page - 1, 2), (Pages{0, 1}));
  EXPECT_EQ(mark(page, page), Pages{1});
  EXPECT_EQ(mark(page, page + 1), (Pages{1, 2}));
  EXPECT_EQ(mark(page * 63, page), Pages{63});
  EXPECT_EQ(mark(page * 63, page * 2), (Pages{63, 64}));
  EXPECT_EQ(mark(page * 64, page * 64), run(64, 127)) << "a whole word";
  EXPECT_EQ(mark(page * 60 + 1, page * 200), run(60, 260)) << "whole words between two parts";
}

TEST_F(DirtyLogTest, MarksNothingForNoBytes) {
  EXPECT_EQ(mark(page, 0), Pages{});
  EXPECT_EQ(mark(0, 0), Pages{});
}

TEST_F(DirtyLogTest, IgnoresWhatLiesBehindItsEnd) {
  EXPECT_EQ(mark(page * 511, page), Pages{511});
  EXPECT_EQ(mark(page * 511 + 4095, 2), Pages{511});
  EXPECT_EQ(mark(page * 510, UINT32_MAX), (Pages{510, 511}));
  EXPECT_EQ(mark(page * 512, 1), Pages{});
  EXPECT_EQ(mark(UINT64_MAX, 1), Pages{});
  EXPECT_EQ(mark(UINT64_MAX, 2), Pages{}) << "the sum wraps";
  EXPECT_EQ(mark(UINT64_MAX - 4096, UINT32_MAX), Pages{});
}

TEST_F(DirtyLogTest, EndsAtAnyByte) {
  for (const std::uint64_t bytes : {1u, 7u, 9u, 13u}) {
    DirtyPages odd(bytes);
    const auto log = odd.map();
    marks_.move_to(log.get());
    marks_.add(0, UINT32_MAX);
    marks_.flush();
    EXPECT_EQ(odd.take(), run(0, bytes * 8 - 1));
    EXPECT_TRUE(log->reaches(bytes * 8 * page));
    EXPECT_FALSE(log->reaches(bytes * 8 * page + 1));
  }
}

TEST_F(DirtyLogTest, LeavesAloneWhatLiesBehindItInItsFile) {
  const auto shorter = DirtyLog::map(pages_.file().get(), 0, 5);
  ASSERT_TRUE(shorter);
  marks_.move_to(shorter->get());
  EXPECT_EQ(mark(page * 39, 1), Pages{39});
  EXPECT_EQ(mark(page * 40, 1), Pages{});
  EXPECT_EQ(mark(page * 38, 3 * page), run(38, 39));
}

TEST_F(DirtyLogTest, MovesToAnotherWithNothingLeftBehind) {
  DirtyPages other(1);
  const auto log = other.map();
  marks_.add(page * 500, 1);
  marks_.move_to(log.get());
  EXPECT_EQ(pages_.take(), Pages{500});
  marks_.add(page, 1);
  marks_.move_to(nullptr);
  EXPECT_EQ(other.take(), Pages{1});
  marks_.add(page, 1);
  marks_.flush();
  EXPECT_EQ(other.take(), Pages{});
}

TEST_F(DirtyLogTest, BeginsAnywhereInItsFileThatIsAMultipleOfEight) {
  for (const std::uint64_t offset : {8u, 4096u, 4104u, 8184u}) {
    DirtyPages shifted(64, offset);
    const auto log = shifted.map();
    marks_.move_to(log.get());
    marks_.add(page * 70, 1);
    marks_.flush();
    EXPECT_EQ(shifted.take(), Pages{70});
    EXPECT_TRUE(shifted.untouched_before());
  }
  for (const std::uint64_t offset : {1u, 4u, 4097u}) {
    EXPECT_FALSE(DirtyLog::map(pages_.file().get(), offset, 8)) << offset;
  }
}

TEST_F(DirtyLogTest, RefusesAFileThatDoesNotHoldIt) {
  EXPECT_TRUE(DirtyLog::map(pages_.file().get(), 0, 64));
  EXPECT_FALSE(DirtyLog::map(pages_.file().get(), 0, 65));
  EXPECT_FALSE(DirtyLog::map(pages_.file().get(), 8, 64));
  EXPECT_FALSE(DirtyLog::map(pages_.file().get(), 0, 0));
  EXPECT_FALSE(DirtyLog::map(pages_.file().get(), 0, UINT64_MAX));
  EXPECT_FALSE(DirtyLog::map(pages_.file().get(), UINT64_MAX - 7, 16));
  EXPECT_FALSE(DirtyLog::map(-1, 0, 64));
}

TEST_F(DirtyLogTest, ShowsMarksNotBeforeTheyAreFlushedButThoseOfAnotherWord) {
  marks_.add(0, 1);
  EXPECT_EQ(pages_.take(), Pages{});
  marks_.add(page * 3, 1);
  EXPECT_EQ(pages_.take(), Pages{});
  marks_.add(page * 100, 1);
  EXPECT_EQ(pages_.take(), (Pages{0, 3}));
  marks_.flush();
  EXPECT_EQ(pages_.take(), Pages{100});
  marks_.flush();
  EXPECT_EQ(pages_.take(), Pages{});
}

TEST_F(DirtyLogTest, KeepsWhatOthersMarked) {
  DirtyMarks other;
  other.move_to(log_.get());
  other.add(page * 5, 1);
  other.flush();
  marks_.add(page * 6, 1);
  marks_.flush();
  EXPECT_EQ(pages_.take(), (Pages{5, 6}));
}

TEST_F(DirtyLogTest, AgreesWithABitForEachByteOverRandomWrites) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 2000; ++round) {
    Pages expected;
    for (int i = 0; i < 5; ++i) {
      const std::uint64_t at = random() % (page * 520);
      const std::uint64_t bytes = random() % (random() % 2 == 0 ? 600'000 : 5000);
      for (std::uint64_t p = at / page; bytes != 0 && p <= (at + bytes - 1) / page; ++p) {
        if (p < 512) expected.insert(p);
      }
      marks_.add(at, bytes);
    }
    marks_.flush();
    ASSERT_EQ(pages_.take(), expected);
  }
}

/// Two mark different bits of the same words, and nobody's is lost.
TEST_F(DirtyLogTest, IsMarkedByManyAtOnce) {
  const auto mark_every_other = [this](std::uint64_t first) {
    DirtyMarks marks;
    marks.move_to(log_.get());
    for (int round = 0; round < 100; ++round) {
      for (std::uint64_t i = first; i < 512; i += 2) {
        marks.add(i * page, 1);
        marks.flush();
      }
    }
  };
  for (int round = 0; round < 20; ++round) {
    std::thread even(mark_every_other, 0);
    std::thread odd(mark_every_other, 1);
    even.join();
    odd.join();
    ASSERT_EQ(pages_.take(), run(0, 511));
  }
}

}  // namespace
}  // namespace vhost::tests
