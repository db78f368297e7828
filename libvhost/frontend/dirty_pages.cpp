#include "libvhost/frontend/dirty_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>

namespace vhost::frontend {

Result<DirtyPages> DirtyPages::create(std::uint64_t end) {
  const std::uint64_t count = (end / page_bytes + 64) / 64;
  const std::uint64_t bytes = count * sizeof(std::uint64_t);
  UniqueFd fd(::memfd_create("vhost-dirty-log", MFD_CLOEXEC));
  if (!fd) return fail_errno(Fault::host, "cannot make a dirty log");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return fail_errno(Fault::host, "cannot size a dirty log");
  }
  void* const raw = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (raw == MAP_FAILED) return fail_errno(Fault::host, "cannot map a dirty log");
  return DirtyPages(std::move(fd), {static_cast<std::uint64_t*>(raw), count});
}

DirtyPages::~DirtyPages() {
  if (!words_.empty()) ::munmap(words_.data(), words_.size_bytes());
}

std::vector<std::uint64_t> DirtyPages::take() {
  std::vector<std::uint64_t> pages;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    std::atomic_ref word(words_[i]);
    if (word.load(std::memory_order_relaxed) == 0) continue;
    std::uint64_t bits = word.exchange(0);
    if constexpr (std::endian::native == std::endian::big) bits = std::byteswap(bits);
    for (; bits != 0; bits &= bits - 1) {
      pages.push_back((i * 64 + static_cast<unsigned>(std::countr_zero(bits))) * page_bytes);
    }
  }
  // As the back-end's release is paired with the exchange, so is this with the reads that follow.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return pages;
}

}  // namespace vhost::frontend
