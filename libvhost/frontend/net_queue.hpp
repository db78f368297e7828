#pragma once
#include <cstring>
#include <vector>

#include "libvhost/frontend/net_wire.hpp"
#include "libvhost/frontend/queue.hpp"

/*
 * Frames on one pair of queues. Directions are the guest's, who is us: send() uses the ring
 * from_guest (virtio calls it transmitq), receive() the ring to_guest (receiveq).
 *
 * Receiving: a fixed set of buffers of one size is placed in the ring once. receive() puts a frame
 * together from the buffers that the device used for it and lends them to the caller; give_back()
 * offers them again. Several frames may be out at a time.
 *
 * Sending: send() writes the virtio-net header into a line of its own and adds the caller's
 * segments. Programs that repeat frames prepare() chains that begin with their header; start()
 * then only offers them. poll_sent() tells what the device is done with.
 *
 * Nothing is shown to the device before kick(), which costs at most one kick for each ring.
 *
 * The device is not trusted: what it says of lengths and of num_buffers is held against our own
 * books. Where they disagree this direction is dead (Poll::broken, broken_because()) until the
 * device was detached and started anew; what is in a buffer is its word.
 *
 * Thread: the one that owns the pair. Two pairs share nothing.
 */
namespace vhost::frontend {

/// A part of a received frame, in a buffer of the pair.
struct NetPiece {
  std::span<std::byte> bytes;
  std::uint16_t buffer = 0;
};

/// A received frame. Use one again and again: its vector keeps its room.
struct NetFrame {
  NetHeader header{};
  std::vector<NetPiece> pieces;  ///< without the header
  std::uint32_t length = 0;      ///< of all pieces

  /// Copies the frame's bytes, of which `to` holds at most as many as it has.
  void copy_to(std::span<std::byte> to) const;
};

struct NetSent {
  std::uint64_t cookie = 0;
  std::uint16_t slot = 0;
};

struct NetQueueOptions {
  std::uint32_t header_bytes = sizeof(NetHeader);
  bool mergeable = false;  ///< num_buffers counts
  /// The header gets a descriptor of its own in each receive buffer: a legacy device may ask for
  /// that (VIRTIO 1.3, 5.1.6.6).
  bool header_apart = false;
  std::uint16_t buffers = 0;           ///< to receive into; 0: as many as the ring holds
  std::uint32_t buffer_bytes = 2048;   ///< of each, its header included
  std::uint32_t descriptor_bytes = 0;  ///< cuts buffers into descriptors of this size; 0: whole
};

class NetQueue {
 public:
  /// Takes buffers and headers from `memory`, which must outlive this, as must the queues.
  [[nodiscard]] static Result<NetQueue> create(SharedMemory& memory, Queue& to_guest,
                                               Queue& from_guest, const NetQueueOptions& options);
  NetQueue(NetQueue&& other) noexcept;
  NetQueue& operator=(NetQueue&&) = delete;
  ~NetQueue();

  // --- Receiving.

  /// The next frame; its buffers are the caller's until give_back(). What `frame` held before must
  /// have been given back.
  [[nodiscard]] Poll receive(NetFrame& frame) {
    frame.pieces.clear();
    if (broken_ != nullptr) return Poll::broken;
    Completion used;
    const Poll answer = to_guest_->ring().poll(used);
    if (answer != Poll::done) return answer;
    if (used.written_bytes < header_bytes_ || used.written_bytes > buffer_bytes_) {
      return broke(frame, "the device wrote less than a header or more than the buffer");
    }
    const auto buffer = static_cast<std::uint16_t>(used.cookie);
    std::byte* data = buffer_data(buffer);
    frame.header = read_once<NetHeader>(data);  // a legacy one is shorter; a buffer is not
    if (!mergeable_) frame.header.num_buffers = 1;
    frame.length = used.written_bytes - header_bytes_;
    frame.pieces.push_back({{data + header_bytes_, frame.length}, buffer});
    held_[buffer] = true;
    return frame.header.num_buffers == 1 ? Poll::done : receive_rest(frame);
  }
  /// Offers the frame's buffers to the device again. `frame` is then empty.
  void give_back(NetFrame& frame) {
    for (const NetPiece& piece : frame.pieces) {
      held_[piece.buffer] = false;
      to_guest_->ring().offer_raw(heads_[piece.buffer]);
    }
    frame.pieces.clear();
  }
  /// Why receive() says broken; null otherwise.
  [[nodiscard]] const char* broken_because() const {
    return broken_ != nullptr ? broken_ : to_guest_->ring().broken_because();
  }

