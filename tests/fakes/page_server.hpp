#pragma once
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "libvhost/memory/userfault.hpp"

namespace vhost::fakes {

/// The page size of what is shared, if it is not of huge pages.
inline constexpr std::size_t base_page = 4096;

/// The destination's half of postcopy that is not the device's, as QEMU has it: memory that was
/// emptied, and a thread that brings pages when they are touched, here or in the back-end.
///
/// A page is placed by the front-end's own userfaultfd, in its own mapping, and whoever waits for
/// the same page in the back-end is woken.
class PageServer {
 public:
  /// Each page takes that long to come.
  explicit PageServer(std::chrono::microseconds delay) : delay_(delay) {
    auto own = userfault::open();
    if (!own) std::abort();
    own_ = std::move(*own);
    thread_ = std::jthread([this] { serve(); });
  }
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;
  ~PageServer() {
    ended_ = true;
    ring();
    thread_.join();
  }

  /// Takes bytes out of a file, to bring them page by page: all that it has, or from an offset on,
  /// as it is mapped here.
  void empty(int file, std::span<std::byte> bytes, std::uint64_t offset_bytes = 0,
             std::size_t page_bytes = base_page) {
    const std::lock_guard lock(mutex_);
    areas_.push_back({bytes, {bytes.begin(), bytes.end()}, page_bytes, {}});
    const int holes = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (::fallocate(file, holes, static_cast<off_t>(offset_bytes),
                    static_cast<off_t>(bytes.size())) != 0) {
      std::abort();
    }
    if (!userfault::watch(own_.get(), bytes)) std::abort();
  }
  /// The back-end's descriptor, of POSTCOPY_ADVISE.
  void adopt(UniqueFd backend) {
    {
      const std::lock_guard lock(mutex_);
      backend_ = std::move(backend);
    }
    ring();
  }
  /// The byte at `own` is at this address in the back-end.
  void learn(const std::byte* own, std::uint64_t backend_address) {
    const std::lock_guard lock(mutex_);
    for (Area& area : areas_) {
      const auto offset = static_cast<std::size_t>(own - area.own.data());
      if (offset < area.own.size()) area.backend_base = backend_address - offset;
    }
  }
  /// Brings everything that nobody asked for, as a migration does in the background.
  void push_all() {
    for (Area& area : areas_) {
      for (std::size_t at = 0; at < area.own.size(); at += area.page_bytes) place(area, at);
    }
  }
  /// Of these bytes, whole pages, none ever comes.
  void withhold(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    withheld_ = bytes;
  }

  /// Pages that the back-end waited for.
  [[nodiscard]] unsigned asked_by_backend() const { return asked_by_backend_; }
  /// Somebody waits for a page that is withheld.
  [[nodiscard]] bool was_asked_in_vain() const { return asked_in_vain_; }
  /// A fault came for an address that was not learnt.
  [[nodiscard]] bool was_asked_for_the_unknown() const { return unknown_; }

 private:
  struct Area {
    std::span<std::byte> own;
    std::vector<std::byte> source;
    std::size_t page_bytes;
    std::uint64_t backend_base;
  };

  void ring() {
    const std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof one);
  }
  void place(Area& area, std::size_t at) {
    const std::byte* const page = area.own.data() + at;
    const std::lock_guard lock(mutex_);
    if (page >= withheld_.data() && page < withheld_.data() + withheld_.size()) {
      asked_in_vain_ = true;
      return;
    }
    uffdio_copy copy{};
    copy.dst = reinterpret_cast<std::uintptr_t>(area.own.data() + at);
    copy.src = reinterpret_cast<std::uintptr_t>(area.source.data() + at);
    copy.len = area.page_bytes;
    // EEXIST: it had come, by another who waited for it.
    if (::ioctl(own_.get(), UFFDIO_COPY, &copy) != 0 && errno != EEXIST) std::abort();
    if (!backend_ || area.backend_base == 0) return;
    uffdio_range range{area.backend_base + at, area.page_bytes};
    (void)::ioctl(backend_.get(), UFFDIO_WAKE, &range);
  }
  bool answer(int userfault, bool backend) {
    uffd_msg event{};
    if (::read(userfault, &event, sizeof event) != sizeof event) return false;
    if (event.event != UFFD_EVENT_PAGEFAULT) return true;
    if (backend) ++asked_by_backend_;
    std::this_thread::sleep_for(delay_);
    const auto [area, offset] = find(event.arg.pagefault.address, backend);
    if (area == nullptr) {
      unknown_ = true;
    } else {
      place(*area, offset / area->page_bytes * area->page_bytes);
    }
    return true;
  }
  std::pair<Area*, std::uint64_t> find(std::uint64_t address, bool backend) {
    const std::lock_guard lock(mutex_);
    for (Area& area : areas_) {
      const std::uint64_t base =
          backend ? area.backend_base : reinterpret_cast<std::uintptr_t>(area.own.data());
      if (address - base < area.own.size()) return {&area, address - base};
    }
    return {};
  }
  void serve() {
    while (!ended_) {
      std::array<pollfd, 3> watched{pollfd{bell_.get(), POLLIN, 0}, pollfd{own_.get(), POLLIN, 0},
                                    pollfd{backend_fd(), POLLIN, 0}};
      (void)::poll(watched.data(), watched.size(), -1);
      std::uint64_t rings = 0;
      if (watched[0].revents != 0) (void)!::read(bell_.get(), &rings, sizeof rings);
      while (answer(own_.get(), false)) {
      }
      while (watched[2].fd >= 0 && answer(watched[2].fd, true)) {
      }
    }
  }
  int backend_fd() {
    const std::lock_guard lock(mutex_);
    return backend_.get();
  }

  const std::chrono::microseconds delay_;
  std::mutex mutex_;  // of the areas, the back-end's descriptor, and what is withheld
  UniqueFd own_;
  UniqueFd backend_;
  std::span<const std::byte> withheld_;
  UniqueFd bell_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::deque<Area> areas_;  // where they are they stay
  std::atomic<bool> ended_ = false;
  std::atomic<bool> unknown_ = false;
  std::atomic<bool> asked_in_vain_ = false;
  std::atomic<unsigned> asked_by_backend_ = 0;
  std::jthread thread_;
};

}  // namespace vhost::fakes
