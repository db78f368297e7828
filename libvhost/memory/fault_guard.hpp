#pragma once
#include <cstddef>
#include <span>

#include "libvhost/wire/error.hpp"

/*
 * Survives a shared file that is truncated under its mapping.
 *
 * Guest memory, the inflight region and everything else that a front-end shares is a file the
 * front-end owns. If it cuts the file short, the next access is a SIGBUS. The handler looks the
 * address up in a table of guarded ranges, lays anonymous memory over the whole range, so that
 * the access that faulted and all later ones end harmlessly, marks the range as lost and wakes
 * whoever polls event_fd(). A SIGBUS anywhere else ends the process as ever.
 *
 * Nothing that was made of such zeroes may reach a disk: whoever writes guest memory to storage
 * asks any_lost().
 *
 * A range can also be given up while its file is whole: its front-end is gone, and pages that only
 * it could have brought will never come. Then a file of no bytes takes its place. What the kernel
 * is asked to read or write there fails (EFAULT), so that no request in flight is carried out with
 * bytes that are not the guest's; a page that we touch ourselves is laid as above, that page alone.
 *
 * The table is global because a signal handler has no other way to reach it, of fixed size, and
 * written without locks: the handler may run in any thread at any time.
 */
namespace vhost::fault_guard {

/// Installs the handler; once per process, before the first mapping. A handler that was there
/// before is called for addresses that are not ours.
[[nodiscard]] Result<void> install();

/// Becomes readable when a guarded range was lost. Whoever reads it asks each Mapping.
[[nodiscard]] int event_fd();

/// The place of one range in the table; -1 if the table is full.
[[nodiscard]] int guard(std::span<std::byte> range);
/// Takes the range out of the table. Its memory must still be mapped: only after this may it be
/// unmapped, or a fault elsewhere could be mistaken for one in it.
void release(int slot);
[[nodiscard]] bool lost(int slot);
/// Gives the range up. Any thread. False: it stays as it was, for want of address space.
[[nodiscard]] bool give_up(int slot);
/// Whether any guarded range is lost and not yet released. Any thread; one load.
[[nodiscard]] bool any_lost();

}  // namespace vhost::fault_guard
