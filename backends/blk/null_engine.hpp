#pragma once
#include <cstring>
#include <optional>

#include "backends/blk/slot.hpp"

namespace blk {

/// A disk that keeps nothing, for measuring everything but a disk: what is read is zeroes, what
/// is written is gone.
class NullEngine {
 public:
  [[nodiscard]] vhost::Result<void> prepare() { return {}; }

  [[nodiscard]] std::optional<Status> start(Slot& slot) {
    if (slot.request.op == Op::read) {
      for (const iovec& piece : slot.request.data) std::memset(piece.iov_base, 0, piece.iov_len);
    }
    return Status::ok;
  }
  [[nodiscard]] std::optional<Status> complete(Slot&, int) { return Status::ok; }
  [[nodiscard]] std::uint64_t take_bounced() { return 0; }
};

}  // namespace blk
