#include <atomic>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "libvhost/frontend/any_driver_ring.hpp"
#include "libvhost/ring/ring.hpp"
#include "tests/fakes/event.hpp"

/*
 * Both ends of a ring on two CPUs, as a guest and its device are: our driver and our device, each
 * with a mapping of its own. Every chain brings a number in several words and takes an answer back,
 * so content that is seen before it is whole is noticed. Both sides change at random between
 * looking on and sleeping until the other notifies; a notification that is lost ends the test by
 * its patience.
 *
 * It shows that the rules are right: who looks again behind which request, and when to notify. A
 * barrier that is missing is seen by it only where both sides come to the spot in the same few
 * nanoseconds, on a CPU that changes the order; barriers.py looks for the instructions instead.
 */
namespace vhost {
namespace {

using fakes::Event;
using frontend::AnyDriverRing;
using frontend::Completion;
using frontend::Poll;
using frontend::SharedMemory;

constexpr std::uint64_t chains = 200'000;
constexpr std::size_t words = 8;
constexpr std::size_t bytes_of_words = words * sizeof(std::uint64_t);
constexpr std::uint16_t ring_size = 32;
constexpr std::size_t cells = 2 * ring_size;  // a question and an answer each

struct Variant {
  bool packed;
  bool event_idx;
};

std::uint64_t question(std::uint64_t number, std::size_t word) {
  return (number + 1) * 0x9e3779b97f4a7c15 + word;
}
std::uint64_t answer(std::uint64_t number, std::size_t word) {
  return ~question(number, word);
}

/// Looks on for some turns, or sleeps until `event` if `arm` says that nothing is there. False: it
/// slept for longer than anybody takes.
template <class Arm>
bool wait_somehow(std::mt19937& random, const Event& event, Arm arm) {
  if (random() % 4 != 0) {
    for (unsigned turns = random() % 64; turns > 0; --turns)
      std::atomic_signal_fence(std::memory_order_acq_rel);
    return true;
  }
  if (random() % 2 == 0) std::this_thread::yield();  // the other side comes in between
  if (arm()) return true;
  if (!event.wait()) return false;
  (void)event.count();
  return true;
}

class RingThreads : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(memory_.add_region(1 << 20));
    auto driver = AnyDriverRing::create(
        memory_,
        {.size = ring_size, .event_idx = GetParam().event_idx, .packed = GetParam().packed});
    ASSERT_TRUE(driver) << driver.error().what;
    driver_.emplace(std::move(*driver));
    auto data = memory_.allocate(2 * cells * bytes_of_words, 64);
    ASSERT_TRUE(data);
    data_ = *data;
    std::vector<MemoryRegion> regions{memory_.regions()[0]->wire()};
    std::vector<UniqueFd> fds;
    fds.emplace_back(::dup(memory_.regions()[0]->fd()));
    auto map = MemoryMap::of(regions, fds, {});
    ASSERT_TRUE(map);
    map_ = std::make_shared<const MemoryMap>(std::move(*map));
  }

  [[nodiscard]] RingSetup setup() const {
    const VringAddr at = driver_->addresses(0);
    return {.size = ring_size,
            .descriptors = FrontendAddress{at.descriptors},
            .available = FrontendAddress{at.available},
            .used = FrontendAddress{at.used},
            .base = driver_->first_base(),
            .event_idx = GetParam().event_idx,
            .packed = GetParam().packed};
  }

  /// The words of a cell in the driver's mapping; a cell belongs to one chain at a time.
  [[nodiscard]] std::uint64_t* cell(std::size_t index) const {
    return reinterpret_cast<std::uint64_t*>(data_.data + index * bytes_of_words);
  }

  void offer_some(std::mt19937& random);
  [[nodiscard]] bool take_back();
  void drive();
  template <class Device>
  void serve(Device ring);
  template <class Device>
  void run();

  SharedMemory memory_;
  std::optional<AnyDriverRing> driver_;
  frontend::Buffer data_;
  std::shared_ptr<const MemoryMap> map_;
  Event kick_, call_;
  std::uint64_t offered_ = 0;
  std::uint64_t returned_ = 0;
  std::atomic<bool> failed_ = false;
};

