#pragma once
#include <sys/uio.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "libvhost/ring/guest_view.hpp"

namespace vhost {

/// One buffer of a chain, whatever ring layout it came from.
struct Desc {
  GuestAddress address{};
  std::uint32_t length = 0;
  bool writable = false;  ///< by the device
};

enum class Step : std::uint8_t { more, last, corrupt };

/// Yields the descriptors of one chain in order. To find the next one is all that a ring layout
/// knows; every check that the layouts share is in read_chain().
template <class S>
concept DescSource = requires(S source, Desc& out) {
  { source.next(out) } -> std::same_as<Step>;
};

/// An indirect table that does not lie in one region is read entry by entry.
template <Wire D>
[[nodiscard]] bool read_scattered(GuestView& view, GuestAddress table, std::size_t index, D& out) {
  std::array<std::byte, sizeof(D)> bytes;
  if (!view.copy_from(table + index * sizeof(D), bytes)) return false;
  out = read_once<D>(bytes.data());
  return true;
}

/// A chain's buffers, translated and checked. The caller gives it room for the pieces, once;
/// nothing is allocated when a chain is read.
class Chain {
 public:
  enum class Append : std::uint8_t { ok, no_room, misordered, too_long };

  Chain() = default;
  explicit Chain(std::span<iovec> room) : room_(room) {}

  /// What Ring::push() gives back to the driver.
  std::uint16_t head = 0;

  /// The pieces that the device reads, and behind them those that it writes; none is empty.
  [[nodiscard]] std::span<iovec> readable() const { return room_.first(readable_); }
  [[nodiscard]] std::span<iovec> writable() const {
    return room_.subspan(readable_, count_ - readable_);
  }

  [[nodiscard]] std::size_t room() const { return room_.size(); }

  void clear() {
    count_ = readable_ = 0;
    bytes_left_ = UINT32_MAX;
  }

  /// Adds one piece. A readable one behind a writable one is misordered (VIRTIO 2.7.4.2); more
  /// than 2^32 - 1 bytes are too long (2.7.5.2).
  [[nodiscard]] Append append(std::span<std::byte> bytes, bool writable) {
    if (!writable && readable_ < count_) return Append::misordered;
    if (bytes.size() > bytes_left_) return Append::too_long;
    if (count_ == room_.size()) return Append::no_room;
    bytes_left_ -= bytes.size();
    room_[count_++] = {bytes.data(), bytes.size()};
    readable_ += writable ? 0 : 1;
    return Append::ok;
  }

 private:
  std::span<iovec> room_;
  std::size_t count_ = 0;
  std::size_t readable_ = 0;
  std::size_t bytes_left_ = UINT32_MAX;
};

/// A chain of one buffer, which lies in one region and is not empty.
struct Single {
  std::byte* begin;
  std::uint32_t bytes;
  std::uint16_t head;  ///< as Chain::head
  bool writable;       ///< by the device
};

/// What came of reading one chain.
///   ready    it is in `chain`
///   corrupt  the driver broke the rules and the ring must stop: a buffer outside guest memory, a
///            misordered or oversized chain, or a loop (more than `limit` descriptors)
///   no_room  it is whole so far, but has more pieces than the chain has room for
///   waits    an address of it has no translation yet
enum class ReadChain : std::uint8_t { ready, corrupt, no_room, waits };

[[nodiscard]] constexpr Access access_of(const Desc& desc) {
  return desc.writable ? Access::write : Access::read;
}

/// Asks for all translations that are missing of the next descriptors of a chain, at most `most`,
/// as far as they can be read. False: that was not to its end.
template <DescSource S>
bool expect_chain(S& source, GuestView& view, std::size_t most) {
  const GuestView::Expecting expecting(view);
  for (std::size_t walked = 0; walked < most; ++walked) {
    Desc desc;
    const Step step = source.next(desc);
    if (step == Step::corrupt) return false;
    if (!view.expect(desc.address, desc.length, access_of(desc))) return false;
    if (step == Step::last) return true;
  }
  return false;
}

template <DescSource S>
[[nodiscard]] ReadChain read_chain(S source, GuestView& view, std::size_t limit, Chain& chain) {
  chain.clear();
  view.begin();
  const auto not_there = [&view] { return view.missed() ? ReadChain::waits : ReadChain::corrupt; };
  for (std::size_t walked = 0; walked < limit; ++walked) {
    Desc desc;
    const Step step = source.next(desc);
    if (step == Step::corrupt) return not_there();

    while (desc.length > 0) {  // more than once only where a buffer crosses regions
      const auto piece = view.prefix(desc.address, desc.length, access_of(desc));
      if (piece.empty()) {
        if (view.missed() && view.expect(desc.address, desc.length, access_of(desc)) &&
            step == Step::more) {
          (void)expect_chain(source, view, limit - walked);
        }
        return not_there();
      }
      const auto appended = chain.append(piece, desc.writable);
      if (appended == Chain::Append::no_room) return ReadChain::no_room;
      if (appended != Chain::Append::ok) return ReadChain::corrupt;
      const auto bytes = static_cast<std::uint32_t>(piece.size());
      view.note({desc.address, piece.data(), bytes, desc.writable});
      desc.address = desc.address + bytes;
      desc.length -= bytes;
    }
    if (step == Step::last) return ReadChain::ready;
  }
  return ReadChain::corrupt;
}

}  // namespace vhost
