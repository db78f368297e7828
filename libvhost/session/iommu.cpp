#include "libvhost/session/iommu.hpp"

#include <algorithm>

namespace vhost {
namespace {

constexpr std::chrono::milliseconds tick{50};

/// Lines that one connection may add to the log because of translations that were refused.
constexpr std::uint64_t most_complaints = 16;

}  // namespace

IommuCounts& IommuCounts::operator+=(const IommuCounts& other) {
  updates += other.updates;
  misses += other.misses;
  refused += other.refused;
  late += other.late;
  invalidations += other.invalidations;
  drains += other.drains;
  overflows += other.overflows;
  return *this;
}

Result<std::unique_ptr<Iommu>> Iommu::create(Setup setup) {
  auto iotlb = Iotlb::create(setup.rings);
  if (!iotlb) return std::unexpected(iotlb.error());
  std::unique_ptr<Iommu> iommu(new Iommu(std::move(setup), std::move(*iotlb)));
  if (const auto watched = iommu->watch(); !watched) return std::unexpected(watched.error());
  return iommu;
}

Result<void> Iommu::watch() {
  auto timer = setup_.loop.every(tick, [this] { on_tick(); });
  if (!timer) return std::unexpected(timer.error());
  timer_ = std::move(*timer);
  EventLoop::change(timer_, {});
  return setup_.loop.watch(iotlb_->wanted_fd(), [this] { on_wanted(); });
}

Iommu::~Iommu() {
  setup_.loop.forget(timer_.get());
  setup_.loop.forget(iotlb_->wanted_fd());
}

void Iommu::begin(std::uint16_t ring) {
  rings_[ring].ledger = std::make_shared<Ledger>();
  iotlb_->join(ring, rings_[ring].ledger);
}

void Iommu::end(std::uint16_t ring) {
  iotlb_->join(ring, nullptr);
  rings_[ring] = {};
  std::erase_if(asked_, [ring](const Asked& asked) { return asked.ring == ring; });
}

Result<std::vector<std::uint16_t>> Iommu::take(const IotlbMessage& message) {
  switch (IotlbType{message.type}) {
    case IotlbType::update:
      if (const auto updated = update(message); !updated) return pass_on(updated);
      ++counts_.updates;
      return {};
    case IotlbType::invalidate:
      ++counts_.invalidations;
      return iotlb_->remove(GuestAddress{message.iova}, message.size_bytes);
    case IotlbType::miss:
    case IotlbType::access_fail: break;
  }
  return fail(Fault::front_end, "IOTLB_MSG is of type " + std::to_string(message.type) +
                                    ", neither an update nor an invalidation");
}

IommuCounts Iommu::counts() const {
  IommuCounts counts = counts_;
  counts.overflows = iotlb_->overflows();
  return counts;
}

Result<void> Iommu::update(const IotlbMessage& message) {
  if (message.access > std::to_underlying(Access::both)) {
    return fail(Fault::front_end, "an IOTLB entry permits " + std::to_string(message.access));
  }
  const auto added =
      iotlb_->add({GuestAddress{message.iova}, message.size_bytes,
                   FrontendAddress{message.frontend_address}, Access{message.access}});
  if (!added) return added;
  settle([this](const Asked& asked) { return iotlb_->has(asked.miss); }, false);
  if (!asked_.empty()) iotlb_->notify();  // there may be room for others
  wake_answered();
  return {};
}

void Iommu::on_wanted() {
  for (const Iotlb::Wanted& wanted : iotlb_->take_wanted()) note(wanted.ring, wanted.misses);
  send_some();
  wake_answered();
}

void Iommu::note(std::uint16_t ring, std::span<const Miss> misses) {
  const auto known = [&](const Miss& miss) {
    return std::ranges::any_of(
        asked_, [&](const Asked& asked) { return asked.ring == ring && asked.miss == miss; });
  };
  for (const Miss& miss : misses) {
    if (rings_[ring].unanswered == most_of_a_ring) break;
    if (iotlb_->has(miss) || known(miss)) continue;
    const std::uint64_t last = ticks_ + static_cast<std::uint64_t>(setup_.patience / tick) + 1;
    asked_.push_back({++last_number_, ring, miss, last});
    ++rings_[ring].unanswered;
    ++counts_.misses;
  }
  if (!asked_.empty() && !std::exchange(ticking_, true)) EventLoop::change(timer_, tick);
}

/// Sends what was not sent yet, in the order in which it was wanted. What has to wait is sent with
/// the next answer or tick.
void Iommu::send_some() {
  auto on_their_way =
      std::max(static_cast<std::size_t>(std::ranges::count_if(asked_, &Asked::sent)),
               setup_.channel.unanswered());
  for (Asked& asked : asked_) {
    if (asked.sent) continue;
    if (on_their_way >= most_sent) return;
    asked.sent = true;
    const BackendChannel::Sent sent = send(asked);
    if (sent == BackendChannel::Sent::yes) {
      ++on_their_way;
      continue;
    }
    asked.sent = false;
    if (sent == BackendChannel::Sent::no_room) return;
    settle([](const Asked& unsent) { return !unsent.sent; }, true);  // there is nobody to ask
    return;
  }
}

BackendChannel::Sent Iommu::send(const Asked& asked) {
  const IotlbMessage message{
      std::to_underlying(asked.miss.address), 0, 0, std::to_underlying(asked.miss.access),
      std::to_underlying(IotlbType::miss),    {}};
  if (!setup_.replies()) {
    return setup_.channel.tell(BackendRequest::iotlb_msg, bytes_of(message));
  }
  return setup_.channel.ask(BackendRequest::iotlb_msg, bytes_of(message),
                            [this, number = asked.number](std::optional<std::uint64_t> reply) {
                              on_reply(number, reply);
                            });
}

void Iommu::on_reply(std::uint64_t number, std::optional<std::uint64_t> reply) {
  iotlb_->notify();  // there may be room for others, or another channel
  const auto found = std::ranges::find(asked_, number, &Asked::number);
  if (found == asked_.end()) return;
  found->sent = false;
  if (!reply) return;
  if (*reply == 0 && ++found->empty_promises < most_empty_promises) return;
  settle([number](const Asked& asked) { return asked.number == number; }, true);
}

void Iommu::on_tick() {
  ++ticks_;
  settle([this](const Asked& asked) { return asked.last_tick <= ticks_; }, true);
  send_some();
  wake_answered();
  if (!asked_.empty()) return;
  ticking_ = false;
  EventLoop::change(timer_, {});
}

/// Those are answered, one way or the other.
template <class Which>
void Iommu::settle(Which which, bool refused) {
  std::erase_if(asked_, [&](const Asked& asked) {
    if (!which(asked)) return false;
    --rings_[asked.ring].unanswered;
    if (!refused) return true;
    iotlb_->refuse(asked.ring, asked.miss);
    const bool late = asked.last_tick <= ticks_;
    counts_.late += late;
    if (++counts_.refused <= most_complaints) {
      setup_.log(LogLevel::warning, "ring " + std::to_string(asked.ring) +
                                        " needs an address that the front-end does not translate" +
                                        (late ? ": no answer came in time" : ""));
    }
    return true;
  });
}

/// Rings that wait, and to which nothing is to be answered any more, look again.
void Iommu::wake_answered() {
  for (std::uint16_t ring = 0; ring < rings_.size(); ++ring) {
    const auto& [ledger, unanswered] = rings_[ring];
    if (!ledger || unanswered != 0) continue;
    const bool waited = [&ledger] {
      // It may have looked just now, and want something else.
      const std::lock_guard guard(ledger->lock);
      return ledger->take_waiting();
    }();
    if (waited) setup_.wake(ring);
  }
}

}  // namespace vhost
