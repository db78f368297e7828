#pragma once
#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "libvhost/memory/address.hpp"
#include "libvhost/memory/mapping.hpp"
#include "libvhost/wire/virtqueue.hpp"

/*
 * The inflight section of a packed ring (vhost-user, "Inflight I/O tracking").
 *
 *   header   { features, version, desc_num, free_head and old one, used position and old one }
 *   entries  { inflight, next, last, num, counter, and a copy of a descriptor }
 *
 * The device writes used descriptors over available ones, so a chain that is in flight is not in
 * the ring any more: each of its descriptors has a copy in an entry, which is taken from a list of
 * free ones and linked through `next`. The first entry stands for the chain and bears its mark.
 *
 * Where the ring was is here as well, because nobody else knows it after a crash: the used
 * position, and in front of it as many descriptors as are marked. A batch goes through five steps,
 * and a death behind any of them is told from the others:
 *
 *   1. its entries are linked in front of the free ones, and free_head is the first of them
 *   2. the used position is the new one, beside the old one: one store for both
 *   3. the ring shows the batch: the descriptor at the old position is used
 *   4. the marks of its chains go
 *   5. old free_head, then old position: as the new ones
 *
 * If the two positions differ, the descriptor at the old one tells whether the batch was shown:
 * then steps 4 and 5 are done, else all of it is undone. Entries of a batch are not free for new
 * chains before step 5.
 *
 * As with the split section, the order has to hold for the compiler only, and nothing here is
 * believed but by recover(), which checks it. Thread: the owner of the ring.
 */
namespace vhost {

struct PackedInflightHeader {
  std::uint64_t features;
  std::uint16_t version;
  std::uint16_t desc_num;
  std::uint16_t free_head;
  std::uint16_t old_free_head;
  std::uint16_t used_idx;  // these four in one aligned store
  std::uint16_t old_used_idx;
  std::uint8_t used_wrap_counter;
  std::uint8_t old_used_wrap_counter;
  std::uint8_t padding[10];
};
static_assert(Wire<PackedInflightHeader> && sizeof(PackedInflightHeader) == 32);

struct PackedInflightEntry {
  std::uint8_t inflight;
  std::uint8_t padding;
  std::uint16_t next;
  std::uint16_t last;
  std::uint16_t num;
  std::uint64_t counter;
  std::uint16_t id;
  std::uint16_t flags;
  std::uint32_t length;
  std::uint64_t addr;
};
static_assert(Wire<PackedInflightEntry> && sizeof(PackedInflightEntry) == 32);

/// Bytes of one ring's section: a multiple of 64, so that no two rings share a cache line.
[[nodiscard]] constexpr std::uint64_t packed_inflight_section_bytes(std::uint16_t queue_size) {
  return (sizeof(PackedInflightHeader) + queue_size * sizeof(PackedInflightEntry) + 63) / 64 * 64;
}

/// One ring's section of the region. Without a region all of it does nothing.
class PackedInflightSection {
  /// Our own books of the entries.
  struct alignas(std::uint64_t) Link {
    std::uint16_t next = 0;
    std::uint16_t last = 0;   // of the chain, if this is its first
    std::uint16_t slots = 0;  // likewise
    std::uint16_t unused = 0;
  };

 public:
  /// A chain that is still owed: its first entry, and the descriptors it has.
  struct Owed {
    std::uint16_t entry;
    std::uint16_t id;
    std::uint16_t slots;
  };
  struct Recovered {
    PackedPosition used;
    PackedPosition available;
    std::vector<Owed> owed;  ///< oldest first
  };
  /// The flags of the descriptor at this index of the ring.
  using FlagsAt = std::function<std::uint16_t(std::uint16_t)>;

  PackedInflightSection() = default;
  /// `section` must hold `queue_size` entries and outlives this through `region`.
  PackedInflightSection(std::shared_ptr<const Mapping> region, std::span<std::byte> section,
                        std::uint16_t queue_size);

  /// Settles what a predecessor left on a ring of `ring_size`. A new section is made ready, and
  /// goes on where `base` says; of any other the positions are the truth, but still to be checked.
  [[nodiscard]] Result<Recovered> recover(const Recovered& base, std::uint16_t ring_size,
                                          const FlagsAt& flags_at);

  /// Takes chains of one descriptor, several at a time, and nobody else does meanwhile. Not without
  /// a region.
  class Singles {
   public:
    explicit Singles(PackedInflightSection& section)
        : section_(section),
          entries_(section.entries_),
          links_(section.links_.data()),
          free_(section.free_),
          counter_(section.counter_) {}
    ~Singles() {
      section_.free_ = free_;
      section_.counter_ = counter_;
      section_.noted_ = 0;
    }
    Singles(const Singles&) = delete;
    Singles& operator=(const Singles&) = delete;

