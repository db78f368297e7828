#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "libvhost/memory/address.hpp"
#include "libvhost/memory/mapping.hpp"

namespace vhost {

/// A translation that is missing: where, and for what.
struct Miss {
  GuestAddress address{};
  Access access = Access::none;

  [[nodiscard]] bool operator==(const Miss&) const = default;
};

/// What one ring and its chains that are in flight use of the guest's memory.
///
/// Kept only while somebody has to know: the dirty log, when a chain is given back, which pages may
/// have been written; an invalidation, whether what it takes away is in use. A chain's pieces are
/// noted while it is read, and kept when it is popped.
///
/// It is also where a ring and the control thread meet over translations that are missing: the ring
/// says what it wants, and hears what is refused.
///
/// Thread: the worker that owns the ring. With an IOTLB it holds `lock` in each of these calls but
/// end() and show(), because invalidations look on from the control thread (iotlb.hpp).
class Ledger {
 public:
  /// Misses of one ring that wait to be asked for; what is more, it wants again when it looks
  /// again.
  static constexpr std::size_t most_wanted = 256;
  /// Misses for which not one chain was read: whatever the driver wants, it is more than the IOTLB
  /// can hold at once.
  static constexpr std::uint32_t most_in_vain = 1 << 18;
  /// Refusals that are remembered, the last ones: what was forgotten is asked for, and refused,
  /// again. A driver may name, and take back, any number of addresses before it breaks its ring.
  static constexpr std::size_t most_refused = 1024;

  struct Piece {
    GuestAddress address{};  ///< as the driver named it
    std::byte* begin = nullptr;
    std::uint32_t bytes = 0;
    bool writable = false;  ///< by the device
  };

  /// Makes room for a ring's chains. What is in flight already stays as it was.
  void open(std::uint16_t ring_size) {
    if (chains_.size() == ring_size) return;
    chains_ = std::vector<Chain>(ring_size);
    pieces_.resize(ring_size);
  }

  /// The ring's own areas, which it uses for as long as it runs; none to begin with.
  void pin(const Piece& area) { areas_.push_back(area); }
  /// The same, for one that lies in several places, which are mapped side by side for it.
  void pin(const Piece& area, Mapping gathered) {
    pin(area);
    gathered_.push_back(std::move(gathered));
  }
  void unpin() {
    areas_.clear();
    gathered_.clear();
  }

  /// A piece of the chain that is being read.
  void note(const Piece& piece) { noted_.push_back(piece); }
  /// That chain does not come to be.
  void forget() { noted_.clear(); }
  /// That chain is in flight, under the name `head`.
  void keep(std::uint16_t head);
  /// Nothing is done with that chain any more.
  void end(std::uint16_t head) { chains_[head].put_nothing(); }
  /// Calls `look` with each piece of a chain in flight.
  template <class Look>
  void show(std::uint16_t head, Look look) const {
    const Chain& chain = chains_[head];
    if (!chain.has_more()) return look(chain.first());
    for (const Piece& piece : pieces_[head]) look(piece);
  }
  /// Whether the ring or a chain in flight has a byte from `first` to `last`.
  [[nodiscard]] bool uses(std::uint64_t first, std::uint64_t last) const;
  /// A file behind an area of several places was truncated.
  [[nodiscard]] bool lost() const;

  // Translations.

  /// Notes that one is missing. False: nobody will translate this.
  [[nodiscard]] bool want(const Miss& miss);
  [[nodiscard]] bool wants_any() const { return !wanted_.empty(); }
  [[nodiscard]] std::size_t refusals() const { return refused_.size(); }
  [[nodiscard]] bool wants_much() const { return wanted_.size() >= most_wanted; }
  /// For the control thread: whether the ring waits, and for nothing that is still to be taken from
  /// here; it does not any more.
  [[nodiscard]] bool take_waiting() { return wanted_.empty() && waiting.exchange(false); }
  /// For the control thread: what is to be asked for.
  [[nodiscard]] std::vector<Miss> take_wanted() { return std::exchange(wanted_, {}); }
  /// For the control thread: nobody will translate this.
  void refuse(const Miss& miss);
  /// For the control thread: what was refused from `first` to `last` may be asked for again.
  void forgive(std::uint64_t first, std::uint64_t last);

  /// Has chains of one piece in flight, several in a row: what it knows of the ledger need not be
  /// read anew after each look at shared memory.
  class Singles;

  std::mutex lock;
  /// The ring waits for a translation, and looks again when it is kicked.
  std::atomic<bool> waiting = false;

 private:
  /// Small, because a burst goes through as many of them as it has chains, and of three words, for
  /// the compiler would write field by field.
  class Chain {
   public:
    void put(const Piece& first, bool more) {
      address_ = first.address;
      begin_ = first.begin;
      rest_.store(first.bytes | (first.writable ? writable : 0) | (more ? with_more : 0),
                  std::memory_order_relaxed);
    }
    /// It is not in flight.
    void put_nothing() { rest_.store(0, std::memory_order_release); }
    /// Of no bytes, if it is not in flight.
    [[nodiscard]] Piece first() const {
      const std::uint64_t rest = rest_.load(std::memory_order_acquire);
      return {address_, begin_, static_cast<std::uint32_t>(rest), (rest & writable) != 0};
    }
    [[nodiscard]] bool has_more() const {
      return (rest_.load(std::memory_order_relaxed) & with_more) != 0;
    }

   private:
    static constexpr std::uint64_t writable = std::uint64_t{1} << 32;
    static constexpr std::uint64_t with_more = std::uint64_t{1} << 33;

    GuestAddress address_{};
    std::byte* begin_ = nullptr;
    std::atomic<std::uint64_t> rest_ = 0;  // of its first piece the bytes, below two flags
  };
  std::vector<Chain> chains_;               // by head
  std::vector<std::vector<Piece>> pieces_;  // the same, of those that have more than one: all
  std::vector<Piece> areas_;
  std::vector<Mapping> gathered_;
  std::vector<Piece> noted_;

  std::vector<Miss> wanted_;
  std::vector<Miss> refused_;
  std::uint32_t in_vain_ = 0;  // misses since a chain was kept
};

class Ledger::Singles {
 public:
  explicit Singles(Ledger& ledger) : ledger_(ledger), chains_(ledger.chains_.data()) {}
  void keep(std::uint16_t head, const Piece& piece) {
    chains_[head].put(piece, false);
    ledger_.in_vain_ = 0;
  }

 private:
  Ledger& ledger_;
  Chain* const chains_;
};

}  // namespace vhost
