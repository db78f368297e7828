#pragma once
#include "libvhost/frontend/device.hpp"
#include "tests/fakes/page_server.hpp"

namespace integration {

/// A guest without a VM moves by postcopy: its memory is emptied at once, and from the device's
/// next reconnect() on comes page by page, where the guest or the daemon touches it.
class Arrival {
 public:
  Arrival(vhost::frontend::Device& device, std::chrono::microseconds delay) : pages_(delay) {
    for (const auto& region : device.memory().regions()) {
      if (!region) continue;
      pages_.empty(region->fd(), region->bytes(), region->wire().mmap_offset_bytes);
    }
    device.arrive_by({[this](vhost::UniqueFd userfault) { pages_.adopt(std::move(userfault)); },
                      [this](const std::byte* bytes, std::uint64_t backend_address) {
                        pages_.learn(bytes, backend_address);
                      }});
  }

  [[nodiscard]] vhost::fakes::PageServer& pages() { return pages_; }

 private:
  vhost::fakes::PageServer pages_;
};

/// Whether this process, and so the daemons that it starts, may have memory that comes page by
/// page.
[[nodiscard]] inline bool postcopy_is_possible() {
  return vhost::userfault::open().has_value();
}

}  // namespace integration