    /// As note() and take() of such a chain, in four stores, the one with the mark last.
    [[nodiscard]] std::uint16_t take(GuestAddress address, const PackedTail& tail) {
      const std::uint16_t first = free_;
      const std::uint16_t next = links_[first].next;
      links_[first] = {next, first, 1, 0};
      auto* const words = reinterpret_cast<std::uint64_t*>(&entries_[first]);
      const auto store = [words](int word, std::uint64_t value) {
        std::atomic_ref(words[word]).store(value, std::memory_order_relaxed);
      };
      store(3, std::to_underlying(address));
      store(2, std::rotl(tail.bits(), 32));  // the entry has id and flags before the length
      store(1, counter_++);
      std::atomic_signal_fence(std::memory_order_release);
      store(0, std::uint64_t{1} << 48 | std::uint64_t{first} << 32 | std::uint64_t{next} << 16 | 1);
      std::atomic_signal_fence(std::memory_order_release);
      free_ = next;
      return first;
    }

   private:
    // Copies: after each store to shared memory the compiler would read members anew.
    PackedInflightSection& section_;
    PackedInflightEntry* const entries_;
    Link* const links_;
    std::uint16_t free_;
    std::uint64_t counter_;
  };

  [[nodiscard]] bool is_there() const { return entries_ != nullptr; }

  /// Copies the next descriptor of the chain that is being read.
  void note(const PackedDesc& desc) {
    if (entries_ == nullptr) return;
    last_ = noted_ == 0 ? free_ : links_[last_].next;
    ++noted_;
    PackedInflightEntry& entry = entries_[last_];
    entry.id = desc.id;
    entry.flags = desc.flags;
    entry.length = desc.length;
    entry.addr = desc.addr;
  }
  /// The chain that was being read is none.
  void forget() { noted_ = 0; }
  /// The chain of the descriptors noted was taken; its entry. Call before anything is done for it.
  [[nodiscard]] std::uint16_t take(std::uint16_t id) {
    if (entries_ == nullptr) return 0;
    const std::uint16_t first = free_;
    links_[first].last = last_;
    links_[first].slots = noted_;
    PackedInflightEntry& entry = entries_[first];
    entry.id = id;  // it is the last descriptor's that counts
    entry.last = last_;
    entry.num = noted_;
    entry.counter = counter_++;
    std::atomic_signal_fence(std::memory_order_release);
    entry.inflight = 1;
    std::atomic_signal_fence(std::memory_order_release);
    free_ = links_[last_].next;
    noted_ = 0;
    return first;
  }
  /// Nothing was done for the chain that was taken last: it is as if it had not been.
  void put_back(std::uint16_t entry) {
    if (entries_ == nullptr) return;
    entries_[entry].inflight = 0;
    std::atomic_signal_fence(std::memory_order_release);
    const std::uint16_t last = links_[entry].last;
    links_[last].next = entries_[last].next = free_;
    free_ = entry;
  }
  /// The chain is about to be given back.
  void give_back(std::uint16_t entry) {
    if (entries_ != nullptr) batch_[batched_++] = entry;
  }
  /// What was given back is about to be shown, up to this position: steps 1 and 2.
  void prepare(PackedPosition used);
  /// It was shown: steps 4 and 5.
  void commit();

  /// The copy of a descriptor of an owed chain, and where the next one's is.
  [[nodiscard]] PackedDesc read(std::uint16_t& entry) const;

  /// The region's file was truncated: what is written here is lost.
  [[nodiscard]] bool lost() const { return region_ && region_->lost(); }

 private:
  [[nodiscard]] Result<void> check(const PackedInflightHeader& header) const;
  void settle_last_batch(PackedInflightHeader& header, const FlagsAt& flags_at,
                         std::uint16_t ring_size);
  [[nodiscard]] Result<std::vector<Owed>> collect(std::uint16_t ring_size);
  [[nodiscard]] bool claim(std::uint16_t first, std::uint16_t slots, std::vector<bool>& claimed);
  void make_free_list(const std::vector<bool>& claimed);
  void store_positions(PackedPosition now, PackedPosition old);
  void store_free_heads(std::uint16_t now, std::uint16_t old);
  [[nodiscard]] std::span<const std::uint16_t> batch() const {
    return std::span(batch_).first(batched_);
  }

  std::shared_ptr<const Mapping> region_;
  PackedInflightHeader* header_ = nullptr;  // shared with the front-end: written, not believed
  PackedInflightEntry* entries_ = nullptr;  // likewise
  std::uint16_t queue_size_ = 0;

  std::vector<Link> links_;      // by entry
  std::uint16_t free_ = 0;       // the first free entry; queue_size_: there is none
  std::uint16_t next_free_ = 0;  // as prepare() wrote it down
  std::uint16_t last_ = 0;       // the entry noted last
  std::uint16_t noted_ = 0;      // descriptors of the chain that is being read
  PackedPosition used_;          // as it was last committed
  PackedPosition next_used_;     // as prepare() was told
  std::uint64_t counter_ = 1;
  std::vector<std::uint16_t> batch_;  // entries given back since the last commit,
  std::uint16_t batched_ = 0;         // so many
};

}  // namespace vhost
