#include <algorithm>
#include <deque>
#include <map>
#include <random>

#include "tests/unit/ring/translated_ring.hpp"

/* An honest driver against one device after another: each works for a while with all of the ring's
 * verbs, and then ends as it should, with its base handed over, leaves in flight what it has, or is
 * killed. The model is a list
 * of chains in the order in which the next pops must give them. */
namespace vhost::tests {
namespace {

struct Lent {
  std::uint16_t id = 0;
  Lengths lengths;
  std::uint64_t begun = 0;  // when it was first popped; 0: never
};

struct Habits {
  bool event_idx = false;
  bool indirect = false;
  bool region = false;  // an inflight section, so that the device need not end as it should
};

template <class Driver>
class LivesModel : public RingTest<Driver> {
 public:
  using Ring = typename Driver::DeviceRing;

  LivesModel(Habits habits, unsigned seed)
      : RingTest<Driver>({.size = 16, .event_idx = habits.event_idx, .indirect = habits.indirect}),
        habits_(habits),
        random_(seed) {
    const std::uint16_t size = this->driver_.setup().size;
    auto region = make_inflight_region(1, size);
    auto mapped = Mapping::map(region->file.get(), 0, region->description.mmap_size_bytes);
    region_ = std::make_shared<const Mapping>(std::move(*mapped));
    for (std::uint64_t i = 0; i < size; ++i) tables_.push_back(data_at + 0x10000 + i * 0x1000);
  }
  void TestBody() override {}

  void run(int lives) {
    std::uint32_t base = this->driver_.setup().base;
    for (int life = 0; life < lives; ++life) {
      Ring ring = start(base);
      ASSERT_EQ(ring.owes(), owed_ != 0);
      for (auto steps = random_() % 60; steps > 0; --steps) {
        ASSERT_NO_FATAL_FAILURE(step(ring));
        ASSERT_EQ(ring.in_flight(), popped_.size());
      }
      switch (habits_.region ? random_() % 3 : 0) {
        case 0:
          ASSERT_NO_FATAL_FAILURE(end(ring));
          base = ring.base();
          break;
        case 1:
          ASSERT_NO_FATAL_FAILURE(leave(ring));
          base = random_() % 2 == 0 ? ring.base() : this->driver_.base_after_crash();
          break;
        default: is_killed(); base = this->driver_.base_after_crash();
      }
    }
    EXPECT_GT(served, static_cast<std::size_t>(lives));
  }
  std::size_t served = 0;

 private:
  Ring start(std::uint32_t base) {
    const RingSetup setup = this->driver_.setup(base);
    if (!habits_.region) return this->make(setup);
    return this->make(setup, {region_, region_->bytes(), setup.size});
  }

  void step(Ring& ring) {
    switch (random_() % 9) {
      case 0:
      case 1: add(); break;
      case 2: pop(ring); break;
      case 3: pop_singles(ring); break;
      case 4: unpop(ring); break;
      case 5: push(ring); break;
      case 6: publish(ring); break;
      case 7: take_used(); break;
      default: look(ring);
    }
  }

  void add() {
    const std::size_t free = this->driver_.free_descriptors();
    if (free == 0) return;
    const bool indirect = habits_.indirect && random_() % 3 == 0;
    Lent chain;
    std::vector<Buffer> buffers;
    for (auto left = 1 + random_() % (indirect ? 20 : std::min<std::size_t>(free, 3)); left > 0;
         --left) {
      chain.lengths.push_back(1 + random_() % 4096);
      buffers.push_back({data_at, static_cast<std::uint32_t>(chain.lengths.back()), true});
    }
    if (indirect) {
      chain.id = this->driver_.add_indirect(buffers, tables_.back());
      table_of_[chain.id] = tables_.back();
      tables_.pop_back();
    } else {
      chain.id = this->driver_.add(buffers);
    }
    waiting_.push_back(std::move(chain));
    if (kick_due_) {
      EXPECT_TRUE(this->driver_.must_kick());
    }
    if (quiet_) {
      EXPECT_FALSE(this->driver_.must_kick());
    }
    kick_due_ = false;
  }

  void begun() {
    Lent chain = std::move(waiting_.front());
    waiting_.pop_front();
    if (owed_ != 0) --owed_;
    if (chain.begun == 0) chain.begun = ++clock_;
    popped_.push_back(std::move(chain));
    ++unpoppable_;
  }
  void pop(Ring& ring) {
    const Pop answer = ring.pop(this->chain_);
    ASSERT_EQ(answer, waiting_.empty() ? Pop::empty : Pop::ready);
    if (answer == Pop::empty) return;
    ASSERT_EQ(this->chain_.head, waiting_.front().id);
    ASSERT_EQ(this->lengths(), waiting_.front().lengths);
    begun();
  }
  void pop_singles(Ring& ring) {
    std::array<Single, 4> singles{};
    const std::size_t count = ring.pop_singles(singles);
    if (owed_ != 0) {
      ASSERT_EQ(count, 0U);
    }
    for (const Single& single : std::span(singles).first(count)) {
      ASSERT_FALSE(waiting_.empty());
      ASSERT_EQ(single.head, waiting_.front().id);
      ASSERT_EQ(Lengths{single.bytes}, waiting_.front().lengths);
      begun();
    }
  }
  /// The newest, if nothing that was popped later has been pushed.
  void unpop(Ring& ring) {
    if (unpoppable_ == 0) return;
    Lent chain = std::move(popped_.back());
    popped_.pop_back();
    --unpoppable_;
    ring.unpop(chain.id);
    const bool was_owed = chain.begun <= owed_until_;
    if (was_owed) ++owed_;
    if (!was_owed) chain.begun = 0;
    waiting_.push_front(std::move(chain));
  }

