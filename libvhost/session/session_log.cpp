/*
 * The dirty log, for a front-end that moves its guest to another host (vhost-user, "Migration").
 *
 * SET_LOG_BASE brings the log, SET_FEATURES with or without LOG_ALL turns it on and off, and
 * SET_VRING_ADDR says of each ring whether its own areas are logged, and where: all of it while
 * rings run. On and off it goes only between two chains, for what a ring knows of one in flight it
 * noted when it popped it.
 *
 * A front-end that starts rings while it migrates tells the features and the rings first, and the
 * log last. So a log that is not there yet is refused only under running rings; and a ring's log
 * address is looked at only where there is a log.
 */
#include "libvhost/session/session.hpp"

namespace vhost {
namespace {

/// How many bytes the device writes in the area whose address is "used".
std::uint64_t used_bytes(const RingSetup& setup) {
  if (setup.packed) return sizeof(EventSuppression);
  return SplitLayout{setup.size}.used_bytes(setup.event_idx);
}

}  // namespace

Result<void> Session::set_features(std::uint64_t features) {
  const std::uint64_t fresh = features & ~state_.accepted();
  if (has(fresh, feature::log_all) && !log_pages_ && state_.any_running()) {
    return fail(Fault::front_end, "memory is to be logged, and there is no SET_LOG_BASE");
  }
  if (auto accepted = state_.set_features(features); !accepted) return accepted;
  if (auto settled = settle_iommu(); !settled) return settled;
  if (!state_.any_running()) device_.set_features(state_.accepted());
  if (auto settled = settle_log(); !settled) return settled;
  return settle_all();
}

Session::Answer Session::set_log_base(const LogDescription& request, const UniqueFd& fd) {
  auto log = DirtyLog::map(fd.get(), request.offset_bytes, request.size_bytes);
  if (!log) return pass_on(log);
  if (!(*log)->reaches(memory_->end())) {
    return fail(Fault::front_end, "a dirty log of " + std::to_string(request.size_bytes) +
                                      " bytes ends before the guest's memory");
  }
  log_pages_ = std::move(*log);
  if (const auto settled = settle_log(); !settled) return pass_on(settled);
  return Reply::of(std::uint64_t{0});
}

/// Logs what the rings write, from now on or no longer.
Result<void> Session::settle_log() {
  const auto log = has(state_.accepted(), feature::log_all) ? log_pages_ : nullptr;
  if (memory_->log() == log) return {};
  // From one log to the next nothing can get lost: the front-end reads the old one once more.
  const Drain drain = memory_->log() && log ? Drain::no : Drain::yes;
  const auto next = std::make_shared<const MemoryMap>(memory_->logged_in(log));
  if (translates()) return adopt_translated(next);
  if (state_.any_running()) device_.move_to(next, drain);
  memory_ = next;
  return {};
}

/// A ring that runs goes on with other words about its log.
Result<void> Session::set_vring_addr(const VringAddr& request) {
  const auto index = state_.ring_index(request.index);
  if (!index) return pass_on(index);
  // With an IOMMU it is an IOVA; what is written is then found where it is written.
  if (memory_->log() && !translates() && (request.flags & vring_flag_log) != 0) {
    const std::uint64_t end = request.log + used_bytes(state_.setup_of(*index));
    if (end < request.log || !memory_->log()->reaches(end)) {
      return fail(Fault::front_end, "the dirty log ends before the used ring of ring " +
                                        std::to_string(request.index));
    }
  }
  const RingSetup before = state_.rings()[*index].setup;
  if (auto set = state_.set_vring_addr(request); !set) return set;
  const RingSetup& now = state_.rings()[*index].setup;
  const bool same = before.log_used == now.log_used && before.log_address == now.log_address;
  return same ? Result<void>{} : stop(*index);
}

}  // namespace vhost
