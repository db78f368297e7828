#pragma once
#include <optional>

#include "backends/blk/slot.hpp"

namespace blk {

/// A disk that keeps nothing, for measuring everything but a disk: what is written is gone, and a
/// read leaves the guest's buffer as it was.
class NullEngine {
 public:
  [[nodiscard]] vhost::Result<void> prepare() { return {}; }

  [[nodiscard]] std::optional<Status> start(Slot&) { return Status::ok; }
  struct Done {
    Slot* slot;
    Status status;
  };
  [[nodiscard]] std::optional<Done> end_burst() { return std::nullopt; }
  [[nodiscard]] std::optional<Status> complete(Slot&, int) { return Status::ok; }
  void leave(std::span<Slot* const>) {}  // nothing is ever in flight
  [[nodiscard]] bool is_leaving() const { return false; }
};

}  // namespace blk
