#pragma once
#include <array>
#include <cstdint>

#include "backends/blk/request.hpp"
#include "common/counter.hpp"
#include "common/histogram.hpp"

namespace blk {

/// What one queue has done since the daemon started. Written by the worker that owns the queue,
/// read by the control thread for the stats file.
struct QueueStats {
  static constexpr std::size_t ops = static_cast<std::size_t>(Op::other) + 1;

  struct PerOp {
    common::Counter requests;
    common::Counter bytes;        ///< of data that was moved, or of ranges
    common::Counter io_errors;    ///< answered VIRTIO_BLK_S_IOERR
    common::Counter unsupported;  ///< answered VIRTIO_BLK_S_UNSUPP
    common::Histogram latency;    ///< from pop to push
  };

  std::array<PerOp, ops> per_op;
  common::Counter invalid;           ///< refused before the storage saw them; in io_errors too
  common::Counter unanswerable;      ///< chains without room for a status
  common::Counter bursts;            ///< turns that took at least one request
  common::Counter merged_bursts;     ///< turns that took more than one
  common::Counter kicks;             ///< times the driver's kick was found
  common::Counter calls;             ///< calls sent to the driver
  common::Counter calls_suppressed;  ///< times the driver wanted none
  common::Counter broken;            ///< times the driver broke the rules of the ring
  common::Counter bounced;           ///< parts copied because memory was not aligned
  common::Counter left;              ///< requests left in flight, to whoever has the ring next
  std::atomic<std::uint32_t> in_flight = 0;

  [[nodiscard]] PerOp& of(Op op) { return per_op[static_cast<std::size_t>(op)]; }
  [[nodiscard]] const PerOp& of(Op op) const { return per_op[static_cast<std::size_t>(op)]; }
};

}  // namespace blk
