#pragma once
#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "backends/blk/request.hpp"
#include "libvhost/ring/chain.hpp"

namespace blk {

class Queue;

/// What the operation under way is for.
enum class Stage : std::uint8_t {
  moving,           ///< data, or a range
  syncing,          ///< the fsync behind them, or of a flush
  leaving_moving,   ///< the same, and the request's last: what is not done then is left
  leaving_syncing,  ///< likewise
};

/// How far the storage has come with a request.
struct Progress {
  std::span<iovec> pieces;       ///< data not moved yet
  std::uint64_t done_bytes = 0;  ///< of the request, or of the range now in work
  std::uint32_t range = 0;       ///< the range now in work
  std::span<std::byte> bounce;   ///< a borrowed aligned buffer; empty if none is needed
  std::uint64_t part_bytes = 0;  ///< asked for by the operation under way
  bool zero_by_writing = false;  ///< the file system has no other way for this request
  std::uint32_t bounced = 0;     ///< parts that went through a bounce buffer
  Stage stage = Stage::moving;
};

/// Everything one request needs from its arrival to its answer.
struct Slot {
  static constexpr std::size_t inline_pieces = 32;

  std::array<iovec, inline_pieces> pieces;
  vhost::Chain chain{std::span(pieces)};
  Request request;
  Progress progress;
  Queue* queue = nullptr;
  std::uint64_t started_ns = 0;
  std::vector<iovec>* long_pieces = nullptr;  ///< lent by the queue for a long chain
};

/// A fixed set of slots: the bound on a queue's requests in flight, and their only storage.
///
/// The memory is reserved at once and used from the front, so a ring of a thousand descriptors
/// that never has more than two requests in flight touches two slots. Slots are not indexed by
/// descriptor: what a driver offers is no index of ours.
class Slots {
 public:
  explicit Slots(std::size_t count)
      : count_(count),
        storage_(static_cast<Slot*>(
            ::operator new[](count * sizeof(Slot), std::align_val_t{alignof(Slot)}))) {
    free_.reserve(count);
  }

  [[nodiscard]] Slot* acquire() {
    if (!free_.empty()) {
      Slot* const slot = free_.back();
      free_.pop_back();
      return slot;
    }
    if (made_ == count_) return nullptr;
    return new (&storage_.get()[made_++]) Slot;
  }
  void release(Slot& slot) { free_.push_back(&slot); }
  /// Those that were acquired and not released. It takes long.
  [[nodiscard]] std::vector<Slot*> in_use() const {
    std::vector<bool> in_use(made_, true);
    for (const Slot* const slot : free_)
      in_use[static_cast<std::size_t>(slot - storage_.get())] = false;
    std::vector<Slot*> slots;
    for (std::size_t i = 0; i < made_; ++i) {
      if (in_use[i]) slots.push_back(&storage_.get()[i]);
    }
    return slots;
  }

 private:
  struct Free {
    void operator()(Slot* slots) const {
      ::operator delete[](slots, std::align_val_t{alignof(Slot)});
    }
  };
  static_assert(std::is_trivially_destructible_v<Slot>, "slots are freed, not destroyed");

  std::size_t count_;
  std::size_t made_ = 0;
  std::unique_ptr<Slot, Free> storage_;
  std::vector<Slot*> free_;
};

}  // namespace blk
