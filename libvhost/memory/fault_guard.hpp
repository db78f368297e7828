#pragma once
#include <cstddef>
#include <span>
#include <utility>

#include "libvhost/wire/error.hpp"

/*
 * Survives a shared file that is truncated under its mapping.
 *
 * Guest memory, the inflight region and everything else that a front-end shares is a file the
 * front-end owns. If it cuts the file short, the next access is a SIGBUS. The handler looks the
 * address up in a table of guarded ranges, lays anonymous memory over the whole range, so that
 * the access that faulted and all later ones end harmlessly, marks the range as lost and wakes
 * every Listener. A SIGBUS anywhere else ends the process as ever.
 *
 * The table is global because a signal handler has no other way to reach it, of fixed size, and
 * written without locks: the handler may run in any thread at any time. The listeners' eventfds are
 * a table of the same kind. One that was made is never closed, but kept for the next listener: the
 * handler may be about to write to it.
 */
namespace vhost::fault_guard {

/// Installs the handler; once per process, before the first mapping. A handler that was there
/// before is called for addresses that are not ours.
[[nodiscard]] Result<void> install();

/// Wants to know when a guarded range was lost.
class Listener {
 public:
  /// How many there can be at a time, in the whole process.
  static constexpr std::size_t most = 256;

  Listener() = default;  ///< hears nothing
  [[nodiscard]] static Result<Listener> take();
  ~Listener();
  Listener(Listener&& other) noexcept : place_(std::exchange(other.place_, -1)) {}
  Listener& operator=(Listener&& other) noexcept {
    std::swap(place_, other.place_);
    return *this;
  }

  /// Becomes readable when any range was lost after take(), and now and then when none was: ask
  /// each Mapping.
  [[nodiscard]] int fd() const;
  /// Call before the Mappings are asked.
  void clear();

 private:
  explicit Listener(int place) : place_(place) {}

  int place_ = -1;
};

/// The place of one range in the table; -1 if the table is full.
[[nodiscard]] int guard(std::span<std::byte> range);
/// Takes the range out of the table. Its memory must still be mapped: only after this may it be
/// unmapped, or a fault elsewhere could be mistaken for one in it.
void release(int slot);
[[nodiscard]] bool lost(int slot);

}  // namespace vhost::fault_guard
