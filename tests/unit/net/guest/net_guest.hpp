#pragma once
#include <cstring>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "backends/net/frame/virtio_net.hpp"
#include "libvhost/session/device.hpp"
#include "tests/fakes/event.hpp"
#include "tests/fakes/fake_driver.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {

using vhost::fakes::Buffer;
using vhost::fakes::DriverOptions;
using vhost::fakes::Event;
using vhost::fakes::eventually;
using vhost::fakes::FakeSplitDriver;
using vhost::fakes::GuestMemory;

using Bytes = std::vector<std::byte>;

/// The guest's side of one ring, with its descriptors. `number` keeps the rings of a guest apart.
class GuestRing {
 public:
  explicit GuestRing(GuestMemory& memory, std::uint64_t number,
                     DriverOptions options = {.size = 64})
      : memory_(memory),
        driver_(memory, place(options, number)),
        next_(GuestMemory::low + 0x80000 + number * area_bytes),
        end_(next_ + area_bytes) {}

  [[nodiscard]] vhost::StartedRing start(const std::shared_ptr<const vhost::MemoryMap>& map) {
    auto made = vhost::SplitRing::create(driver_.setup(), map);
    if (!made) ADD_FAILURE() << made.error().what;
    return {std::move(*made), kick.shared(), call.shared(), error.shared()};
  }
  FakeSplitDriver& driver() { return driver_; }
  /// The chains that the device gave back, in its order.
  [[nodiscard]] std::vector<std::uint16_t> take_ids() {
    std::vector<std::uint16_t> ids;
    while (const auto used = driver_.take_used())
      ids.push_back(static_cast<std::uint16_t>(used->id));
    return ids;
  }
  /// Memory that nobody else uses.
  std::uint64_t allocate(std::size_t bytes) {
    const std::uint64_t at = next_;
    next_ += bytes;
    if (next_ > end_) ADD_FAILURE() << "the ring's memory is used up";
    return at;
  }
  void put(std::uint64_t at, std::span<const std::byte> bytes) const {
    std::memcpy(memory_.at(at), bytes.data(), bytes.size());
  }
  [[nodiscard]] Bytes get(std::uint64_t at, std::size_t bytes) const {
    const std::byte* const from = memory_.at(at);
    return {from, from + bytes};
  }

  Event kick, call, error;

 protected:
  static constexpr std::uint64_t area_bytes = 0x40000;

  static DriverOptions place(DriverOptions options, std::uint64_t number) {
    options.at = GuestMemory::low + number * 0x8000;
    return options;
  }
  GuestMemory& memory_;
  FakeSplitDriver driver_;

 private:
  std::uint64_t next_;
  std::uint64_t end_;
};

/// A guest's transmit ring.
class GuestTransmit : public GuestRing {
 public:
  using GuestRing::GuestRing;

  /// Sends a frame behind its header, cut into descriptors of these lengths and one of the rest.
  std::uint16_t send(const Bytes& frame, const VnetHeader& header = {},
                     std::size_t header_size = header_bytes, std::vector<std::uint32_t> cuts = {}) {
    Bytes all(header_size);
    std::memcpy(all.data(), &header, std::min(header_size, sizeof header));
    all.insert(all.end(), frame.begin(), frame.end());
    return send_raw(all, std::move(cuts));
  }
  std::uint16_t send_raw(const Bytes& all, std::vector<std::uint32_t> cuts = {}) {
    const std::uint64_t at = allocate(all.size() + 1);
    put(at, all);
    std::vector<Buffer> buffers;
    std::uint32_t used = 0;
    for (const std::uint32_t cut : cuts) {
      buffers.push_back({at + used, cut});
      used += cut;
    }
    if (used < all.size() || buffers.empty()) {
      buffers.push_back({at + used, static_cast<std::uint32_t>(all.size() - used)});
    }
    return driver_.add(buffers);
  }
  [[nodiscard]] std::size_t take_all() {
    std::size_t count = 0;
    while (driver_.take_used()) ++count;
    return count;
  }
};

/// A frame as the guest finds it.
struct Received {
  VnetHeader header{};
  std::uint16_t buffers = 0;
  Bytes frame;
};

/// A guest's receive ring.
class GuestReceive : public GuestRing {
 public:
  using GuestRing::GuestRing;

  /// Offers a buffer in pieces of these lengths, filled with 0xee.
  std::uint16_t offer(const std::vector<std::uint32_t>& pieces) {
    std::vector<Buffer> buffers;
    for (const std::uint32_t bytes : pieces) {
      const std::uint64_t at = allocate(bytes + 1);
      std::memset(memory_.at(at), 0xee, bytes + 1);
      buffers.push_back({at, bytes, true});
    }
    const std::uint16_t id = driver_.add(buffers);
    offered_.resize(std::max<std::size_t>(offered_.size(), id + 1u));
    offered_[id] = buffers;
    return id;
  }
  void offer_many(std::size_t count, std::uint32_t bytes) {
    for (std::size_t i = 0; i < count; ++i) (void)offer({bytes});
  }
  /// The next frame, put together from its buffers; checks that lengths are as the specification
  /// wants them. `header_size` is 10 for a driver without num_buffers.
  std::optional<Received> receive(std::size_t header_size = header_bytes) {
    const auto first = driver_.take_used();
    if (!first) return std::nullopt;
    Bytes all = bytes_of_chain(*first);
    Received received;
    if (all.size() < header_size) {
      ADD_FAILURE() << "a buffer of " << all.size() << " bytes holds no header";
      return received;
    }
    std::memcpy(&received.header, all.data(), sizeof received.header);
    received.buffers = 1;
    if (header_size == header_bytes) {
      std::memcpy(&received.buffers, all.data() + sizeof received.header, 2);
    }
    for (std::uint16_t i = 1; i < received.buffers; ++i) {
      const auto next = driver_.take_used();
      if (!next) {
        ADD_FAILURE() << "the frame announces " << received.buffers << " buffers";
        break;
      }
      const Bytes more = bytes_of_chain(*next);
      all.insert(all.end(), more.begin(), more.end());
    }
    received.frame.assign(all.begin() + static_cast<std::ptrdiff_t>(header_size), all.end());
    return received;
  }

 private:
  Bytes bytes_of_chain(const vhost::UsedElem& used) {
    Bytes bytes;
    for (const Buffer& buffer : offered_[used.id]) {
      const Bytes piece = get(buffer.address, buffer.length);
      bytes.insert(bytes.end(), piece.begin(), piece.end());
      // What lies behind a buffer is not ours.
      EXPECT_EQ(memory_.load<std::uint8_t>(buffer.address + buffer.length), 0xee);
    }
    if (used.length > bytes.size()) ADD_FAILURE() << "more was used than the buffers hold";
    for (std::size_t i = used.length; i < bytes.size(); ++i) EXPECT_EQ(bytes[i], std::byte{0xee});
    bytes.resize(used.length);
    return bytes;
  }

  std::vector<std::vector<Buffer>> offered_;  // by head
};

}  // namespace net::tests
