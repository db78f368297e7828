#pragma once
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/fakes/scattered_memory.hpp"
#include "tests/unit/ring/ring_fixture.hpp"

/*
 * A ring behind an IOMMU, with somebody beside it who answers what it misses: to a test it is a
 * ring like others, so that each promise of a ring is one of a translated ring too.
 *
 * A translation permits what was asked for and nothing else, and may be taken back before each look
 * at the ring. What comes out of the ring has to lie in pages that are translated then, for that
 * use; and who is said to use a page that is taken back is what the test knows of chains in flight.
 */
namespace vhost::tests {

template <class Ring, class Section>
class TranslatedRing {
 public:
  static constexpr std::uint64_t page = fakes::ScatteredMemory::page;

  static Result<TranslatedRing> create(RingSetup setup, std::shared_ptr<const MemoryMap> memory,
                                       const Section& inflight = {}) {
    setup.ledger = std::make_shared<Ledger>();
    Pages pages(setup, memory);
    while (true) {
      auto ring = Ring::create(setup, memory, inflight);
      if (ring) return TranslatedRing(std::move(*ring), std::move(pages));
      if (!pages.answer()) return std::unexpected(ring.error());
    }
  }

  Pop pop(Chain& chain) {
    pages_.take_some_back();
    Pop answer = ring_.pop(chain);
    while (pages_.answer()) answer = ring_.pop(chain);
    if (answer != Pop::ready) return answer;
    std::vector<Use> uses;
    for (const iovec& piece : chain.readable()) uses.push_back({piece, Access::read});
    for (const iovec& piece : chain.writable()) uses.push_back({piece, Access::write});
    pages_.take(chain.head, uses);
    return answer;
  }
  std::size_t pop_singles(std::span<Single> to) {
    pages_.take_some_back();
    std::size_t count = 0;
    do {
      const auto more = to.subspan(count);
      const std::size_t popped = ring_.pop_singles(more);
      for (const Single& one : more.first(popped)) {
        pages_.take(one.head,
                    {{{one.begin, one.bytes}, one.writable ? Access::write : Access::read}});
      }
      count += popped;
    } while (pages_.answer());
    return count;
  }
  void unpop(std::uint16_t head) {
    ring_.unpop(head);
    pages_.end(head);
  }
  void push(std::uint16_t head, std::uint32_t written_bytes) {
    ring_.push(head, written_bytes);
    pages_.end(head);
  }
  void leave() {
    ring_.leave();
    pages_.end_all();
  }
  Notify publish() {
    pages_.take_some_back();
    return ring_.publish();
  }
  bool move_to(std::shared_ptr<const MemoryMap> memory) {
    pages_.move_to(memory);
    const bool whole = ring_.move_to(std::move(memory));
    if (!whole) pages_.lose_areas();
    return whole;
  }
  void look_ahead(std::uint16_t chains) { ring_.look_ahead(chains); }
  bool arm_kick() { return ring_.arm_kick(); }
  void disarm_kick() { ring_.disarm_kick(); }
  [[nodiscard]] std::uint32_t base() const { return ring_.base(); }
  [[nodiscard]] std::uint32_t in_flight() const { return ring_.in_flight(); }
  [[nodiscard]] bool is_broken() const { return ring_.is_broken(); }
  [[nodiscard]] bool owes() const { return ring_.owes(); }

 private:
  struct Use {
    iovec piece;
    Access access;
  };

  /// The IOMMU, and the test's own book of what it translates and what is in use.
  class Pages {
   public:
    Pages(const RingSetup& setup, std::shared_ptr<const MemoryMap> memory)
        : memory_(std::move(memory)), iotlb_(memory_->iotlb()), ledger_(setup.ledger) {
      iotlb_->clear();
      iotlb_->move_to(*memory_);
      iotlb_->join(0, ledger_);
      for (const auto area : {setup.descriptors, setup.available, setup.used}) {
        areas_.insert(std::to_underlying(area) / page);
      }
    }

