/*
 * How the engine parts with requests that are not done.
 *
 * A request has at most one operation under way. That one is cancelled, and awaited: what is still
 * in a queue of io_uring's ends at once, unmoved, and what the block layer has ends as ever. If it
 * was the last that its request needed, and went well, the request is done. Any other is left as
 * it is: an error might be that of the cancelling, and a part that was written will be written
 * once more.
 */
#include <algorithm>

#include "backends/blk/file_engine.hpp"

namespace blk {

void FileEngine::leave(std::span<Slot* const> slots) {
  for (Slot* const slot : slots) {
    Stage& stage = slot->progress.stage;
    stage = stage == Stage::syncing ? Stage::leaving_syncing : Stage::leaving_moving;
    uring_.cancel(reinterpret_cast<Tag>(slot));
  }
  const auto not_begun = std::erase_if(waiting_for_bounce_, [](const Slot* slot) {
    return slot->progress.stage == Stage::leaving_moving;
  });
  leaving_ += slots.size() - not_begun;
}

std::optional<Status> FileEngine::complete_leaving(Slot& slot, int result) {
  --leaving_;
  const bool whole = result >= 0 && makes_whole(slot, static_cast<std::uint64_t>(result));
  if (whole && slot.request.op == Op::read && !slot.progress.bounce.empty()) {
    scatter(slot, static_cast<std::uint64_t>(result));
  }
  return_bounce(slot);
  return whole ? std::optional(Status::ok) : std::nullopt;
}

/// Whether nothing is left to do behind an operation that ended with this result.
bool FileEngine::makes_whole(const Slot& slot, std::uint64_t result) const {
  const Request& request = slot.request;
  const Progress& progress = slot.progress;
  if (progress.stage == Stage::leaving_syncing) return true;
  if (request.op == Op::read || request.op == Op::write) {
    return progress.done_bytes + result == request.length_bytes;
  }
  // Of the ranges the last one, all of it, and if they have to be durable, not even that.
  const std::uint64_t length = request.ranges()[progress.range].length_bytes;
  const bool by_writing = progress.part_bytes != 0;
  return progress.range + 1 == request.range_count &&
         (!by_writing || progress.done_bytes + result == length) &&
         !durable_writes_.load(std::memory_order_relaxed);
}

}  // namespace blk
