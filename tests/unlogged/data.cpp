/*
 * Stands in for two functions of the library, by the linker's --wrap: the pages that a device wrote
 * data to are not logged. A migration test that passes with this daemon shows nothing.
 */
#include <cstddef>
#include <cstdint>

#include "libvhost/ring/guest_view.hpp"

namespace {
thread_local bool settling = false;
}

std::uint64_t true_place(const vhost::MemoryMap*, const std::byte*, vhost::MemoryMap::Hint&) asm(
    "__real__ZNK5vhost9MemoryMap14guest_physicalEPKSt4byteRNS0_4HintE");
std::uint64_t place(const vhost::MemoryMap*, const std::byte*, vhost::MemoryMap::Hint&) asm(
    "__wrap__ZNK5vhost9MemoryMap14guest_physicalEPKSt4byteRNS0_4HintE");
void true_settle(vhost::GuestView*) asm("__real__ZN5vhost9GuestView14settle_trackedEv");
void settle(vhost::GuestView*) asm("__wrap__ZN5vhost9GuestView14settle_trackedEv");

std::uint64_t place(const vhost::MemoryMap* map, const std::byte* byte,
                    vhost::MemoryMap::Hint& hint) {
  return settling ? UINT64_MAX : true_place(map, byte, hint);
}

void settle(vhost::GuestView* view) {
  settling = true;
  true_settle(view);
  settling = false;
}
