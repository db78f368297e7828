// The part of Device that has the back-end log what it writes, as a front-end does that moves the
// device's memory elsewhere.
#include <algorithm>

#include "libvhost/frontend/device.hpp"

namespace vhost::frontend {

Result<void> Device::start_log() {
  if (!with(protocol_feature::log_shmfd) || !has(offered_, feature::log_all)) {
    return fail(Fault::unsupported, "the back-end does not log what it writes (LOG_SHMFD)");
  }
  std::uint64_t end = 0;
  for (const auto& region : memory_.regions()) {
    if (region) end = std::max(end, region->guest_address() + region->bytes().size());
  }
  auto pages = DirtyPages::create(end);
  if (!pages) return std::unexpected(pages.error());
  log_ = std::move(*pages);
  if (!running_) return {};  // start() tells it
  if (auto shared = share_log(); !shared) {
    log_.reset();
    return shared;
  }
  return tell_logging();
}

Result<void> Device::stop_log() {
  if (!log_) return {};
  log_.reset();
  return running_ ? tell_logging() : Result<void>{};
}

Result<void> Device::share_log() {
  const LogDescription description{log_->size_bytes(), 0};
  const int fd = log_->fd();
  auto reply = connection_.ask(Request::set_log_base, bytes_of(description), std::span(&fd, 1));
  if (!reply) return std::unexpected(reply.error());
  // An empty answer says yes, as a 0 does.
  if (reply->payload.size() == sizeof(std::uint64_t) &&
      read_once<std::uint64_t>(reply->payload.data()) != 0) {
    return fail(Fault::unsupported, "the back-end refused SET_LOG_BASE");
  }
  return {};
}

/// To rings that run: whether, and where, they log.
Result<void> Device::tell_logging() {
  if (auto told = connection_.tell(Request::set_features, features_to_tell()); !told) return told;
  for (std::uint32_t i = 0; i < queues_.size(); ++i) {
    if (auto told = connection_.tell(Request::set_vring_addr, addresses_of(i)); !told) return told;
  }
  return barrier();
}

std::uint64_t Device::features_to_tell() const {
  return features_ | (log_ ? bit(feature::log_all) : 0);
}

}  // namespace vhost::frontend
