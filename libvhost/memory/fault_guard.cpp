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
  std::atomic<bool> lost{false};
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

std::array<Slot, 4096> slots;
std::atomic<int> slots_used{0};  // no slot at or above this was ever taken

/// An eventfd, made for the first listener here.
struct Place {
  std::atomic<int> fd{-1};
  std::atomic<bool> taken{false};
};
static_assert(std::atomic<int>::is_always_lock_free);

std::array<Place, Listener::most> places;

std::atomic<bool> installed{false};
struct sigaction previous;

void wake_listeners() {
  const std::uint64_t one = 1;
  for (const Place& place : places) {
    const int fd = place.fd.load(std::memory_order_acquire);
    if (fd < 0 || !place.taken.load(std::memory_order_acquire)) continue;
    (void)!::write(fd, &one, sizeof one);
  }
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
    void* const laid = ::mmap(reinterpret_cast<void*>(begin), length, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (laid == MAP_FAILED) return false;
    slot.lost.store(true, std::memory_order_release);
    wake_listeners();
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
  if (installed.exchange(true)) return {};
  struct sigaction action{};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, &previous) != 0) {
    installed.store(false);
    return fail_errno(Fault::host, "cannot install the SIGBUS handler");
  }
  return {};
}

Result<Listener> Listener::take() {
  for (std::size_t i = 0; i < places.size(); ++i) {
    Place& place = places[i];
    if (place.taken.exchange(true, std::memory_order_acq_rel)) continue;
    Listener listener(static_cast<int>(i));  // gives the place back if there is no eventfd
    if (place.fd.load() < 0) {
      const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      if (fd < 0) return fail_errno(Fault::host, "cannot create an eventfd");
      place.fd.store(fd, std::memory_order_release);
    }
    listener.clear();  // of what its predecessor here did not read
    return listener;
  }
  return fail(Fault::operator_, "one process serves at most " + std::to_string(most) +
                                    " sockets; serve the others from another process");
}

Listener::~Listener() {
  if (place_ < 0) return;
  places[static_cast<std::size_t>(place_)].taken.store(false, std::memory_order_release);
}

int Listener::fd() const {
  return place_ < 0 ? -1 : places[static_cast<std::size_t>(place_)].fd.load();
}

void Listener::clear() {
  std::uint64_t count = 0;
  (void)!::read(fd(), &count, sizeof count);
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
    slot.length.store(range.size());
    slot.begin.store(reinterpret_cast<std::uintptr_t>(range.data()), std::memory_order_release);
    return index;
  }
  return -1;
}

void release(int slot) {
  slots[static_cast<std::size_t>(slot)].begin.store(0, std::memory_order_release);
  slots[static_cast<std::size_t>(slot)].taken.store(false, std::memory_order_release);
}

bool lost(int slot) {
  return slots[static_cast<std::size_t>(slot)].lost.load(std::memory_order_acquire);
}

}  // namespace vhost::fault_guard
