#pragma once
#include <algorithm>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "libvhost/memory/dirty_log.hpp"
#include "libvhost/memory/iotlb.hpp"
#include "libvhost/memory/ledger.hpp"
#include "libvhost/memory/memory_map.hpp"
#include "libvhost/ring/ring_setup.hpp"

/*
 * How a ring reaches the guest's memory.
 *
 * In the plain case that is a look-up in the memory map, and nothing else happens. While dirty
 * pages are logged or an IOMMU translates, the view is `tracked`: what each chain in flight uses is
 * in the ring's ledger, from its pop until it is given back. Chains are read in bursts, so a reader
 * takes the ledger's lock once for several (Reading).
 *
 * Where a translation is missing the view waits(): it was asked for, pop() answers that there is
 * nothing, and the ring asks for no kicks, until another translation came. Whoever adds one kicks
 * the ring. Asking takes long, so what comes behind it in the ring is asked for at once (expect()),
 * and while translations are missing now and then (is_cold()) also before it is needed.
 *
 * Look-ups go to the IOTLB's table once a page; the view remembers what it found there.
 *
 * Thread: the worker that owns the ring.
 */
namespace vhost {

/// A device does not know where in a chain it has written.
inline constexpr std::uint32_t everywhere = UINT32_MAX;

class GuestView {
 public:
  explicit GuestView(const RingSetup& setup);

  /// Another memory map. What it is logged in and translated by may differ from the last one's only
  /// while no chain is in flight. The ring's areas must be looked up again.
  void move_to(std::shared_ptr<const MemoryMap> memory);

  /// Bytes of the ring's own. Empty: they are not there, or they are not in one piece, and an IOMMU
  /// is not the reason for it.
  [[nodiscard]] std::span<std::byte> area(FrontendAddress address, std::uint64_t bytes,
                                          Access access);

  [[nodiscard]] bool tracked() const { return tracked_; }
  [[nodiscard]] bool logged() const { return log_ != nullptr; }
  /// A chain cannot be read before another translation came.
  [[nodiscard]] bool waits() const {
    return waiting_ && waited_generation_ == iotlb_->generation();
  }

  /// While chains are read and kept: nobody takes a translation away, from hold() on.
  class [[nodiscard]] Reading {
   public:
    explicit Reading(GuestView& view) : view_(&view) {}
    void hold() {
      if (view_->iotlb_ == nullptr || lock_.owns_lock()) return;  // nobody looks on, or it is held
      lock_ = std::unique_lock(view_->ledger_->lock);
      view_->outdate_hint();
    }

   private:
    GuestView* view_;
    std::unique_lock<std::mutex> lock_;
  };
  [[nodiscard]] Reading hold() {
    Reading reading(*this);
    reading.hold();
    return reading;
  }

  // Only while a Reading holds.

  /// The longest run of bytes, at most `length`, that starts at `address`. Empty: it is not the
  /// guest's to name, unless missed() says that nobody knows yet.
  [[nodiscard]] std::span<std::byte> prefix(GuestAddress address, std::uint64_t length,
                                            Access access) {
    if (iotlb_ == nullptr) return memory_->prefix(address, length, hint_.place);
    return translate(address, length, access);
  }
  /// Copies bytes that may lie in several places. False: as an empty prefix().
  [[nodiscard]] bool copy_from(GuestAddress address, std::span<std::byte> to);
  /// A translation was missing, and is asked for.
  [[nodiscard]] bool missed() const { return missed_; }
  /// Where the last look-up was, and what may be done there.
  struct Hint {
    MemoryMap::Hint place;
    Access access = Access::both;

    /// As MemoryMap::Hint::find(). Tests one bit: the access that is wanted is not both.
    [[nodiscard]] std::byte* find(GuestAddress address, std::uint64_t length, bool writable) const {
      const bool permitted = ((std::to_underlying(access) >> (writable ? 1 : 0)) & 1) != 0;
      return permitted ? place.find(address, length) : nullptr;
    }
  };
  [[nodiscard]] const Hint& hint() const { return hint_; }

  /// A chain begins to be read.
  void begin() {
    if (!tracked_) return;
    ledger_->forget();
    missed_ = false;
  }
  /// A piece of the chain that is being read.
  void note(const Ledger::Piece& piece) {
    if (tracked_) ledger_->note(piece);
  }
  /// The chain that was read is in flight.
  void keep(std::uint16_t head) {
    if (tracked_) ledger_->keep(head);
  }
  /// For chains of one piece, where the view is tracked.
  [[nodiscard]] Ledger::Singles keep_singles() { return Ledger::Singles(*ledger_); }

