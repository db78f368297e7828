// The parts of Device that are postcopy's, on the side of the destination.
#include <algorithm>

#include "libvhost/frontend/device.hpp"

namespace vhost::frontend {

void Device::arrive_by(PageSource source) {
  page_source_ = std::move(source);
  wishes_.required_protocol_features |= bit(protocol_feature::pagefault);
}

/// From here on the back-end waits where a page is missing, in memory that it is told of later.
Result<void> Device::listen_for_faults() {
  auto advised = connection_.ask(Request::postcopy_advise);
  if (!advised) return std::unexpected(advised.error());
  if (!advised->payload.empty() || advised->fds.size() != 1) {
    return fail(peer_fault, "the back-end has no userfaultfd for us");
  }
  page_source_->adopt(std::move(advised->fds.front()));
  return connection_.tell(Request::postcopy_listen);
}

/// A message that brings memory. By postcopy it is answered with the back-end's own addresses, and
/// nothing is touched there before we acknowledge them, with a 0, as QEMU does.
Result<void> Device::tell_memory(Request request, std::span<const std::byte> payload,
                                 std::span<const int> fds) {
  if (!page_source_) return connection_.tell(request, payload, fds);
  auto placed = connection_.ask(request, payload, fds);
  if (!placed) return std::unexpected(placed.error());
  if (placed->payload.size() != payload.size()) {
    return fail(peer_fault, request_name(static_cast<std::uint32_t>(request)) +
                                " was answered by " + std::to_string(placed->payload.size()) +
                                " bytes");
  }
  for (std::size_t at = sizeof(MemoryTableHeader); at < payload.size();
       at += sizeof(MemoryRegion)) {
    const auto told = read_once<MemoryRegion>(placed->payload.data() + at);
    const auto region = std::ranges::find_if(memory_.regions(), [&](const auto& ours) {
      return ours && ours->guest_address() == told.guest_address;
    });
    if (region == memory_.regions().end()) return fail(peer_fault, "the back-end names no region");
    page_source_->placed((*region)->bytes().data(), told.frontend_address);
  }
  return connection_.send_raw(static_cast<std::uint32_t>(request), 0, bytes_of(std::uint64_t{0}));
}

Result<void> Device::all_pages_came() {
  auto ended = connection_.ask_for<std::uint64_t>(Request::postcopy_end);
  if (!ended) return std::unexpected(ended.error());
  if (*ended != 0) return fail(peer_fault, "the back-end refused POSTCOPY_END");
  page_source_.reset();
  wishes_.required_protocol_features &= ~bit(protocol_feature::pagefault);
  return {};
}

}  // namespace vhost::frontend
