#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
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
 * A worker that misses a translation notes it here, lets the ring wait and goes on with others;
 * the control thread is woken by wanted_fd(), asks the front-end, and kicks the ring when an answer
 * came. A translation that is refused, or does not come in time, is an entry of its own kind:
 * whoever looks it up breaks its ring.
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
  struct Miss {
    GuestAddress address{};
    Access access = Access::none;
  };
  enum class Found : std::uint8_t { here, missing, refused };

  [[nodiscard]] static Result<std::shared_ptr<Iotlb>> create(std::uint16_t rings);

  // The worker's side, with its ring's ledger locked.

  /// The longest run of bytes in one place, at most `length`, that starts at `address`.
  [[nodiscard]] Found find(GuestAddress address, std::uint64_t length, Access access,
                           std::span<std::byte>& bytes) const;
  /// Has a translation asked for.
  void want(const Miss& miss);
  /// Changes whenever a translation that was missing may be here.
  [[nodiscard]] std::uint64_t generation() const {
    return generation_.load(std::memory_order_acquire);
  }

  // The control thread's side.

  /// A ring starts, and may look up translations from now on.
  void join(std::uint16_t ring, std::shared_ptr<Ledger> ledger);
  /// `memory` is where the entries' addresses lie from now on. No ring may run.
  void move_to(std::shared_ptr<const MemoryMap> memory);
  /// Replaces whatever was known of the range. Refuses one that is not in the memory, that wraps,
  /// or is empty.
  [[nodiscard]] Result<void> add(const Entry& entry);
  /// Nobody will translate this: rings that need it break.
  void refuse(const Miss& miss);
  /// Forgets the range, and says which rings have chains in flight that use it.
  [[nodiscard]] std::vector<std::uint16_t> remove(GuestAddress start, std::uint64_t bytes);
  /// Becomes readable when want() was called.
  [[nodiscard]] int wanted_fd() const { return wanted_fd_.get(); }
  [[nodiscard]] std::vector<Miss> take_wanted();

 private:
  struct Place {
    std::uint64_t bytes = 0;
    FrontendAddress frontend{};
    std::byte* begin = nullptr;  // null: refused
    Access access = Access::none;
  };
  class Writing;

  Iotlb(UniqueFd wanted, std::uint16_t rings) : wanted_fd_(std::move(wanted)), rings_(rings) {}
  void cut(std::uint64_t start, std::uint64_t bytes);

  UniqueFd wanted_fd_;
  std::vector<std::shared_ptr<Ledger>> rings_;
  std::shared_ptr<const MemoryMap> memory_;
  std::map<std::uint64_t, Place> places_;  // by first address; they do not overlap
  std::atomic<std::uint64_t> generation_ = 0;

  std::mutex wanted_lock_;
  std::vector<Miss> wanted_;
};

}  // namespace vhost
