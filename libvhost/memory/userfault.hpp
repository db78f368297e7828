#pragma once
#include <cstddef>
#include <span>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

/*
 * Memory whose pages somebody else brings when they are touched (userfaultfd(2)).
 *
 * Who touches a missing page of a range that is watched waits, in user mode or in a system call,
 * until the page is in its file and wake() was called for it, by any process that has the
 * descriptor. The kernel tells that process which address of ours is waited for.
 *
 * Ranges are whole pages of their file's size. Any thread.
 */
namespace vhost::userfault {

/// A descriptor that serves shared memory and hugetlbfs, for the accesses of the kernel too: that
/// is what needs a privilege. Fault::host where this process has none.
[[nodiscard]] Result<UniqueFd> open();

/// From now on who touches a missing page of the range waits. Refuses what is not mapped from
/// shared memory or hugetlbfs, and what another descriptor watches.
[[nodiscard]] Result<void> watch(int userfault, std::span<std::byte> pages);
/// Ends that, and wakes who waits: they find zeroes where nothing came.
void forget(int userfault, std::span<std::byte> pages);
/// Wakes who waits in the range, to look again.
void wake(int userfault, std::span<std::byte> pages);

}  // namespace vhost::userfault