  /// Translations have been missing lately: what is in the ring is worth to be asked for before it
  /// is needed. Each time that this is asked, it is so for one chain less.
  [[nodiscard]] bool is_cold() {
    if (cold_ == 0) return false;
    --cold_;
    return true;
  }
  /// While this is there, what is missing is asked for, and nothing waits for it.
  class [[nodiscard]] Expecting {
   public:
    explicit Expecting(GuestView& view)
        : view_(view), before_(std::exchange(view.expecting_, true)) {}
    ~Expecting() { view_.expecting_ = before_; }
    Expecting(const Expecting&) = delete;
    Expecting& operator=(const Expecting&) = delete;

   private:
    GuestView& view_;
    const bool before_;
  };
  [[nodiscard]] bool asks_no_more() const { return ledger_->wants_much(); }
  /// Asks for what is missing of a buffer. False: no more can be asked for just now.
  bool expect(GuestAddress address, std::uint64_t length, Access access);

  // At any time.

  [[nodiscard]] bool translated() const { return iotlb_ != nullptr; }
  /// That chain is not in flight any more.
  void take_back(std::uint16_t head) {
    if (tracked_) ledger_->end(head);
  }
  /// The device is done with it, and has written nothing behind the first `touched_bytes` of what
  /// it may write to. They are marked at log_writes().
  void give_back(std::uint16_t head, std::uint32_t touched_bytes) {
    if (!tracked_) return;
    if (log_ != nullptr && touched_bytes != 0) wrote_chain(head, touched_bytes);
    ledger_->end(head);
  }
  /// The ring wrote to an area of its own. Marked at log_writes().
  void wrote(const std::byte* at, std::uint64_t bytes);
  void wrote_at(std::uint64_t guest_physical, std::uint64_t bytes);
  /// For chains, before they are shown as used; for the ring's own areas, afterwards.
  void log_writes() { marks_.flush(); }

 private:
  /// What a look-up in the IOTLB found, good for one version of it.
  struct Known {
    std::uint64_t version = 0;
    Iotlb::Place place;
  };
  /// By the page of the address; a power of two of them.
  static constexpr std::size_t pages_known = 256;

  /// A piece of an area that is mapped side by side with others for this ring.
  struct Gathered {
    std::span<std::byte> here;
    const std::byte* memory;  // where the map has it
  };

  void outdate_hint() {
    const std::uint64_t version = iotlb_->version();
    if (std::exchange(hint_version_, version) != version) hint_ = {};
  }
  [[nodiscard]] std::span<std::byte> translate(GuestAddress address, std::uint64_t length,
                                               Access access) {
    if (permits(hint_.access, access)) {
      if (std::byte* const there = hint_.place.find(address, length)) return {there, length};
    }
    const std::uint64_t at = std::to_underlying(address);
    const Known& known = known_[at / smallest_page_bytes % pages_known];
    const Iotlb::Place& place = known.place;
    const std::uint64_t offset = at - place.first;
    if (known.version != iotlb_->version() || offset >= place.bytes ||
        !permits(place.access, access)) {
      return look_up(address, length, access);
    }
    hint_ = {{place.first, {place.begin, place.bytes}}, place.access};
    return {place.begin + offset, std::min(length, place.bytes - offset)};
  }
  [[nodiscard]] std::span<std::byte> look_up(GuestAddress address, std::uint64_t length,
                                             Access access);
  [[nodiscard]] std::span<std::byte> gather(GuestAddress start,
                                            std::span<const std::span<std::byte>> pieces);
  void wrote_chain(std::uint16_t head, std::uint32_t touched_bytes);
  void mark(const std::byte* at, std::uint64_t bytes) {
    marks_.add(memory_->guest_physical(at, log_hint_), bytes);
  }

  std::shared_ptr<const MemoryMap> memory_;
  Iotlb* iotlb_ = nullptr;   // the map's
  DirtyLog* log_ = nullptr;  // the map's
  DirtyMarks marks_;
  Hint hint_;
  std::uint64_t hint_version_ = 0;  // of the IOTLB
  MemoryMap::Hint log_hint_;
  bool tracked_ = false;
  bool waiting_ = false;
  bool missed_ = false;
  bool expecting_ = false;
  bool iova_;
  std::uint16_t size_;
  std::uint32_t cold_ = 0;
  std::uint64_t waited_generation_ = 0;
  std::shared_ptr<Ledger> ledger_;
  std::vector<Known> known_;  // where an IOMMU translates
  std::vector<Gathered> gathered_;
};

}  // namespace vhost
