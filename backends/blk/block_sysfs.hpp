#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/*
 * What the kernel says about a block device in sysfs, one file a value.
 *
 * A partition has a folder of its own inside its disk's; the queue and the identity are the disk's.
 * Every value may be missing: older kernels, containers without sysfs.
 */
namespace blk {

/// The first line of /sys/dev/block/MAJOR:MINOR/`attribute` without blanks at its ends; nothing
/// if there is no such file or the line is empty.
[[nodiscard]] std::optional<std::string> sysfs_text(dev_t device, std::string_view attribute);

/// As sysfs_text(), of the whole disk if `device` is a partition.
[[nodiscard]] std::optional<std::string> sysfs_disk_text(dev_t device, std::string_view attribute);

/// A number of the whole disk's; nothing if it is missing or no decimal number.
[[nodiscard]] std::optional<std::uint64_t> sysfs_disk_number(dev_t device,
                                                             std::string_view attribute);

}  // namespace blk
