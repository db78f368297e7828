#include "libvhost/frontend/net_queue.hpp"

#include <algorithm>

namespace vhost::frontend {
namespace {

constexpr std::size_t page_bytes = 4096;

/// One buffer as the descriptors of its chain.
std::vector<Segment> cut(Segment buffer, const NetQueueOptions& options) {
  std::vector<Segment> parts;
  const std::uint32_t usual =
      options.descriptor_bytes == 0 ? buffer.length_bytes : options.descriptor_bytes;
  std::uint32_t next = options.header_apart ? options.header_bytes : usual;
  while (buffer.length_bytes > 0) {
    const std::uint32_t bytes = std::min(next, buffer.length_bytes);
    parts.push_back({buffer.guest_address, bytes});
    buffer = {buffer.guest_address + bytes, buffer.length_bytes - bytes};
    next = usual;
  }
  return parts;
}

}  // namespace

void NetFrame::copy_to(std::span<std::byte> to) const {
  for (const NetPiece& piece : pieces) {
    const auto part = piece.bytes.first(std::min(piece.bytes.size(), to.size()));
    std::ranges::copy(part, to.begin());
    to = to.subspan(part.size());
  }
}

NetQueue::NetQueue(SharedMemory& memory, Queue& to_guest, Queue& from_guest,
                   const NetQueueOptions& options)
    : memory_(&memory),
      to_guest_(&to_guest),
      from_guest_(&from_guest),
      header_bytes_(options.header_bytes),
      buffer_bytes_(options.buffer_bytes),
      mergeable_(options.mergeable),
      stride_((options.buffer_bytes + line_bytes - 1) / line_bytes * line_bytes),
      slots_(from_guest.ring().size()) {
  free_.reserve(slots_.size());
  for (std::size_t slot = slots_.size(); slot > 0; --slot) {
    free_.push_back(static_cast<std::uint16_t>(slot - 1));
  }
}

NetQueue::NetQueue(NetQueue&& other) noexcept = default;

NetQueue::~NetQueue() {
  if (slots_.empty()) return;  // moved from
  for (const Buffer& area : {room_, lines_}) {
    if (area.data != nullptr) memory_->release(area);
  }
}

Result<NetQueue> NetQueue::create(SharedMemory& memory, Queue& to_guest, Queue& from_guest,
                                  const NetQueueOptions& options) {
  if (options.buffer_bytes < sizeof(NetHeader)) {
    return fail(Fault::operator_, "a receive buffer needs room for a header: 12 bytes, not " +
                                      std::to_string(options.buffer_bytes));
  }
  NetQueue made(memory, to_guest, from_guest, options);
  auto lines = memory.allocate(made.slots_.size() * line_bytes, line_bytes);
  if (!lines) return std::unexpected(lines.error());
  made.lines_ = *lines;
  if (auto placed = made.place_buffers(options); !placed) return std::unexpected(placed.error());
  return made;
}

Result<void> NetQueue::place_buffers(const NetQueueOptions& options) {
  AnyDriverRing& ring = to_guest_->ring();
  const std::size_t each = cut({0, buffer_bytes_}, options).size();
  const std::size_t count = options.buffers != 0 ? options.buffers : ring.size() / each;
  auto room = memory_->allocate(std::max<std::size_t>(count, 1) * stride_, page_bytes);
  if (!room) return std::unexpected(room.error());
  room_ = *room;
  for (std::size_t i = 0; i < count; ++i) {
    const auto parts = cut(room_.segment(i * stride_, buffer_bytes_), options);
    const auto head = ring.place({}, parts, i);
    if (!head) break;
    heads_.push_back(*head);
  }
  held_.assign(heads_.size(), 0);
  if (count > 0 && heads_.size() == count) return {};
  return fail(Fault::operator_, "a ring of " + std::to_string(ring.size()) +
                                    " descriptors has no room for " +
                                    std::to_string(std::max<std::size_t>(count, 1)) +
                                    " receive buffers of " + std::to_string(each) + " each");
}

void NetQueue::post() {
  for (std::size_t i = 0; i < heads_.size(); ++i) {
    if (held_[i] == 0) std::ignore = to_guest_->ring().offer(heads_[i]);  // the device may have it
  }
  to_guest_->submit();
}

/// The buffers of a frame behind its first. The device shows all of them at once, and fills all
/// but the last (VIRTIO 1.3, 5.1.6.4.1).
Poll NetQueue::receive_rest(NetFrame& frame) {
  const std::uint16_t buffers = frame.header.num_buffers;
  if (buffers == 0 || buffers > heads_.size()) {
    return broke(frame, "the device says that a frame has no buffers, or more than there are");
  }
  while (frame.pieces.size() < buffers) {
    const NetPiece& last = frame.pieces.back();
    const bool first = frame.pieces.size() == 1;
    if (last.bytes.size() + (first ? header_bytes_ : 0) != buffer_bytes_) {
      return broke(frame, "the device left room in a buffer that is not the frame's last");
    }
    Completion used;
    const Poll answer = to_guest_->ring().poll(used);
    if (answer == Poll::empty) {
      return broke(frame, "the device showed a frame before all of its buffers");
    }
    if (answer == Poll::broken) return broke(frame, to_guest_->ring().broken_because());
    if (used.written_bytes == 0 || used.written_bytes > buffer_bytes_) {
      return broke(frame, "the device wrote nothing, or more than the buffer, into one of several");
    }
    const auto buffer = static_cast<std::uint16_t>(used.cookie);
    frame.pieces.push_back({{buffer_data(buffer), used.written_bytes}, buffer});
    held_[buffer] = true;
    frame.length += used.written_bytes;
  }
  return Poll::done;
}

Poll NetQueue::broke(NetFrame& frame, const char* reason) {
  for (const NetPiece& piece : frame.pieces) held_[piece.buffer] = false;
  frame.pieces.clear();
  broken_ = reason;
  return Poll::broken;
}

bool NetQueue::send(const NetHeader& header, std::span<const Segment> frame, std::uint64_t cookie) {
  if (free_.empty()) return false;
  const std::size_t line = std::size_t{free_.back()} * line_bytes;
  std::memcpy(lines_.data + line, &header, header_bytes_);
  readable_.assign(1, lines_.segment(line, header_bytes_));
  readable_.insert(readable_.end(), frame.begin(), frame.end());
  const auto slot = fill(readable_, cookie, true);
  if (slot) start(*slot);
  return slot.has_value();
}

/// Takes the free slot on top, whose line send() has written, and places its chain.
std::optional<std::uint16_t> NetQueue::fill(std::span<const Segment> whole, std::uint64_t cookie,
                                            bool once) {
  if (free_.empty()) return std::nullopt;
  const std::uint16_t slot = free_.back();
  const auto head =
      from_guest_->ring().place(whole, {}, slot, once ? Placing::once : Placing::kept);
  if (!head) return std::nullopt;
  free_.pop_back();
  slots_[slot] = {cookie, *head, once, true};
  return slot;
}

bool NetQueue::drop(std::uint16_t slot) {
  if (slot >= slots_.size() || !slots_[slot].used || slots_[slot].once ||
      !from_guest_->ring().remove(slots_[slot].head)) {
    return false;
  }
  free_slot(slot);
  return true;
}

void NetQueue::forget() {
  broken_ = nullptr;
  for (std::uint16_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].used && slots_[slot].once) free_slot(slot);
  }
}

}  // namespace vhost::frontend
