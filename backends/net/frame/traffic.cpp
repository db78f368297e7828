#include "backends/net/frame/traffic.hpp"

#include <utility>

namespace net {
namespace {

constexpr bool classes_end_at_their_limits() {
  for (std::size_t i = 0; i + 1 < size_class_limits.size(); ++i) {
    if (size_class(size_class_limits[i]) != i || size_class(size_class_limits[i] + 1) != i + 1) {
      return false;
    }
  }
  return size_class(size_class_limits.back()) + 1 == size_class_limits.size();
}
static_assert(classes_end_at_their_limits());

}  // namespace

std::string_view name(Drop drop) {
  switch (drop) {
    case Drop::too_short: return "too_short";
    case Drop::too_long: return "too_long";
    case Drop::bad_checksum: return "bad_checksum";
    case Drop::bad_segmentation: return "bad_segmentation";
    case Drop::disabled: return "disabled";
    case Drop::spoofed: return "spoofed";
    case Drop::vlan: return "vlan";
    case Drop::storm: return "storm";
    case Drop::reserved: return "reserved";
    case Drop::nowhere: return "nowhere";
    case Drop::link_down: return "link_down";
    case Drop::no_buffers: return "no_buffers";
    case Drop::bad_buffers: return "bad_buffers";
    case Drop::too_big: return "too_big";
    case Drop::full: return "full";
    case Drop::refused: return "refused";
    case Drop::count: break;
  }
  std::unreachable();
}

void Tally::flush(Traffic& traffic) {
  if (frames_ == 0) return;
  traffic.frames.add(frames_);
  traffic.bytes.add(bytes_);
  traffic.bursts.add();
  for (std::size_t i = 0; i < classes_.size(); ++i) {
    if (classes_[i] != 0) traffic.size_classes[i].add(classes_[i]);
  }
  *this = {};
}

}  // namespace net
