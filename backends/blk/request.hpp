#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "backends/blk/disk.hpp"
#include "backends/blk/virtio_blk.hpp"
#include "libvhost/wire/bytes.hpp"

/*
 * From a chain's bytes to a request the disk can carry out (VIRTIO 1.3, 5.2.6).
 *
 * A chain is bytes the driver wrote for us, then room for our answer; the status is the last byte
 * of that room. Where a descriptor ends means nothing (2.7.4): header, segments and status may
 * share pieces with data, or be split over several.
 *
 * The hard thing: the guest can rewrite those bytes while we look. Header and segments are copied
 * out once and only the copy is checked and used; data is never looked at here.
 *
 * parse() refuses before anything is done: after it, every range lies inside the disk, is made of
 * whole sectors and may be changed if the request changes it. A request of several segments is
 * refused as a whole.
 *
 * Thread: the worker. Nothing allocates, nothing is a system call.
 */
namespace blk {

/// Guest bytes that come in pieces. The pieces are not shown before the fixed parts at either end
/// have been taken off, so that nobody can mistake a piece for a field.
class GuestBytes {
 public:
  /// Keeps and shortens `pieces`, in place.
  explicit GuestBytes(std::span<iovec> pieces) : pieces_(pieces) {
    for (const iovec& piece : pieces_) size_ += piece.iov_len;
  }

  /// Bytes left.
  [[nodiscard]] std::uint64_t size() const { return size_; }

  /// Takes a T off the front, by copy. Nothing, and nothing taken, if fewer bytes are left.
  template <vhost::Wire T>
  [[nodiscard]] std::optional<T> pop_front() {
    if (size_ < sizeof(T)) return std::nullopt;
    std::array<std::byte, sizeof(T)> bytes;
    pop_into(bytes);
    return vhost::read_once<T>(bytes);  // its fence is what makes one read of the copying above
  }

  /// Takes the last byte off the back; null if there is none.
  [[nodiscard]] std::byte* pop_back() {
    if (size_ == 0) return nullptr;
    while (pieces_.back().iov_len == 0) pieces_ = pieces_.first(pieces_.size() - 1);
    iovec& piece = pieces_.back();
    --piece.iov_len;
    --size_;
    std::byte* const last = static_cast<std::byte*>(piece.iov_base) + piece.iov_len;
    if (piece.iov_len == 0) pieces_ = pieces_.first(pieces_.size() - 1);
    return last;
  }

  /// Copies `from` to the front of what is left, as much as fits; returns that number of bytes.
  std::size_t fill_front(std::span<const std::byte> from) const {
    std::size_t done = 0;
    for (const iovec& piece : pieces_) {
      const std::size_t part = std::min(piece.iov_len, from.size() - done);
      if (part == 0) continue;
      std::memcpy(piece.iov_base, from.data() + done, part);
      done += part;
    }
    return done;
  }

  [[nodiscard]] std::span<const iovec> pieces() const { return pieces_; }

 private:
  /// Needs bytes.size() <= size_.
  void pop_into(std::span<std::byte> bytes) {
    for (std::size_t have = 0; have < bytes.size();) {
      iovec& piece = pieces_.front();
      const std::size_t part = std::min(piece.iov_len, bytes.size() - have);
      if (part > 0) std::memcpy(bytes.data() + have, piece.iov_base, part);
      have += part;
      piece = {static_cast<std::byte*>(piece.iov_base) + part, piece.iov_len - part};
      if (piece.iov_len == 0) pieces_ = pieces_.subspan(1);
    }
    size_ -= bytes.size();
  }

  std::span<iovec> pieces_;
  std::uint64_t size_ = 0;
};

enum class Op : std::uint8_t { read, write, flush, discard, write_zeroes, get_id, other };

/// One range to discard or to zero; never empty, inside the disk.
struct Range {
  std::uint64_t offset_bytes;
  std::uint64_t length_bytes;
  bool unmap;  ///< write zeroes: the space may be given back
};

/// A request the disk can carry out as it stands.
struct Request {
  Op op = Op::other;
  std::uint64_t offset_bytes = 0;  ///< read and write
  std::uint64_t length_bytes = 0;  ///< read and write: of `data`, a multiple of 512, not 0
  std::span<const iovec> data;     ///< read and write; pieces of the chain, any size and number
  std::byte* status = nullptr;     ///< null: the driver left no room for an answer
  std::uint64_t room_bytes = 0;    ///< what the driver gave us to write, with the status
  std::uint32_t id_bytes = 0;      ///< get_id: copied
  std::uint32_t range_count = 0;   ///< discard and write_zeroes; not 0 if there is work to do
  std::array<Range, max_segments> range_storage;

  [[nodiscard]] std::span<const Range> ranges() const {
    return std::span(range_storage).first(range_count);
  }
  /// Of the data, or of all ranges; 0 for what has neither.
  [[nodiscard]] std::uint64_t total_bytes() const {
    std::uint64_t bytes = length_bytes;
    for (const Range& range : ranges()) bytes += range.length_bytes;
    return bytes;
  }
};

/// Makes a request of a chain: `readable` is what the driver wrote, `writable` our room.
///
/// Nothing: `request` is for the storage. A status: there is nothing (more) to do, answer with it
/// at once. A get_id is answered here, its text copied into the room. A request of no bytes, or of
/// ranges that are all empty, is done when it is asked for.
///
/// With `request.status` null there is nowhere to answer; the chain is given back with length 0.
[[nodiscard]] std::optional<Status> parse(GuestBytes readable, GuestBytes writable,
                                          const Disk& disk, Request& request);

/// The length for the used ring: bytes written for the driver without a gap from the first of its
/// room on (2.7.8.2); the status is the last byte, so it counts only if all before it is written.
[[nodiscard]] std::uint32_t used_length(const Request& request, Status status);

}  // namespace blk
