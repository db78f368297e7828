#pragma once
#include <atomic>
#include <cstdint>

#include "libvhost/memory/mapping.hpp"

namespace vhost {

/// Which pages of the guest's memory were written, for a front-end that migrates the guest
/// (vhost-user, "Migration"): one bit for each 4 KiB, which it reads and clears meanwhile.
///
/// A page is marked after it was written: marked before, its old content could be sent, its bit
/// cleared, and the write be lost. Thread: any.
class DirtyLog {
 public:
  static constexpr std::uint64_t page_bytes = 4096;

  explicit DirtyLog(Mapping map) : map_(std::move(map)) {}

  /// The `bytes` at `guest_physical` were written. What lies behind the log's end is ignored: the
  /// front-end made it too small.
  void mark(std::uint64_t guest_physical, std::uint64_t bytes);
  [[nodiscard]] bool lost() const { return map_.lost(); }

 private:
  Mapping map_;
};

}  // namespace vhost
