#include "libvhost/frontend/net_driver.hpp"

#include <algorithm>

namespace vhost::frontend {
namespace {

constexpr std::size_t rings_per_pair = 2;
constexpr std::size_t max_pairs = (vring_index_mask + 1) / rings_per_pair;
constexpr std::uint32_t usual_buffer_bytes = 2048;

std::unexpected<Error> woke_for(Wake wake, const std::string& what) {
  switch (wake) {
    case Wake::ring_error: return fail(peer_fault, what + ": the back-end gave up the ring");
    case Wake::lost: return fail(peer_fault, what + ": the back-end went away");
    default: return fail(peer_fault, what + " in time");
  }
}

std::string or_else(const char* reason, const char* otherwise) {
  return reason != nullptr ? reason : otherwise;
}

}  // namespace

Result<std::unique_ptr<NetDriver>> NetDriver::attach(Connection connection, SharedMemory& memory,
                                                     NetOptions options) {
  if (options.pairs == 0 || options.pairs > max_pairs) {
    return fail(Fault::operator_, "a network device has 1 to " + std::to_string(max_pairs) +
                                      " pairs of queues, not " + std::to_string(options.pairs));
  }
  if (options.pairs > 1) options.wishes.features |= bit(net_feature::mq);
  std::unique_ptr<NetDriver> driver(new NetDriver(std::move(connection), memory, options));
  if (auto done = driver->set_up(); !done) return std::unexpected(done.error());
  return driver;
}

Result<void> NetDriver::set_up() {
  if (auto done = device_.negotiate(options_.wishes); !done) return done;
  if (options_.pairs > device_.max_queues()) {
    return fail(Fault::operator_, "the back-end has " + std::to_string(device_.max_queues()) +
                                      " pairs of queues, not " + std::to_string(options_.pairs));
  }
  auto made = device_.make_queues(options_.pairs, options_.queue, rings_per_pair);
  if (!made) return made;
  queues_.reserve(options_.pairs);
  for (std::size_t i = 0; i < options_.pairs; ++i) {
    auto queue = NetQueue::create(device_.memory(), device_.queue(rings_per_pair * i),
                                  device_.queue(rings_per_pair * i + 1), queue_options());
    if (!queue) return std::unexpected(queue.error());
    queues_.push_back(std::move(*queue));
  }
  return start();
}

NetQueueOptions NetDriver::queue_options() const {
  const std::uint64_t features = device_.features();
  const bool modern = has(features, feature::version_1);
  const std::uint64_t whole_segments =
      bit(net_feature::guest_tso4) | bit(net_feature::guest_tso6) | bit(net_feature::guest_ufo);
  NetQueueOptions options{.mergeable = mergeable(),
                          .buffers = options_.buffers,
                          .buffer_bytes = options_.buffer_bytes,
                          .descriptor_bytes = options_.descriptor_bytes};
  if (!modern && !options.mergeable) {
    options.header_bytes = net_legacy_header_bytes;
    options.header_apart = !has(features, feature::any_layout);
  }
  if (options.buffer_bytes == 0) {
    const bool long_frames = !options.mergeable && (features & whole_segments) != 0;
    options.buffer_bytes =
        long_frames ? net_longest_frame + options.header_bytes : usual_buffer_bytes;
  }
  return options;
}

Result<void> NetDriver::start() {
  for (NetQueue& queue : queues_) queue.post();
  return device_.start();
}

NetDriver::~NetDriver() {
  [[maybe_unused]] const auto returned = device_.detach();
}

std::vector<ReturnedChain> NetDriver::detach() {
  auto returned = device_.detach();
  std::erase_if(returned, [](const ReturnedChain& chain) { return chain.queue % 2 == 0; });
  for (ReturnedChain& chain : returned) {
    chain.cookie = queues_[chain.queue / rings_per_pair].cookie(chain.cookie);
  }
  for (NetQueue& queue : queues_) queue.forget();
  return returned;
}

Result<void> NetDriver::set_mtu(std::uint16_t bytes) {
  if (!has(device_.protocol_features(), protocol_feature::mtu)) {
    return fail(Fault::unsupported, "the back-end takes no MTU (NET_SET_MTU)");
  }
  return device_.connection().tell(Request::net_set_mtu, std::uint64_t{bytes});
}

Result<void> NetDriver::send_rarp(const MacAddress& mac) {
  if (!has(device_.protocol_features(), protocol_feature::rarp)) {
    return fail(Fault::unsupported, "the back-end announces no addresses (SEND_RARP)");
  }
  std::uint64_t payload = 0;
  std::memcpy(&payload, mac.data(), mac.size());
  return device_.connection().tell(Request::send_rarp, payload);
}

Result<void> NetDriver::send(std::span<const std::byte> frame, const NetHeader& header) {
  NetQueue& queue = queues_.front();
  if (queue.from_guest().ring().outstanding() != 0) {
    return fail(Fault::operator_, "a synchronous send needs pair 0 for itself");
  }
  auto buffer = device_.memory().allocate(std::max<std::size_t>(frame.size(), 1));
  if (!buffer) return std::unexpected(buffer.error());
  std::ranges::copy(frame, buffer->data);
  const Segment data = buffer->segment(0, static_cast<std::uint32_t>(frame.size()));
  if (!queue.send(header, std::span(&data, 1))) {
    device_.memory().release(*buffer);
    return fail(Fault::host, "the frame does not fit into the ring");
  }
  queue.kick();
  const Wake wake = device_.wait(1, options_.send_deadline);
  NetSent sent;
  // Otherwise the device may still read the buffer: it is lost until the region goes.
  if (wake != Wake::used) return woke_for(wake, "a frame was not taken");
  if (queue.poll_sent(sent) != Poll::done) {
    const char* reason = queue.from_guest().ring().broken_because();
    return fail(peer_fault, "a frame was not taken: " + or_else(reason, "nothing came back"));
  }
  device_.memory().release(*buffer);
  return {};
}

Result<NetDriver::Received> NetDriver::receive(std::chrono::milliseconds time) {
  NetQueue& queue = queues_.front();
  NetFrame frame;
  Poll answer = queue.receive(frame);
  if (answer == Poll::empty) {
    const Wake wake = device_.wait(0, time);
    if (wake != Wake::used) return woke_for(wake, "no frame came");
    answer = queue.receive(frame);
  }
  if (answer != Poll::done) {
    return fail(peer_fault,
                "no frame came: " + or_else(queue.broken_because(), "nothing came back"));
  }
  Received received{frame.header, std::vector<std::byte>(frame.length)};
  frame.copy_to(received.bytes);
  queue.give_back(frame);
  queue.kick();
  return received;
}

}  // namespace vhost::frontend
