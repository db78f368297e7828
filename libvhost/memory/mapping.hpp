#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost {

/// A shared file's bytes in this process, readable and writable, for as long as the object lives.
///
/// Any page size is served: the file offset is aligned down and the length up to the file's own
/// page size, 2 MiB or 1 GiB on hugetlbfs. A page without access lies on either side, so an
/// overrun faults at once and never lands in a neighbour. The file is not dumped with a core, and
/// a truncation of it is survived (fault_guard.hpp).
class Mapping {
 public:
  /// Refuses what is not a regular file, what reaches beyond the file's end, a size of 0, and an
  /// offset that overflows with the size.
  [[nodiscard]] static Result<Mapping> map(int fd, std::uint64_t offset_bytes,
                                           std::uint64_t size_bytes);

  /// Bytes of other mappings, side by side: the same pages of the same files once more, for as long
  /// as this lives. Refuses what does not meet where a page ends, and pages larger than the
  /// system's own.
  [[nodiscard]] static Result<Mapping> gather(std::span<const std::span<std::byte>> pieces);

  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  /// All pages that the bytes lie in, of the file's own size.
  [[nodiscard]] std::span<std::byte> pages() const;
  /// The file was truncated and these bytes are no longer the front-end's.
  [[nodiscard]] bool lost() const;
  /// From now on nothing of the file is reached through these bytes, and they are lost: see
  /// fault_guard.hpp. Any thread, under the feet of all others. False: nothing changed.
  [[nodiscard]] bool give_up() const;

 private:
  Mapping(std::span<std::byte> reserved, std::size_t page_bytes, std::span<std::byte> bytes,
          int guard_slot)
      : reserved_(reserved), page_bytes_(page_bytes), bytes_(bytes), guard_slot_(guard_slot) {}

  std::span<std::byte> reserved_;  // with the pages on either side
  std::size_t page_bytes_ = 0;
  std::span<std::byte> bytes_;
  int guard_slot_ = -1;
};

/// A new anonymous shared file of that size, which nobody can shrink or grow.
[[nodiscard]] Result<UniqueFd> make_sealed_memory(const char* name, std::uint64_t size_bytes);

}  // namespace vhost
