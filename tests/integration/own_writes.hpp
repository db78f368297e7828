#pragma once
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <set>
#include <span>
#include <vector>

namespace integration {

/// Which pages of a shared area this process writes, as a hypervisor knows it of its guest: all are
/// made read-only, and the first write to each is noted where it faults. One area at a time.
class OwnWrites {
 public:
  static constexpr std::size_t page = 4096;

  explicit OwnWrites(std::span<std::byte> area) : area_(area), written_(area.size() / page) {
    if (watched_.exchange(this) != nullptr) std::abort();
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, &previous_);
    protect(area_, PROT_READ);
  }
  OwnWrites(const OwnWrites&) = delete;
  OwnWrites& operator=(const OwnWrites&) = delete;
  ~OwnWrites() {
    protect(area_, PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &previous_, nullptr);
    watched_ = nullptr;
  }

  /// Offsets of the pages that were written since the last time. Each must be read after this.
  std::set<std::size_t> take() {
    std::set<std::size_t> pages;
    for (std::size_t i = 0; i < written_.size(); ++i) {
      if (!written_[i].exchange(false)) continue;
      protect(area_.subspan(i * page, page), PROT_READ);
      pages.insert(i * page);
    }
    return pages;
  }

 private:
  static void protect(std::span<std::byte> bytes, int rights) {
    if (::mprotect(bytes.data(), bytes.size(), rights) != 0) std::abort();
  }
  static void on_fault(int, siginfo_t* info, void*) {
    OwnWrites& self = *watched_;
    const std::size_t offset =
        static_cast<std::size_t>(static_cast<std::byte*>(info->si_addr) - self.area_.data());
    if (offset >= self.area_.size()) {  // a fault like any other
      ::sigaction(SIGSEGV, &self.previous_, nullptr);
      return;
    }
    self.written_[offset / page] = true;
    protect(self.area_.subspan(offset / page * page, page), PROT_READ | PROT_WRITE);
  }

  static inline std::atomic<OwnWrites*> watched_ = nullptr;

  std::span<std::byte> area_;
  std::vector<std::atomic<bool>> written_;
  struct sigaction previous_{};
};

}  // namespace integration
