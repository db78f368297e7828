#pragma once
#include <string>
#include <string_view>

#include "backends/blk/image.hpp"
#include "libvhost/wire/error.hpp"

/*
 * The serial a guest sees, /dev/disk/by-id/virtio-SERIAL in Linux. It must stay what it is, for
 * guests mount by it: over restarts, reboots of the host, and migration to another host.
 *
 * A file's is made of its real path. Its inode would do until the image is restored from a copy,
 * and another host, or another mount of the same storage, numbers devices and inodes as it likes;
 * the path is what the operator kept the same. An image that is moved changes its serial: then,
 * and wherever it matters, there is `--serial`.
 *
 * A block device's path is what changes (sda becomes sdb), so its own identity goes first: the
 * UUID of a device-mapper volume, the WWID or serial of a disk with the partition's number. A
 * device without any goes by the name it was given, unresolved: /dev/disk/by-path/... holds, what
 * it points at does not.
 */
namespace blk {

/// 20 printable bytes: "vub-" and 64 bits of hash.
[[nodiscard]] std::string default_serial(const Image& image);

/// The serial of anything with a name; equal names, equal serials.
[[nodiscard]] std::string serial_of(std::string_view identity);

/// The operator's serial as it is, if it has 1 to 20 printable ASCII bytes.
[[nodiscard]] vhost::Result<std::string> check_serial(std::string_view text);

}  // namespace blk
