#include "tests/integration/guest.hpp"

#include <cstring>

namespace integration {

using vhost::frontend::Poll;
using vhost::frontend::Wake;

namespace {

constexpr milliseconds patience = milliseconds(10000) * (sanitized ? 3 : 1);

std::uint64_t word(std::uint64_t seed, std::size_t index) {
  return (seed * 0x9e37'79b9'7f4a'7c15 + 1) ^ (index * 0xbf58'476d'1ce4'e5b9);
}

}  // namespace

void fill(std::span<std::byte> bytes, std::uint64_t seed) {
  for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const std::uint64_t value = word(seed, i / 8);
    std::memcpy(bytes.data() + i, &value, sizeof value);
  }
}

std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed) {
  std::vector<std::byte> made(bytes);
  fill(made, seed);
  return made;
}

bool holds(std::span<const std::byte> bytes, std::uint64_t seed) {
  for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const std::uint64_t value = word(seed, i / 8);
    if (std::memcmp(bytes.data() + i, &value, sizeof value) != 0) return false;
  }
  return true;
}

std::unique_ptr<SharedMemory> Guest::with_region(std::size_t bytes) {
  auto memory = std::make_unique<SharedMemory>();
  must(memory->add_region(bytes));
  return memory;
}

bool Guest::reads(std::uint64_t first_sector, std::uint64_t seed, std::size_t bytes) {
  std::vector<std::byte> content(bytes);
  must(disk_->read(first_sector, content));
  return holds(content, seed);
}

BlkStatus Guest::perform(std::span<const Segment> readable, std::span<const Segment> writable,
                         std::size_t queue) {
  std::byte* status = nullptr;
  for (const Segment& piece : writable) {
    if (piece.length_bytes != 0) status = &at(piece.guest_address + piece.length_bytes - 1);
  }
  if (status != nullptr) *status = static_cast<std::byte>(BlkStatus::untouched);

  auto& ring = disk_->device().queue(queue).ring();
  if (!ring.add(readable, writable, 0)) throw std::runtime_error("the chain does not fit");
  disk_->device().queue(queue).submit();
  vhost::frontend::Completion completion;
  const Wake wake = disk_->device().wait(queue, patience);
  if (wake != Wake::used || ring.poll(completion) != Poll::done) {
    throw std::runtime_error("the chain did not come back (" +
                             std::to_string(static_cast<int>(wake)) + ")");
  }
  used_length_ = completion.written_bytes;
  return status == nullptr ? BlkStatus::untouched : static_cast<BlkStatus>(*status);
}

std::byte& Guest::at(std::uint64_t guest_address) {
  for (const auto& region : memory_->regions()) {
    const std::uint64_t offset = guest_address - (region ? region->guest_address() : 0);
    if (region && offset < region->bytes().size()) return region->bytes()[offset];
  }
  throw std::runtime_error("no such guest address");
}

Load::Load(Guest& guest, const Shape& shape)
    : guest_(guest), shape_(shape), slots_(shape.depth), state_(shape.seed * 2654435761U + 1) {
  for (Slot& slot : slots_) {
    slot.buffer = guest.allocate(shape.block_bytes + shape.misalignment);
    slot.data = slot.buffer.data + shape.misalignment;
    slot.segment = slot.buffer.segment(shape.misalignment, shape.block_bytes);
  }
}

Load::~Load() {
  for (const Slot& slot : slots_) guest_.memory().release(slot.buffer);
}

std::uint32_t Load::random() {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 17;
  state_ ^= state_ << 5;
  return state_;
}

void Load::start(std::uint16_t index) {
  Slot& slot = slots_[index];
  const std::uint64_t blocks_each = shape_.blocks / shape_.depth;
  slot.block = index * blocks_each + random() % blocks_each;
  slot.writing = !written_.contains(slot.block) || random() % 2 == 0;
  slot.seed = (std::uint64_t{shape_.seed} << 40) + next_seed_++;
  const std::span<std::byte> bytes(slot.data, shape_.block_bytes);
  fill(bytes, slot.writing ? slot.seed : 0);
  const bool sent =
      guest_->queue(shape_.queue)
          .submit({
              .type = slot.writing ? BlkType::write : BlkType::read,
              .sector = shape_.first_sector + slot.block * (shape_.block_bytes / sector),
              .data = std::span(&slot.segment, 1),
              .cookie = index,
          });
  if (!sent) throw std::runtime_error("the load does not fit into its queue");
  slot.busy = true;
  ++in_flight_;
}

void Load::submit() {
  for (std::uint16_t index = 0; index < slots_.size(); ++index) {
    if (!slots_[index].busy) start(index);
  }
  guest_->queue(shape_.queue).kick();
}

void Load::finish(std::uint16_t index, BlkStatus status) {
  Slot& slot = slots_[index];
  if (!slot.busy) throw std::runtime_error("a request came back twice");
  slot.busy = false;
  --in_flight_;
  completed.fetch_add(1, std::memory_order_relaxed);
  if (status != BlkStatus::ok) {
    ++failed;
    written_.erase(slot.block);
    if (tolerant_) return;
    throw std::runtime_error("a request of the load ended with status " +
                             std::to_string(static_cast<int>(status)));
  }
  if (slot.writing) {
    written_[slot.block] = slot.seed;
  } else if (!holds(std::span(slot.data, shape_.block_bytes), written_.at(slot.block))) {
    throw std::runtime_error("block " + std::to_string(slot.block) + " was read wrong");
  }
}

bool Load::reap(milliseconds time) {
  auto& queue = guest_->queue(shape_.queue);
  bool any = false;
  for (int look = 0; look < 2; ++look) {
    vhost::frontend::BlkCompletion completion;
    Poll answer = Poll::empty;
    while ((answer = queue.poll(completion)) == Poll::done) {
      finish(static_cast<std::uint16_t>(completion.cookie), completion.status);
      any = true;
    }
    if (answer == Poll::broken) throw std::runtime_error(queue.queue().ring().broken_because());
    if (any || time.count() == 0 || look == 1) break;
    if (!queue.queue().wait(time)) break;
  }
  return any;
}

void Load::settle() {
  while (in_flight_ > 0) {
    if (!reap(patience)) throw std::runtime_error("requests did not come back");
  }
}

void Load::run(const std::atomic<bool>& stop) {
  while (!stop.load(std::memory_order_relaxed)) {
    submit();
    if (!reap(patience)) throw std::runtime_error("requests did not come back");
  }
  settle();
}

void Load::run(std::uint64_t requests) {
  const std::uint64_t target = completed + requests;
  while (completed < target) {
    submit();
    if (!reap(patience)) throw std::runtime_error("requests did not come back");
  }
  settle();
}

void Load::verify() {
  for (const auto& [block, seed] : written_) {
    Slot& slot = slots_.front();
    fill(std::span(slot.data, shape_.block_bytes), 0);
    const bool sent = guest_->queue(shape_.queue)
                          .submit({
                              .type = BlkType::read,
                              .sector = shape_.first_sector + block * (shape_.block_bytes / sector),
                              .data = std::span(&slot.segment, 1),
                          });
    if (!sent) throw std::runtime_error("the queue is full");
    slot.busy = true;
    slot.writing = false;
    slot.block = block;
    ++in_flight_;
    guest_->queue(shape_.queue).kick();
    settle();
  }
}

}  // namespace integration
