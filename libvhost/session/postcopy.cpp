#include "libvhost/session/postcopy.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>

#include "libvhost/memory/userfault.hpp"

namespace vhost {
namespace {

bool holds(const MemoryMap& memory, const std::shared_ptr<const Mapping>& mapping) {
  return std::ranges::any_of(
      memory.regions(), [&](const MemoryMap::Region& region) { return region.mapping == mapping; });
}

}  // namespace

Result<UniqueFd> Postcopy::advise() {
  if (listening()) return fail(Fault::front_end, "POSTCOPY_ADVISE came after POSTCOPY_LISTEN");
  auto fresh = userfault::open();
  if (!fresh) return fresh;
  UniqueFd copy(::fcntl(fresh->get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(Fault::host, "cannot duplicate a userfaultfd");
  userfault_ = std::move(*fresh);
  return copy;
}

Result<void> Postcopy::listen(const MemoryMap& memory) {
  if (!userfault_) return fail(Fault::front_end, "POSTCOPY_LISTEN came without POSTCOPY_ADVISE");
  if (!listening()) {
    dismissal_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    if (!dismissal_) return fail_errno(Fault::host, "cannot create an eventfd");
    watchman_ = std::jthread([this] { watch_socket(); });
  }
  ++ends_due_;
  return cover(memory);
}

Result<void> Postcopy::end() {
  if (ends_due_ == 0) return fail(Fault::front_end, "POSTCOPY_END came without POSTCOPY_LISTEN");
  --ends_due_;
  if (!listening()) return {};
  dismiss_watchman();
  for (const auto& mapping : watched_) userfault::forget(userfault_.get(), mapping->pages());
  watched_.clear();
  userfault_ = UniqueFd();
  return {};
}

Result<void> Postcopy::cover(const MemoryMap& memory) {
  const std::lock_guard lock(mutex_);
  if (given_up_) return fail(Fault::front_end, "the front-end is gone and brings no more pages");
  for (const MemoryMap::Region& region : memory.regions()) {
    if (std::ranges::find(watched_, region.mapping) != watched_.end()) continue;
    if (auto done = userfault::watch(userfault_.get(), region.mapping->pages()); !done) return done;
    watched_.push_back(region.mapping);
  }
  return {};
}

void Postcopy::keep_to(const MemoryMap& memory) {
  const std::lock_guard lock(mutex_);
  std::erase_if(watched_, [&](const auto& mapping) { return !holds(memory, mapping); });
}

bool Postcopy::give_up() {
  if (!listening()) return false;
  dismiss_watchman();
  const std::lock_guard lock(mutex_);
  give_up_locked();
  return true;
}

/// All of it before anybody wakes, or who does could be misled by a neighbour that is still there.
/// What cannot be given up is not woken either: better late than wrong.
void Postcopy::give_up_locked() {
  given_up_ = true;
  std::erase_if(watched_, [](const auto& mapping) { return !mapping->give_up(); });
  for (const auto& mapping : watched_) userfault::wake(userfault_.get(), mapping->pages());
  watched_.clear();
}

void Postcopy::watch_socket() {
  std::array<pollfd, 2> watched{pollfd{dismissal_.get(), POLLIN, 0}, pollfd{socket_, POLLRDHUP, 0}};
  while (::poll(watched.data(), watched.size(), -1) < 0) {
  }
  if (watched[0].revents != 0) return;
  const std::lock_guard lock(mutex_);
  give_up_locked();
}

void Postcopy::dismiss_watchman() {
  const std::uint64_t one = 1;
  (void)!::write(dismissal_.get(), &one, sizeof one);
  watchman_.join();
}

}  // namespace vhost
