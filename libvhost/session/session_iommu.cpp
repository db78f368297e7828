/*
 * What an IOMMU means for a session: whether there is one, rings that wait for it, and what it
 * takes back.
 */
#include "libvhost/session/session.hpp"

namespace vhost {

/// Whether an IOMMU translates follows from the features, which change only while no ring runs.
Result<void> Session::settle_iommu() {
  const bool wanted = has(state_.accepted(), feature::access_platform);
  if (state_.any_running() || (!wanted && !iommu_)) return {};
  if (!iommu_) {
    auto iommu = Iommu::create({loop_, channel_, log_, device_.max_queues(),
                                [this] { return state_.protocol_has(protocol_feature::reply_ack); },
                                [this](std::uint16_t index) { wake(index); }});
    if (!iommu) return pass_on(iommu);
    iommu_ = std::move(*iommu);
  }
  for (std::uint16_t index = 0; index < state_.rings().size(); ++index) iommu_->end(index);
  iommu_->iotlb()->clear();
  iommu_->iotlb()->move_to(*memory_);
  memory_ =
      std::make_shared<const MemoryMap>(memory_->translated_by(wanted ? iommu_->iotlb() : nullptr));
  return {};
}

/// What a ring waits for may be known now.
void Session::wake(std::uint16_t index) {
  const VringConfig& ring = state_.rings()[index];
  if (!ring.running) {
    if (may_run(index)) start(index);
  } else if (ring.kick) {
    ring.kick->signal_with_care();
  }
}

/// Other memory, under the IOMMU: where the ring areas are is asked anew.
Result<void> Session::adopt_translated(std::shared_ptr<const MemoryMap> memory) {
  if (auto stopped = pause_all(); !stopped) return stopped;
  memory_ = std::move(memory);
  memory_->iotlb()->move_to(*memory_);
  return settle_all();
}

/// A ring that uses what is taken away is stopped, which ends what is in flight, and goes on when
/// it knows where its areas are.
Session::Answer Session::take_iotlb(const IotlbMessage& message) {
  const auto busy = iommu_->take(message);
  if (!busy) return pass_on(busy);
  for (const std::uint16_t index : *busy) {
    if (!state_.rings()[index].running) continue;
    if (const auto stopped = stop(index); !stopped) return pass_on(stopped);
    iommu_->count_drain();
  }
  if (!busy->empty()) {
    if (const auto settled = settle_all(); !settled) return pass_on(settled);
  }
  return Reply::of(std::uint64_t{0});
}

}  // namespace vhost