  // --- Sending.

  /// Sends what the segments hold, behind this header. False: no room; poll_sent() first.
  [[nodiscard]] bool send(const NetHeader& header, std::span<const Segment> frame,
                          std::uint64_t cookie = 0);
  /// Places a chain that start() can send any number of times, one at a time: its slot. The
  /// segments hold header_bytes() of header, and then the frame.
  [[nodiscard]] std::optional<std::uint16_t> prepare(std::span<const Segment> whole,
                                                     std::uint64_t cookie = 0) {
    return fill(whole, cookie, false);
  }
  /// Sends a prepared chain, which must not be with the device.
  void start(std::uint16_t slot) { from_guest_->ring().offer_raw(slots_[slot].head); }
  /// Gives a prepared chain up. False while the device has it.
  bool drop(std::uint16_t slot);
  /// The next frame that the device is done with.
  [[nodiscard]] Poll poll_sent(NetSent& sent) {
    Completion used;
    const Poll answer = from_guest_->ring().poll(used);
    if (answer != Poll::done) return answer;
    sent.slot = static_cast<std::uint16_t>(used.cookie);
    sent.cookie = slots_[sent.slot].cookie;
    if (slots_[sent.slot].once) free_slot(sent.slot);
    return Poll::done;
  }

  /// Shows the device what was sent and given back, and kicks it where it wants to be.
  void kick() {
    from_guest_->submit();
    to_guest_->submit();
  }

  [[nodiscard]] std::uint32_t header_bytes() const { return header_bytes_; }
  [[nodiscard]] std::uint32_t buffer_bytes() const { return buffer_bytes_; }
  [[nodiscard]] std::uint16_t buffers() const { return static_cast<std::uint16_t>(heads_.size()); }
  [[nodiscard]] Queue& to_guest() { return *to_guest_; }
  [[nodiscard]] Queue& from_guest() { return *from_guest_; }

  // --- For NetDriver.

  /// Offers every buffer that is neither with the device nor with the caller.
  void post();
  /// The caller's cookie of a chain that Device::detach() returned from the ring from_guest.
  [[nodiscard]] std::uint64_t cookie(std::uint64_t slot) const { return slots_[slot].cookie; }
  /// After Device::detach(): slots are free again, and a broken pair is whole.
  void forget();

 private:
  static constexpr std::size_t line_bytes = 64;

  struct Slot {
    std::uint64_t cookie = 0;
    std::uint16_t head = 0;
    bool once = false;
    bool used = false;
  };
  NetQueue(SharedMemory& memory, Queue& to_guest, Queue& from_guest,
           const NetQueueOptions& options);
  [[nodiscard]] Result<void> place_buffers(const NetQueueOptions& options);
  [[nodiscard]] Poll receive_rest(NetFrame& frame);
  [[nodiscard]] Poll broke(NetFrame& frame, const char* reason);
  [[nodiscard]] std::optional<std::uint16_t> fill(std::span<const Segment> whole,
                                                  std::uint64_t cookie, bool once);
  void free_slot(std::uint16_t slot) {
    slots_[slot].used = false;
    free_.push_back(slot);
  }
  [[nodiscard]] std::byte* buffer_data(std::uint16_t buffer) const {
    return room_.data + std::size_t{buffer} * stride_;
  }

  SharedMemory* memory_;
  Queue* to_guest_;
  Queue* from_guest_;
  std::uint32_t header_bytes_;
  std::uint32_t buffer_bytes_;
  bool mergeable_;

  // Receiving, by buffer.
  Buffer room_;
  std::size_t stride_;
  std::vector<std::uint16_t> heads_;
  std::vector<std::uint8_t> held_;  // by the caller
  const char* broken_ = nullptr;

  // Sending, by slot.
  Buffer lines_;
  std::vector<Slot> slots_;
  std::vector<std::uint16_t> free_;  // of a fixed capacity
  std::vector<Segment> readable_;    // reused by send()
};

}  // namespace vhost::frontend
