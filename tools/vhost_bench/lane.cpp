#include "tools/vhost_bench/lane.hpp"

#include <algorithm>

namespace bench {

using namespace vhost::frontend;

Lane::Lane(const Plan& plan, BlkQueue& queue, std::uint64_t blocks, std::uint64_t first_slot,
           Book* book)
    : queue_(&queue),
      book_(book),
      slots_(plan.depth),
      turn_(plan.depth),
      block_bytes_(plan.block_bytes),
      sectors_per_block_(plan.block_bytes / sector_bytes),
      all_slots_(std::uint64_t{plan.queues} * plan.depth),
      first_slot_(first_slot),
      rounds_(std::min(blocks / all_slots_, std::uint64_t{1} << 32)),
      random_((plan.seed + first_slot) * 0x9e3779b97f4a7c15 | 1),
      read_percent_(plan.read_percent),
      sequential_(plan.pattern == Pattern::sequential),
      exposes_(!plan.whole_batches) {}

vhost::Result<Lane> Lane::create(const Plan& plan, BlkQueue& queue, SharedMemory& memory,
                                 std::uint64_t blocks, std::uint64_t first_slot, Book* book) {
  Lane lane(plan, queue, blocks, first_slot, book);
  if (lane.rounds_ == 0) {
    return vhost::fail(vhost::Fault::operator_,
                       "--span: the disk, or the part of it, has fewer blocks than requests are to "
                       "be in flight: lower --depth or --block-size");
  }
  if (auto done = lane.prepare(plan, memory); !done) return std::unexpected(done.error());
  return lane;
}

vhost::Result<void> Lane::prepare(const Plan& plan, SharedMemory& memory) {
  idle_.reserve(slots_.size());
  for (std::uint16_t index = 0; index < slots_.size(); ++index) {
    Slot& slot = slots_[index];
    auto buffer = memory.allocate(plan.block_bytes, 4096);
    if (!buffer) return std::unexpected(buffer.error());
    slot.data = buffer->data;
    const Segment data = buffer->segment();
    const auto place = [&](BlkType type) {
      return queue_->prepare({.type = type, .data = std::span(&data, 1), .cookie = index});
    };
    const auto read = read_percent_ > 0 ? place(BlkType::read) : std::uint16_t{0};
    const auto write = read_percent_ < 100 ? place(BlkType::write) : std::uint16_t{0};
    if (!read || !write) {
      return vhost::fail(vhost::Fault::operator_,
                         "--ring-size: too small for this --depth: leave it away");
    }
    slot.read = *read;
    slot.write = *write;
    idle_.push_back(index);
  }
  return {};
}

void Lane::check(const Slot& slot) {
  if (slot.writing) {
    book_->written(slot.block);
    return;
  }
  std::string verdict = book_->judge_read(slot.block, {slot.data, block_bytes_});
  if (verdict.empty()) return;
  ++counters_.mismatched;
  if (first_mismatch_.empty()) {
    first_mismatch_ = "block " + std::to_string(slot.block) + " " + verdict;
  }
}

}  // namespace bench
