#pragma once
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "libvhost/memory/memory_map.hpp"
#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * A guest that runs here while part of its memory is still where it came from (vhost-user,
 * "Postcopy").
 *
 *   ADVISE   a userfaultfd is made; the front-end has it, too
 *   LISTEN   memory that is shared from now on is watched: who touches a page that is not there
 *            waits, the front-end is told the address, fetches the page and wakes who waits
 *   END      every page is there; nothing is watched any more
 *
 * Any of our threads may have to wait for a page: workers, in their own code or in the kernel on
 * their behalf, and the control thread where it looks into a ring to start it. Nobody waits in a
 * circle: QEMU brings pages on threads of their own, which take no part in its conversation with
 * us.
 *
 * If the front-end dies, its pages never come, and the control thread may be among those who wait.
 * So while memory is watched a thread of its own watches the socket. When the other end is closed
 * it gives the memory up (fault_guard.hpp) and wakes everybody: what the kernel was asked to do
 * with a missing page fails, and not one zero that stands for such a page gets into the guest's
 * memory, to which QEMU may still have a use, or onto a disk.
 *
 * QEMU sends each of the three once for every pair of a network device's rings, in the reverse
 * order of the pairs, and asks for faults on the userfaultfd of a pair only after it shared memory
 * for that pair. So of several the last is watched with, which is that of the first pair, the one
 * that is started first; the others never have anything to tell. The first END ends it.
 */
namespace vhost {

class Postcopy {
 public:
  /// The socket must outlive this.
  explicit Postcopy(int socket) : socket_(socket) {}
  /// Gives up what is watched.
  ~Postcopy() { (void)give_up(); }
  Postcopy(const Postcopy&) = delete;
  Postcopy& operator=(const Postcopy&) = delete;

  /// The front-end's descriptor. Refused while memory is watched.
  [[nodiscard]] Result<UniqueFd> advise();
  /// Begins to watch: `memory`, which is shared already, and what follows.
  [[nodiscard]] Result<void> listen(const MemoryMap& memory);
  /// Ends it, and wakes whoever still waits.
  [[nodiscard]] Result<void> end();

  [[nodiscard]] bool listening() const { return watchman_.joinable(); }
  /// Watches what `memory` has and is not watched yet. Nothing of it may have been touched.
  [[nodiscard]] Result<void> cover(const MemoryMap& memory);
  /// Lets go of the mappings that are not in `memory`.
  void keep_to(const MemoryMap& memory);

  /// The front-end is gone. True if there was something to give up.
  bool give_up();

 private:
  void watch_socket();
  void give_up_locked();
  void dismiss_watchman();

  const int socket_;
  unsigned ends_due_ = 0;
  UniqueFd dismissal_;
  std::jthread watchman_;

  std::mutex mutex_;  // of all below, which the watchman uses, too
  UniqueFd userfault_;
  std::vector<std::shared_ptr<const Mapping>> watched_;
  bool given_up_ = false;
};

}  // namespace vhost
