#include "libvhost/memory/fault_guard.hpp"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace vhost::fault_guard {
namespace {

/// A free slot has begin 0. `begin` is written last and cleared first, so the handler never sees
/// a range that is half there.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::size_t> length{0};
  std::atomic<bool> taken{false};
  std::atomic<bool> given_up{false};
  std::atomic<int> pieces{0};  // of it that were replaced one by one
  std::atomic<bool> lost{false};
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

std::array<Slot, 4096> slots;
std::atomic<int> slots_used{0};  // no slot at or above this was ever taken
std::atomic<int> event{-1};
std::atomic<int> nothing{-1};  // a file of no bytes: whatever maps it faults
std::atomic<std::uintptr_t> page_bytes{0};
std::atomic<int> lost_now{0};
std::atomic<int> pieces_now{0};

/// Far below vm.max_map_count: each piece cuts the range it is in.
constexpr int most_pieces = 16384;
struct sigaction previous;

void mark_lost(Slot& slot) {
  if (!slot.lost.exchange(true, std::memory_order_acq_rel)) lost_now.fetch_add(1);
}

bool lay_anonymous(std::uintptr_t begin, std::size_t length) {
  return ::mmap(reinterpret_cast<void*>(begin), length, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/// The rest of a range that was given up goes on to fail. False if it is not such a range, or is in
/// too many pieces already.
bool replace_page(Slot& slot, std::uintptr_t address) {
  if (!slot.given_up.load(std::memory_order_acquire)) return false;
  if (pieces_now.load(std::memory_order_relaxed) >= most_pieces) return false;
  const std::uintptr_t page = page_bytes.load(std::memory_order_relaxed);
  if (!lay_anonymous(address / page * page, page)) return false;
  pieces_now.fetch_add(1);
  slot.pieces.fetch_add(1);
  return true;
}

bool replace_range_of(std::uintptr_t address) {
  const int used = slots_used.load(std::memory_order_acquire);
  for (int i = 0; i < used; ++i) {
    Slot& slot = slots[static_cast<std::size_t>(i)];
    const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const std::size_t length = slot.length.load(std::memory_order_relaxed);
    if (begin == 0 || address - begin >= length) continue;
    // Released and taken again meanwhile: the length may be another range's.
    if (slot.begin.load(std::memory_order_acquire) != begin) continue;
    // The address is in a range of ours: no other memory can be hit by MAP_FIXED.
    mark_lost(slot);
    if (!replace_page(slot, address) && !lay_anonymous(begin, length)) return false;
    const std::uint64_t one = 1;
    (void)!::write(event.load(std::memory_order_relaxed), &one, sizeof one);
    return true;
  }
  return false;
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const bool sent = info->si_code <= 0;  // by a process: there is no address, and no second fault
  const bool ours = !sent && replace_range_of(reinterpret_cast<std::uintptr_t>(info->si_addr));
  errno = saved_errno;
  if (ours) return;

  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  ::sigaction(SIGBUS, &previous, nullptr);  // the access faults again and does what it always did
  if (sent) ::raise(SIGBUS);
}

}  // namespace

Result<void> install() {
  if (event.load() >= 0) return {};
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return fail_errno(Fault::host, "cannot create an eventfd");
  event.store(fd);
  page_bytes.store(static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)));
  nothing.store(::memfd_create("nothing", MFD_CLOEXEC));
  if (nothing.load() < 0) return fail_errno(Fault::host, "cannot create an empty file");

  struct sigaction action{};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, &previous) != 0) {
    return fail_errno(Fault::host, "cannot install the SIGBUS handler");
  }
  return {};
}

int event_fd() {
  return event.load();
}

int guard(std::span<std::byte> range) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    Slot& slot = slots[i];
    if (slot.taken.exchange(true, std::memory_order_acq_rel)) continue;
    const int index = static_cast<int>(i);
    int used = slots_used.load();
    while (used <= index && !slots_used.compare_exchange_weak(used, index + 1)) {
    }
    slot.lost.store(false);
    slot.given_up.store(false);
    slot.length.store(range.size());
    slot.begin.store(reinterpret_cast<std::uintptr_t>(range.data()), std::memory_order_release);
    return index;
  }
  return -1;
}

void release(int slot) {
  Slot& old = slots[static_cast<std::size_t>(slot)];
  old.begin.store(0, std::memory_order_release);
  if (old.lost.load(std::memory_order_acquire)) lost_now.fetch_sub(1);
  pieces_now.fetch_sub(old.pieces.exchange(0));
  old.taken.store(false, std::memory_order_release);
}

bool give_up(int slot) {
  Slot& range = slots[static_cast<std::size_t>(slot)];
  range.given_up.store(true, std::memory_order_release);
  mark_lost(range);
  void* const begin = reinterpret_cast<void*>(range.begin.load(std::memory_order_acquire));
  return ::mmap(begin, range.length.load(), PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED | MAP_NORESERVE, nothing.load(), 0) != MAP_FAILED;
}

bool any_lost() {
  return lost_now.load(std::memory_order_acquire) != 0;
}

bool lost(int slot) {
  return slots[static_cast<std::size_t>(slot)].lost.load(std::memory_order_acquire);
}

}  // namespace vhost::fault_guard
