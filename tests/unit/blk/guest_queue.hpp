#pragma once
#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "backends/blk/virtio_blk.hpp"
#include "tests/fakes/event.hpp"
#include "tests/fakes/fake_driver.hpp"

namespace blk::testing_tools {

using vhost::fakes::Buffer;
using vhost::fakes::DriverOptions;
using vhost::fakes::Event;
using vhost::fakes::FakeSplitDriver;
using vhost::fakes::GuestMemory;

/// A request on its way: which chain it is, and where its answer and its data will be.
struct Sent {
  std::uint16_t id = 0;
  std::uint64_t status_at = 0;
  std::uint64_t data_at = 0;
};

/// The guest's side of one queue of a disk. `number` keeps the queues of one guest apart.
class GuestQueue {
 public:
  static constexpr std::byte no_status{0xee};

  explicit GuestQueue(GuestMemory& memory, DriverOptions options = {.size = 16},
                      std::uint64_t number = 0)
      : memory_(memory),
        driver_(memory, place(options, number)),
        fixed_at_(GuestMemory::low + 0x80000 + number * 0x10000),
        data_at_(GuestMemory::low + 0x100000 + number * data_bytes) {}

  /// A request with these buffers between header and status.
  Sent send(Type type, std::uint64_t sector = 0, const std::vector<Buffer>& data = {}) {
    return send_raw(static_cast<std::uint32_t>(type), sector, data);
  }
  Sent send_raw(std::uint32_t type, std::uint64_t sector, const std::vector<Buffer>& data) {
    auto [sent, buffers] = prepare(type, sector, data);
    sent.id = driver_.add(buffers);
    return sent;
  }
  /// The same, by an indirect table.
  Sent send_indirect(Type type, std::uint64_t sector, const std::vector<Buffer>& data) {
    auto [sent, buffers] = prepare(static_cast<std::uint32_t>(type), sector, data);
    const std::uint64_t table = GuestMemory::high;
    sent.id = driver_.add_indirect(buffers, table);
    return sent;
  }
  Sent read(std::uint64_t sector, std::uint32_t bytes = 512) {
    const std::uint64_t at = data(bytes);
    Sent sent = send(Type::in, sector, {{at, bytes, true}});
    sent.data_at = at;
    return sent;
  }
  Sent write(std::uint64_t sector, std::string_view text) {
    const auto bytes = static_cast<std::uint32_t>(text.size());
    const std::uint64_t at = data(bytes);
    std::memcpy(memory_.at(at), text.data(), bytes);
    Sent sent = send(Type::out, sector, {{at, bytes}});
    sent.data_at = at;
    return sent;
  }
  /// A read of `pieces` sectors, each a buffer of its own on the same page: in an indirect table
  /// that all requests of this kind share.
  Sent read_scattered(std::uint32_t pieces) {
    const std::vector<Buffer> data(pieces, Buffer{GuestMemory::far, 512, true});
    return send_indirect(Type::in, 0, data);
  }
  /// Room for data that nobody else uses until 64 KiB later.
  std::uint64_t data(std::uint32_t bytes) {
    if (used_data_ + bytes > data_bytes) used_data_ = 0;
    const std::uint64_t at = data_at_ + used_data_;
    used_data_ += bytes;
    return at;
  }

  [[nodiscard]] std::byte status_byte(const Sent& sent) const {
    return memory_.load<std::byte>(sent.status_at);
  }
  [[nodiscard]] bool has_status(const Sent& sent, Status status) const {
    return status_byte(sent) == static_cast<std::byte>(status);
  }
  [[nodiscard]] std::string_view text_at(std::uint64_t at, std::size_t bytes) const {
    return {reinterpret_cast<const char*>(memory_.at(at)), bytes};
  }
  /// Takes all that was given back; returns how many.
  std::size_t take_all() {
    std::size_t count = 0;
    while (driver_.take_used()) ++count;
    return count;
  }
  FakeSplitDriver& driver() { return driver_; }

 private:
  static constexpr std::uint64_t data_bytes = 0x10000;

  static DriverOptions place(DriverOptions options, std::uint64_t number) {
    options.at = GuestMemory::low + number * 0x8000;
    return options;
  }
  std::pair<Sent, std::vector<Buffer>> prepare(std::uint32_t type, std::uint64_t sector,
                                               const std::vector<Buffer>& data) {
    const std::uint64_t at = fixed_at_ + (requests_++ % 1024) * 64;
    memory_.store(at, RequestHeader{type, 0, sector});
    memory_.store(at + 32, no_status);
    std::vector<Buffer> buffers{{at, sizeof(RequestHeader)}};
    buffers.insert(buffers.end(), data.begin(), data.end());
    buffers.push_back({at + 32, 1, true});
    return {Sent{0, at + 32, 0}, buffers};
  }

  GuestMemory& memory_;
  FakeSplitDriver driver_;
  std::uint64_t fixed_at_;
  std::uint64_t data_at_;
  std::uint64_t used_data_ = 0;
  std::uint64_t requests_ = 0;
};

}  // namespace blk::testing_tools
