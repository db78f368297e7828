#include "backends/net/uplink/tap.hpp"

#include "backends/net/frame/segment.hpp"
#include "backends/net/uplink/tap_device.hpp"
#include "common/log.hpp"

namespace net {

vhost::Result<std::unique_ptr<Tap>> Tap::open(const UplinkSpec& spec, const UplinkSetup& setup) {
  auto device = TapDevice::open(spec, setup);
  if (!device) return pass_on(device);
  return std::unique_ptr<Tap>(new Tap(spec, setup, std::move(*device)));
}

Tap::Tap(const UplinkSpec& spec, const UplinkSetup& setup, TapDevice device)
    : Uplink(setup.workers),
      name_(spec.text),
      interface_(std::move(device.interface)),
      mtu_(device.mtu),
      accepts_(device.accepts),
      bounce_(setup.workers) {
  for (auto& fd : device.queues) {
    queues_.push_back(
        std::make_unique<TapQueue>(std::move(fd), setup.port, "--uplink " + spec.text));
    sources_.push_back(queues_.back().get());
  }
  for (auto& bounce : bounce_) {
    bounce = std::make_unique_for_overwrite<std::byte[]>(longest_frame);
  }
}

void Tap::deliver(std::span<Frame* const> frames, unsigned worker) {
  Traffic& traffic = to_uplink_[worker];
  Tally tally;
  for (Frame* const frame : frames) {
    switch (missing(*frame, accepts_)) {
      case Missing::checksum:
        complete_checksum(*frame);
        traffic.summed.add();
        [[fallthrough]];
      case Missing::nothing: send(*frame, worker, tally); continue;
      case Missing::segmentation: break;
    }
    Segmenter segments(*frame, accepts_);
    traffic.segmented.add();
    Frame part;
    while (segments.next(part)) send(part, worker, tally);
  }
  tally.flush(traffic);
}

void Tap::send(const Frame& frame, unsigned worker, Tally& tally) {
  Traffic& traffic = to_uplink_[worker];
  TapQueue& queue = *queues_[worker % queues_.size()];
  switch (queue.send(frame, accepts_, {bounce_[worker].get(), longest_frame})) {
    case TapQueue::Sent::sent: tally.add(frame.length()); break;
    case TapQueue::Sent::full: traffic.drop(Drop::full); break;
    case TapQueue::Sent::link_down: traffic.drop(Drop::link_down); break;
    case TapQueue::Sent::refused: traffic.drop(Drop::refused); break;
  }
}

bool Tap::link_up() {
  const bool up = !queues_.front()->gone() && look_at_tap(interface_).up;
  if (up != was_up_) common::log::info("--uplink {}: the link is {}", name_, up ? "up" : "down");
  return was_up_ = up;
}

std::vector<DriverCounter> Tap::driver_counters() const {
  return look_at_tap(interface_).counters;
}

}  // namespace net
