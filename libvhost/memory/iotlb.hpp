#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "libvhost/memory/ledger.hpp"
#include "libvhost/memory/memory_map.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * The translations of the guest's IOMMU, as far as the front-end told them (vhost-user, "IOMMU
 * support"): a cache of bounded size. What is not here is asked for, and comes later or never.
 *
 * Workers look translations up while the control thread adds and removes them. Each ring has a
 * lock of its own, in its Ledger, which its worker holds while it reads a chain or gives chains
 * back; whoever changes the table holds the locks of all rings. So a look-up costs a worker one
 * lock that nobody else wants, and when remove() returns, a chain either uses what was removed and
 * is in its ring's ledger, or will find it missing.
 *
 * A worker that misses a translation notes it in its ledger, lets the ring wait and goes on with
 * others; the control thread is woken by wanted_fd(), asks the front-end, and kicks the ring when
 * the answers came. What is refused, or does not come in time, is in the ledger too: the ring that
 * wants it once more breaks.
 *
 * Neighbours in both address spaces become one entry, so that what an entry holds is bounded by
 * how scattered the guest's memory is, and not by the size of its pages.
 */
namespace vhost {

class Iotlb {
 public:
  /// Entries that are kept. When there is no room, all are forgotten, and asked for again.
  static constexpr std::size_t most_entries = 65536;

  struct Entry {
    GuestAddress start{};
    std::uint64_t bytes = 0;
    FrontendAddress frontend{};
    Access access = Access::none;
  };
  /// An entry as it is looked up.
  struct Place {
    std::uint64_t first = 0;
    std::uint64_t bytes = 0;
    std::byte* begin = nullptr;
    Access access = Access::none;
  };
  struct Wanted {
    std::uint16_t ring = 0;
    std::vector<Miss> misses;
  };

  [[nodiscard]] static Result<std::shared_ptr<Iotlb>> create(std::uint16_t rings);

  // The worker's side, with its ring's ledger locked.

  /// The entry in which an address is; of no bytes: there is none.
  [[nodiscard]] Place find(GuestAddress address) const;
  /// Has a translation asked for. False: nobody will translate this.
  [[nodiscard]] bool want(Ledger& ledger, const Miss& miss);
  /// Changes whenever a translation that was missing may be here, or was refused.
  [[nodiscard]] std::uint64_t generation() const {
    return generation_.load(std::memory_order_acquire);
  }
  /// Changes whenever what find() returned may no longer be so.
  [[nodiscard]] std::uint64_t version() const { return version_; }

  // The control thread's side.

  /// A ring begins with this ledger, and may look up translations from now on; null: it ended.
  void join(std::uint16_t ring, std::shared_ptr<Ledger> ledger);
  /// `memory` is where the entries' addresses lie from now on. No ring may run.
  void move_to(const MemoryMap& memory);
  /// Replaces whatever was known of the range. Refuses one that is not in the memory, that wraps,
  /// or is empty.
  [[nodiscard]] Result<void> add(const Entry& entry);
  /// Whether a translation that was missing is here.
  [[nodiscard]] bool has(const Miss& miss) const;
  /// Nobody will translate this for that ring: it breaks when it needs it.
  void refuse(std::uint16_t ring, const Miss& miss);
  /// Forgets a range, and says which rings use it: in chains in flight, or as areas of their own.
  /// What reaches beyond the end of the address space, or has no bytes because 2^64 were too many,
  /// is all to the end.
  [[nodiscard]] std::vector<std::uint16_t> remove(GuestAddress start, std::uint64_t bytes);
  /// Forgets everything. No ring may run.
  void clear();
  /// Becomes readable when there is something to ask for, or after notify().
  [[nodiscard]] int wanted_fd() const { return wanted_fd_.get(); }
  void notify() const;
  [[nodiscard]] std::vector<Wanted> take_wanted();

  [[nodiscard]] std::size_t entries() const { return places_.size(); }
  /// Times that all was forgotten because there was no room.
  [[nodiscard]] std::uint64_t overflows() const { return overflows_; }
  /// A file behind an area of a ring was truncated.
  [[nodiscard]] bool lost() const;

 private:
  struct Held {
    std::uint64_t bytes = 0;
    FrontendAddress frontend{};
    std::byte* begin = nullptr;
    Access access = Access::none;
  };
  using Places = std::map<std::uint64_t, Held>;
  class Writing;

  Iotlb(UniqueFd wanted, std::uint16_t rings) : wanted_fd_(std::move(wanted)), rings_(rings) {}
  void cut(std::uint64_t first, std::uint64_t last);
  void put(std::uint64_t first, const Held& held);
  void forget_all();

  UniqueFd wanted_fd_;
  std::vector<std::shared_ptr<Ledger>> rings_;
  MemoryMap memory_;  // of its own: a map that is translated by this refers to this
  Places places_;     // by first address; they do not overlap
  std::atomic<std::uint64_t> generation_ = 0;
  std::uint64_t version_ = 1;
  std::uint64_t overflows_ = 0;
};

}  // namespace vhost