/// Chains, and a kick if the device wants one: sometimes bursts, sometimes one alone, behind which
/// nothing comes that could make up for a lost notification.
void RingThreads::offer_some(std::mt19937& random) {
  const bool alone = returned_ % 2000 < 1000;
  if (alone && driver_->outstanding() > 0) return;
  const std::uint64_t most = alone ? 1 : 1 + random() % ring_size;
  for (std::uint64_t i = 0; i < most && offered_ < chains; ++i) {
    const std::size_t at = offered_ % cells * 2;
    const std::array readable{data_.segment(at * bytes_of_words, bytes_of_words)};
    const std::array writable{data_.segment((at + 1) * bytes_of_words, bytes_of_words)};
    for (std::size_t word = 0; word < words; ++word) cell(at)[word] = question(offered_, word);
    if (!driver_->add(readable, writable, offered_)) break;
    ++offered_;
  }
  if (driver_->publish()) kick_.add();
}

/// What the device has given back so far. False: it is not what was asked.
bool RingThreads::take_back() {
  Completion completion;
  Poll poll;
  while ((poll = driver_->poll(completion)) == Poll::done) {
    if (completion.written_bytes != bytes_of_words) return false;
    const std::uint64_t* const got = cell(completion.cookie % cells * 2 + 1);
    for (std::size_t word = 0; word < words; ++word) {
      if (got[word] != answer(completion.cookie, word)) return false;
    }
    ++returned_;
  }
  return poll == Poll::empty;
}

void RingThreads::drive() {
  std::mt19937 random(1);
  while (returned_ < chains && !failed_) {
    offer_some(random);
    const std::uint64_t before = returned_;
    if (!take_back()) {
      failed_ = true;
      ADD_FAILURE() << "chain " << returned_ << " came back wrong";
    }
    if (returned_ != before || returned_ == chains) continue;
    if (!wait_somehow(random, call_, [&] { return driver_->arm_calls(); })) {
      failed_ = true;
      ADD_FAILURE() << "a call was lost behind chain " << returned_;
    }
    driver_->disarm_calls();
  }
}

template <class Device>
void RingThreads::serve(Device ring) {
  std::mt19937 random(2);
  std::vector<iovec> room(ring.longest_chain());
  Chain chain{room};
  std::uint64_t served = 0;
  while (served < chains && !failed_) {
    const std::uint64_t before = served;
    for (unsigned most = 1 + random() % 16; most > 0 && ring.pop(chain) == Pop::ready; --most) {
      const auto* const asked = static_cast<const std::uint64_t*>(chain.readable()[0].iov_base);
      auto* const reply = static_cast<std::uint64_t*>(chain.writable()[0].iov_base);
      for (std::size_t word = 0; word < words; ++word) {
        if (asked[word] != question(served, word)) failed_ = true;
        reply[word] = answer(served, word);
      }
      ring.push(chain.head, bytes_of_words);
      ++served;
    }
    if (ring.publish() == Notify::yes) call_.add();
    if (ring.is_broken()) failed_ = true;
    if (failed_) ADD_FAILURE() << "chain " << served << " was not what the driver wrote";
    if (served != before || served == chains) continue;
    if (!wait_somehow(random, kick_, [&] { return ring.arm_kick(); })) {
      failed_ = true;
      ADD_FAILURE() << "a kick was lost behind chain " << served;
    }
    ring.disarm_kick();
  }
}

template <class Device>
void RingThreads::run() {
  auto ring = Device::create(setup(), map_);
  ASSERT_TRUE(ring) << ring.error().what;
  std::jthread device([&] { serve(std::move(*ring)); });
  drive();
}

TEST_P(RingThreads, LoseNoChainAndNoNotificationAndTearNothing) {
  if (GetParam().packed) {
    run<PackedRing>();
  } else {
    run<SplitRing>();
  }
  EXPECT_TRUE(failed_ || returned_ == chains);
}

INSTANTIATE_TEST_SUITE_P(OfEachKind, RingThreads,
                         testing::Values(Variant{false, false}, Variant{false, true},
                                         Variant{true, false}, Variant{true, true}),
                         [](const auto& of) {
                           return std::string(of.param.packed ? "Packed" : "Split") +
                                  (of.param.event_idx ? "WithEventIdx" : "");
                         });

}  // namespace
}  // namespace vhost