    /// False: the ring did not wait for anything.
    bool answer() {
      if (!ledger_->waiting.exchange(false)) return false;
      for (const auto& wanted : iotlb_->take_wanted()) {
        for (const Miss& miss : wanted.misses) {
          if (!translate(std::to_underlying(miss.address) / page, miss.access)) {
            iotlb_->refuse(0, miss);
          }
        }
      }
      return true;
    }
    void take_some_back() {
      for (auto known = random_() % 3; known > 0 && !known_.empty(); --known) {
        const auto it = std::next(known_.begin(), static_cast<long>(random_() % known_.size()));
        const std::uint64_t taken = it->first;
        known_.erase(it);
        const bool used = areas_.contains(taken) || std::ranges::any_of(uses_, [&](const auto& of) {
                            return of.second.contains(taken);
                          });
        EXPECT_EQ(iotlb_->remove(GuestAddress{taken * page}, page).size(), used ? 1u : 0u);
      }
    }
    void take(std::uint16_t head, const std::vector<Use>& uses) {
      for (const auto& [piece, access] : uses) {
        const auto* const begin = static_cast<const std::byte*>(piece.iov_base);
        for (std::size_t at = 0; at < piece.iov_len; ++at) {
          const std::uint64_t number = number_of(begin + at);
          const auto known = known_.find(number);
          ASSERT_TRUE(known != known_.end() && permits(known->second, access)) << number;
          uses_[head].insert(number);
          at += page - 1 - reinterpret_cast<std::uintptr_t>(begin + at) % page;
        }
      }
    }
    void end(std::uint16_t head) { uses_.erase(head); }
    void end_all() { uses_.clear(); }
    /// With the areas translated: a ring that does not find them has lost them.
    void move_to(const std::shared_ptr<const MemoryMap>& memory) {
      memory_ = memory;
      iotlb_->move_to(*memory);
      for (const auto& [number, access] : std::exchange(known_, {})) translate(number, access);
      for (const std::uint64_t number : areas_) translate(number, Access::both);
    }
    void lose_areas() { areas_.clear(); }

   private:
    bool translate(std::uint64_t number, Access access) {
      const auto place = fakes::ScatteredMemory::page_at(*memory_, number * page);
      if (!place) return false;
      Access& known = known_[number];
      known = static_cast<Access>(std::to_underlying(known) | std::to_underlying(access));
      EXPECT_TRUE(iotlb_->add({GuestAddress{number * page}, page, *place, known}));
      numbers_[memory_->at(*place, page).data()] = number;
      return true;
    }
    std::uint64_t number_of(const std::byte* byte) const {
      const auto it = numbers_.find(byte - reinterpret_cast<std::uintptr_t>(byte) % page);
      return it == numbers_.end() ? UINT64_MAX : it->second;
    }

    std::shared_ptr<const MemoryMap> memory_;
    std::shared_ptr<Iotlb> iotlb_;
    std::shared_ptr<Ledger> ledger_;
    std::mt19937 random_{5};
    std::map<std::uint64_t, Access> known_;                  // by the number of the page
    std::map<const std::byte*, std::uint64_t> numbers_;      // by where it is
    std::map<std::uint16_t, std::set<std::uint64_t>> uses_;  // by head, of those in flight
    std::set<std::uint64_t> areas_;
  };

  TranslatedRing(Ring ring, Pages pages) : ring_(std::move(ring)), pages_(std::move(pages)) {}

  Ring ring_;
  Pages pages_;
};

/// A driver whose addresses are translated, with ring areas that lie on two pages.
template <class Driver>
class Translated : public Driver {
 public:
  using Memory = fakes::ScatteredMemory;
  using DeviceRing = TranslatedRing<typename Driver::DeviceRing, typename Driver::Section>;

  explicit Translated(Memory& memory, DriverOptions options = {})
      : Driver(memory, {options.size, options.event_idx, options.indirect,
                        options.at + Memory::page - 64}) {}

  [[nodiscard]] RingSetup setup() const { return translated(Driver::setup()); }
  [[nodiscard]] RingSetup setup(std::uint32_t base) const {
    return translated(Driver::setup(base));
  }

 private:
  static RingSetup translated(RingSetup setup) {
    setup.iova = true;
    return setup;
  }
};

using AllDrivers = testing::Types<FakeSplitDriver, FakePackedDriver, FakeOddPackedDriver,
                                  Translated<FakeSplitDriver>, Translated<FakeOddPackedDriver>>;

}  // namespace vhost::tests
