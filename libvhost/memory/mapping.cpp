#include "libvhost/memory/mapping.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <limits>

#include "libvhost/memory/fault_guard.hpp"
#include "libvhost/wire/bytes.hpp"

namespace vhost {
namespace {

/// The page size that offsets and lengths of mappings of this file must be multiples of.
std::uint64_t page_bytes_of(int fd) {
  struct statfs system{};
  if (::fstatfs(fd, &system) == 0 && system.f_type == HUGETLBFS_MAGIC) {
    return static_cast<std::uint64_t>(system.f_bsize);
  }
  return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}

/// Address space of `size` bytes at a multiple of `page`, with a page without access before it
/// and behind it. Empty if there is none.
std::span<std::byte> reserve(std::uint64_t size, std::uint64_t page) {
  const std::uint64_t wanted = size + 2 * page;
  void* const raw =
      ::mmap(nullptr, wanted + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return {};
  const auto begin = reinterpret_cast<std::uintptr_t>(raw);
  const std::uintptr_t first = align_down(begin + page - 1, page);
  if (first > begin) ::munmap(raw, first - begin);
  if (begin + page > first) ::munmap(reinterpret_cast<void*>(first + wanted), begin + page - first);
  return {reinterpret_cast<std::byte*>(first), wanted};
}

Result<void> check_file(int fd, std::uint64_t offset, std::uint64_t size) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return fail_errno(Fault::front_end, "cannot look at a shared file");
  if (!S_ISREG(info.st_mode)) {
    return fail(Fault::front_end, "a shared memory descriptor is not a file");
  }
  constexpr std::uint64_t most = std::uint64_t{1} << 47;  // the address space of a process
  if (size == 0 || size > most || offset > most) {
    return fail(Fault::front_end, "a shared memory range of " + std::to_string(size) +
                                      " bytes at offset " + std::to_string(offset));
  }
  if (offset + size > static_cast<std::uint64_t>(info.st_size)) {
    return fail(Fault::front_end, "a shared file of " + std::to_string(info.st_size) +
                                      " bytes is shorter than the " + std::to_string(size) +
                                      " bytes at offset " + std::to_string(offset) +
                                      " that were announced");
  }
  return {};
}

}  // namespace

Result<Mapping> Mapping::map(int fd, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  if (const auto checked = check_file(fd, offset_bytes, size_bytes); !checked) {
    return std::unexpected(checked.error());
  }
  const std::uint64_t page = page_bytes_of(fd);
  const std::uint64_t lead = offset_bytes % page;
  const std::uint64_t length = align_down(lead + size_bytes + page - 1, page);

  const auto reserved = reserve(length, page);
  if (reserved.empty()) return fail_errno(Fault::host, "no address space for shared memory");
  std::byte* const begin = reserved.data() + page;
  void* const mapped = ::mmap(begin, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                              static_cast<off_t>(offset_bytes - lead));
  if (mapped == MAP_FAILED) {
    const int error = errno;
    ::munmap(reserved.data(), reserved.size());
    return fail_errno(Fault::front_end, "cannot map a shared file", error);
  }
  ::madvise(begin, length, MADV_DONTDUMP);

  const int slot = fault_guard::guard({begin, length});
  if (slot < 0) {
    ::munmap(reserved.data(), reserved.size());
    return fail(Fault::host, "too many shared memory ranges are mapped");
  }
  return Mapping(reserved, page, {begin + lead, size_bytes}, slot);
}

Result<Mapping> Mapping::gather(std::span<const std::span<std::byte>> pieces) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto past_page = [page](const std::byte* at) {
    return reinterpret_cast<std::uintptr_t>(at) % page;
  };
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto piece = pieces[i];
    if ((i != 0 && past_page(piece.data()) != 0) ||
        (i + 1 != pieces.size() && past_page(piece.data() + piece.size()) != 0)) {
      return fail(Fault::front_end, "pieces of memory do not meet where a page ends");
    }
    size += piece.size();
  }
  const std::uint64_t lead = past_page(pieces.front().data());
  const std::uint64_t length = align_down(lead + size + page - 1, page);
  const auto reserved = reserve(length, page);
  if (reserved.empty()) return fail_errno(Fault::host, "no address space for shared memory");

  std::byte* const begin = reserved.data() + page;
  std::byte* to = begin;
  for (const auto piece : pieces) {
    const std::uint64_t skip = past_page(piece.data());
    const std::uint64_t bytes = align_down(skip + piece.size() + page - 1, page);
    // A page that is still to come (userfault.hpp) is asked for here; through a second mapping it
    // would be zeroes.
    for (std::uint64_t at = 0; at < bytes; at += page) {
      (void)*static_cast<const volatile std::byte*>(piece.data() - skip + at);
    }
    // From an old size of 0 it makes a second mapping of shared pages (mremap(2)).
    void* const mapped = ::mremap(piece.data() - skip, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (mapped == MAP_FAILED) {
      const int error = errno;
      ::munmap(reserved.data(), reserved.size());
      return fail_errno(Fault::front_end, "cannot map memory once more", error);
    }
    to += bytes;
  }
  ::madvise(begin, length, MADV_DONTDUMP);
  const int slot = fault_guard::guard({begin, length});
  if (slot < 0) {
    ::munmap(reserved.data(), reserved.size());
    return fail(Fault::host, "too many shared memory ranges are mapped");
  }
  return Mapping(reserved, page, {begin + lead, size}, slot);
}

Mapping::Mapping(Mapping&& other) noexcept
    : reserved_(std::exchange(other.reserved_, {})),
      page_bytes_(std::exchange(other.page_bytes_, 0)),
      bytes_(std::exchange(other.bytes_, {})),
      guard_slot_(std::exchange(other.guard_slot_, -1)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(reserved_, other.reserved_);
  std::swap(page_bytes_, other.page_bytes_);
  std::swap(bytes_, other.bytes_);
  std::swap(guard_slot_, other.guard_slot_);
  return *this;
}

Mapping::~Mapping() {
  if (guard_slot_ >= 0) fault_guard::release(guard_slot_);
  if (!reserved_.empty()) ::munmap(reserved_.data(), reserved_.size());
}

std::span<std::byte> Mapping::pages() const {
  if (reserved_.empty()) return {};
  return reserved_.subspan(page_bytes_, reserved_.size() - 2 * page_bytes_);
}

bool Mapping::give_up() const {
  return guard_slot_ >= 0 && fault_guard::give_up(guard_slot_);
}

bool Mapping::lost() const {
  return guard_slot_ >= 0 && fault_guard::lost(guard_slot_);
}

Result<UniqueFd> make_sealed_memory(const char* name, std::uint64_t size_bytes) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno(Fault::host, "cannot create shared memory");
  if (::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return fail_errno(Fault::host,
                      "cannot make shared memory of " + std::to_string(size_bytes) + " bytes");
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno(Fault::host, "cannot seal shared memory");
  }
  return fd;
}

}  // namespace vhost
