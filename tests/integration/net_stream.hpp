#pragma once
#include <atomic>
#include <cstring>
#include <map>

#include "tests/integration/net_fixture.hpp"

/*
 * Streams of numbered frames between guests. Each frame is a UDP datagram that says to which flow
 * it belongs and which of its flow it is; all bytes behind that follow from the two. So whoever
 * receives it knows whether it is whole, new and in its place.
 *
 * Thread: the one that owns the pair of queues; made and destroyed where the guest is.
 */
namespace integration {

inline constexpr std::size_t stream_headers = 14 + 20 + 8;

struct StreamMark {
  std::uint32_t flow;
  std::uint32_t number;
};

[[nodiscard]] inline std::byte stream_byte(const StreamMark& mark, std::size_t at) {
  return static_cast<std::byte>(at + 7 * mark.number + mark.flow);
}

/// Sends the frames of some flows, as fast as they are taken.
class StreamSource {
 public:
  StreamSource(Station& from, std::size_t pair, const MacAddress& to, std::uint32_t first_flow,
               std::uint32_t flows)
      : queue_(from->queue(pair)), first_flow_(first_flow), next_(flows) {
    for (std::uint32_t i = 0; i < slots; ++i) {
      const auto bytes = static_cast<std::uint32_t>(stream_headers + sizeof(StreamMark) + 20 * i);
      const auto room = must(from.memory().allocate(sizeof(vhost::frontend::NetHeader) + bytes));
      const Bytes headers = ethernet(from.mac, to, bytes);
      std::ranges::copy(headers, room.data + sizeof(vhost::frontend::NetHeader));
      const auto whole = room.segment();
      const auto slot = queue_.prepare(std::span(&whole, 1), i);
      if (!slot) throw std::runtime_error("the ring is too small for a stream");
      frames_.push_back({room.bytes().subspan(sizeof(vhost::frontend::NetHeader)), *slot});
      free_.push_back(i);
    }
  }

  /// Takes back what was sent, and sends as many again. False: nothing came back.
  bool turn() {
    collect();
    if (free_.empty()) return false;
    for (const std::uint64_t index : free_) send(frames_[index]);
    free_.clear();
    queue_.kick();
    return true;
  }
  /// Takes back what was sent.
  void collect() {
    vhost::frontend::NetSent sent;
    while (queue_.poll_sent(sent) == vhost::frontend::Poll::done) free_.push_back(sent.cookie);
  }
  [[nodiscard]] std::uint64_t sent() const { return sent_; }

 private:
  static constexpr std::uint32_t slots = 64;
  struct Frame {
    std::span<std::byte> bytes;
    std::uint16_t slot;
  };

  [[nodiscard]] static Bytes ethernet(const MacAddress& from, const MacAddress& to,
                                      std::size_t bytes) {
    Bytes headers = frame(from, to, stream_headers);
    const auto length = static_cast<std::uint16_t>(bytes - 14);
    const std::array<std::uint8_t, 12> ip{0x08,
                                          0,
                                          0x45,
                                          0,
                                          static_cast<std::uint8_t>(length >> 8),
                                          static_cast<std::uint8_t>(length & 0xff),
                                          0,
                                          0,
                                          0x40,
                                          0,
                                          64,
                                          17};
    std::fill(headers.begin() + 14, headers.end(), std::byte{0});
    std::memcpy(headers.data() + 12, ip.data(), ip.size());
    return headers;
  }
  void send(const Frame& frame) {
    const auto place = static_cast<std::uint32_t>(sent_++ % next_.size());
    const StreamMark mark{first_flow_ + place, next_[place]++};
    const std::uint16_t port = static_cast<std::uint16_t>(mark.flow);
    std::memcpy(frame.bytes.data() + 34, &port, sizeof port);  // the sender's
    std::memcpy(frame.bytes.data() + stream_headers, &mark, sizeof mark);
    for (std::size_t i = stream_headers + sizeof mark; i < frame.bytes.size(); ++i) {
      frame.bytes[i] = stream_byte(mark, i);
    }
    queue_.start(frame.slot);
  }

  vhost::frontend::NetQueue& queue_;
  std::vector<Frame> frames_;
  std::vector<std::uint64_t> free_;
  std::uint32_t first_flow_;
  std::vector<std::uint32_t> next_;  // number, by flow
  std::uint64_t sent_ = 0;
};

/// Receives frames of streams, and looks at each. What is of no stream does not count.
class StreamSink {
 public:
  StreamSink(Station& at, std::size_t pair) : queue_(at->queue(pair)) {}

  /// Takes in what has come. False: nothing.
  bool turn() {
    bool any = false;
    while (queue_.receive(frame_) == vhost::frontend::Poll::done) {
      look();
      queue_.give_back(frame_);
      any = true;
    }
    if (any) queue_.kick();
    return any;
  }

  std::atomic<std::uint64_t> received = 0;
  std::uint64_t garbled = 0;
  std::uint64_t out_of_order = 0;  ///< in their flow, of those that came here
  std::map<std::uint32_t, std::vector<std::uint32_t>> numbers;  ///< as they came, by flow

 private:
  void look() {
    Bytes bytes(frame_.length);
    frame_.copy_to(bytes);
    if (bytes.size() < stream_headers + sizeof(StreamMark) || bytes[12] != std::byte{8}) return;
    ++received;
    StreamMark mark;
    std::memcpy(&mark, bytes.data() + stream_headers, sizeof mark);
    for (std::size_t i = stream_headers + sizeof mark; i < bytes.size(); ++i) {
      if (bytes[i] == stream_byte(mark, i)) continue;
      ++garbled;
      return;
    }
    auto& flow = numbers[mark.flow];
    if (!flow.empty() && flow.back() >= mark.number) ++out_of_order;
    flow.push_back(mark.number);
  }

  vhost::frontend::NetQueue& queue_;
  vhost::frontend::NetFrame frame_;
};

}  // namespace integration