  void push(Ring& ring) {
    if (popped_.empty()) return;
    const std::size_t index = random_() % popped_.size();
    unpoppable_ = std::min(unpoppable_, popped_.size() - index - 1);
    const auto written = static_cast<std::uint32_t>(random_());
    ring.push(popped_[index].id, written);
    answers_.push_back({popped_[index].id, written});
    pushed_.push_back(std::move(popped_[index]));
    popped_.erase(popped_.begin() + static_cast<std::ptrdiff_t>(index));
  }
  void publish(Ring& ring) {
    const Notify notify = ring.publish();
    if (!habits_.event_idx) {
      ASSERT_EQ(notify, pushed_.empty() ? Notify::no : Notify::yes);
    }
    shown_.insert(shown_.end(), answers_.begin(), answers_.end());
    answers_.clear();
    pushed_.clear();
  }
  void take_used() {
    while (const auto used = this->driver_.take_used()) {
      ASSERT_FALSE(shown_.empty());
      ASSERT_EQ(used->id, shown_.front().id);
      ASSERT_EQ(used->length, shown_.front().length);
      shown_.pop_front();
      if (const auto table = table_of_.extract(static_cast<std::uint16_t>(used->id))) {
        tables_.push_back(table.mapped());
      }
      ++served;
    }
    ASSERT_TRUE(shown_.empty());
  }
  /// What a worker does between bursts.
  void look(Ring& ring) {
    switch (random_() % 4) {
      case 0:
        ring.disarm_kick();
        quiet_ = true;
        kick_due_ = false;
        break;
      case 1:
        ASSERT_EQ(ring.arm_kick(), !waiting_.empty());
        quiet_ = false;
        kick_due_ = waiting_.empty();
        break;
      case 2: ASSERT_TRUE(ring.move_to(this->memory_.map())); break;
      default: ring.look_ahead(static_cast<std::uint16_t>(random_() % 40));
    }
  }

  /// What is owed is served before a stop, and what was popped goes back.
  void end(Ring& ring) {
    while (owed_ != 0) ASSERT_NO_FATAL_FAILURE(pop(ring));
    while (!popped_.empty()) push(ring);
    publish(ring);
    forget();
  }
  void leave(Ring& ring) {
    publish(ring);
    ring.leave();
    ASSERT_EQ(ring.in_flight(), 0U);
    is_killed();
  }
  void is_killed() {
    std::vector<Lent> owed(popped_);
    owed.insert(owed.end(), pushed_.begin(), pushed_.end());
    owed.insert(owed.end(), waiting_.begin(),
                waiting_.begin() + static_cast<std::ptrdiff_t>(owed_));
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(owed_));
    std::ranges::sort(owed, {}, &Lent::begun);
    waiting_.insert(waiting_.begin(), owed.begin(), owed.end());
    owed_ = owed.size();
    owed_until_ = clock_;
    popped_.clear();
    pushed_.clear();
    answers_.clear();
    forget();
  }
  void forget() {
    unpoppable_ = 0;
    kick_due_ = quiet_ = false;
  }

  Habits habits_;
  std::mt19937 random_;
  std::shared_ptr<const Mapping> region_;
  std::uint64_t clock_ = 0;
  std::uint64_t owed_until_ = 0;                     // what was begun later is this device's own
  std::vector<std::uint64_t> tables_;                // free ones, one for each descriptor,
  std::map<std::uint16_t, std::uint64_t> table_of_;  // and those of chains

  std::deque<Lent> waiting_;  // in the order of the next pops: first so many that are owed
  std::size_t owed_ = 0;
  std::vector<Lent> popped_;
  std::size_t unpoppable_ = 0;  // of these, the newest
  std::vector<Lent> pushed_;    // and not shown
  std::vector<UsedElem> answers_;
  std::deque<UsedElem> shown_;
  bool kick_due_ = false;  // asked for, at the next chain
  bool quiet_ = false;     // asked for none
};

template <class Driver>
class RingLivesTest : public testing::Test {};
TYPED_TEST_SUITE(RingLivesTest, AllDrivers);

TYPED_TEST(RingLivesTest, AgreeWithTheModelOverRandomSequences) {
  for (const bool event_idx : {false, true}) {
    for (const bool indirect : {false, true}) {
      for (const bool region : {false, true}) {
        LivesModel<TypeParam> model({event_idx, indirect, region}, 17);
        model.run(300);
        ASSERT_FALSE(testing::Test::HasFailure()) << event_idx << indirect << region;
      }
    }
  }
}

}  // namespace
}  // namespace vhost::tests
