#pragma once
#include <sys/stat.h>

#include "backends/blk/image.hpp"

/*
 * What an open image can do, asked of the kernel without a trace left in the image.
 *
 * fallocate has no "would you?": ZERO_RANGE behind the end of a file leaves blocks allocated there
 * (ext4). So a file's abilities are tried on an unnamed file in the same folder, and where none can
 * be made, by a PUNCH_HOLE behind the end of the image, which does nothing.
 */
namespace blk {

/// Alignments, from `image.file`. Clears `image.direct` if the file system takes O_DIRECT at
/// open() and does not do it.
void probe_alignment(Image& image, const struct stat& status);

/// Logical and physical block, preferred sizes. After probe_alignment().
void probe_topology(Image& image, const struct stat& status);

/// Discard and write zeroes with their limits. Nothing for a read-only image.
void probe_fallocate(Image& image, const struct stat& status);

}  // namespace blk
