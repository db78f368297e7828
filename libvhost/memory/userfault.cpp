#include "libvhost/memory/userfault.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace vhost::userfault {
namespace {

uffdio_range range_of(std::span<std::byte> pages) {
  return {reinterpret_cast<std::uintptr_t>(pages.data()), pages.size()};
}

/// By the device, whose permissions say who may (Linux 6.1), or by the system call, which asks for
/// CAP_SYS_PTRACE or for vm.unprivileged_userfaultfd.
UniqueFd create() {
#ifdef USERFAULTFD_IOC_NEW
  const UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device) {
    UniqueFd made(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (made) return made;
  }
#endif
  return UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
}

}  // namespace

Result<UniqueFd> open() {
  UniqueFd made = create();
  if (!made) {
    return fail_errno(Fault::host,
                      "cannot have a userfaultfd; give this process access to /dev/userfaultfd, or "
                      "CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd=1");
  }
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS;
  if (::ioctl(made.get(), UFFDIO_API, &api) != 0) {
    return fail_errno(Fault::host, "this kernel's userfaultfd does not serve shared memory");
  }
  return made;
}

Result<void> watch(int userfault, std::span<std::byte> pages) {
  uffdio_register wanted{};
  wanted.range = range_of(pages);
  wanted.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(userfault, UFFDIO_REGISTER, &wanted) != 0) {
    return fail_errno(Fault::front_end,
                      "memory that is neither shared memory nor hugetlbfs, or is watched already, "
                      "cannot come page by page");
  }
  // Before Linux 6.4 small pages that came could be put together to a large one, with zeroes for
  // those that had not.
  (void)::madvise(pages.data(), pages.size(), MADV_NOHUGEPAGE);
  return {};
}

void forget(int userfault, std::span<std::byte> pages) {
  uffdio_range range = range_of(pages);
  (void)::ioctl(userfault, UFFDIO_UNREGISTER, &range);
}

void wake(int userfault, std::span<std::byte> pages) {
  uffdio_range range = range_of(pages);
  (void)::ioctl(userfault, UFFDIO_WAKE, &range);
}

}  // namespace vhost::userfault
