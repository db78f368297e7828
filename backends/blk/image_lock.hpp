#pragma once
#include <chrono>

#include "backends/blk/image.hpp"
#include "libvhost/wire/error.hpp"

/*
 * Who else has this image open: the byte locks of QEMU (block/file-posix.c, "locking"), so that
 * QEMU, its tools and we refuse each other.
 *
 * Each permission has two bytes in the file, far from meaning anything as data. One says "I use
 * it", the other "I let nobody else use it". Everybody takes read locks on the bytes that are true
 * of him, then asks, for each thing he wants, whether anybody forbids it, and for each thing he
 * forbids, whether anybody uses it. Two who come at once may both give way; they try again.
 *
 * The locks belong to the open file description that does the I/O (OFD locks). So they outlive a
 * killed daemon exactly until its last write in the kernel has ended: whoever has the lock knows
 * that no old write will land on new data. A successor waits for that, for `patience`.
 *
 * Locks lie on the inode: two device nodes of one disk do not know of each other.
 */
namespace blk {

inline constexpr std::chrono::milliseconds default_lock_patience{5000};

/// Takes the locks for the image as it is opened, to write or to read; they go with its
/// descriptors. Sleeps between attempts. An error, with nothing locked, if somebody still is in
/// the way after `patience` (Fault::host: it may go away, so trying again later makes sense), or if
/// the file system has no locks.
[[nodiscard]] vhost::Result<void> lock_image(
    const Image& image, std::chrono::milliseconds patience = default_lock_patience);

/// lock_image() for an image that somebody else may have written since it was opened: what is
/// remembered of it is forgotten.
[[nodiscard]] vhost::Result<void> take_over_image(const Image& image);
/// Gives the locks up for somebody else, who will find on the storage what was written here. No
/// request may be in flight.
void hand_over_image(const Image& image);

/// Gives the locks up at an orderly end, when nothing is in flight any more. Without this they
/// would last until the kernel has taken the workers' rings apart, which it does later.
void unlock_image(const Image& image);

}  // namespace blk
