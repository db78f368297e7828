#include "tools/vhost_bench/net_lane.hpp"

#include "tools/vhost_bench/net_frames.hpp"

namespace bench {

using namespace vhost::frontend;

vhost::Result<Sender> Sender::create(const NetPlan& plan, NetQueue& queue, SharedMemory& memory,
                                     std::size_t first_flow) {
  Sender sender(queue);
  const std::size_t frames = queue.from_guest().ring().size();
  const std::uint32_t whole_bytes = queue.header_bytes() + plan.frame_bytes;
  const std::size_t stride = (whole_bytes + 63) / 64 * std::size_t{64};
  const auto room = memory.allocate(frames * stride, 4096);
  if (!room) return std::unexpected(room.error());
  const NetHeader header = header_for(plan.frame_bytes);
  for (std::size_t i = 0; i < frames; ++i) {
    std::byte* whole = room->data + i * stride;
    std::memcpy(whole, &header, queue.header_bytes());
    const auto flow = static_cast<std::uint16_t>((first_flow + i) % plan.flows);
    write_frame({whole + queue.header_bytes(), plan.frame_bytes}, plan.source, plan.destination,
                flow);
    const Segment segment = room->segment(i * stride, whole_bytes);
    const auto slot = queue.prepare(std::span(&segment, 1));
    if (!slot) return vhost::fail(vhost::Fault::operator_, "the ring has no room for the frames");
    sender.idle_.push_back(*slot);
  }
  return sender;
}

}  // namespace bench
