#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "libvhost/frontend/net_driver.hpp"
#include "tests/integration/daemon.hpp"

namespace integration {

using vhost::frontend::MacAddress;
using vhost::frontend::NetDriver;
using vhost::frontend::NetOptions;
using Bytes = std::vector<std::byte>;

inline constexpr MacAddress everybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/// An Ethernet frame of no known type, with a payload that counts from `seed`.
[[nodiscard]] inline Bytes frame(const MacAddress& source, const MacAddress& destination,
                                 std::size_t bytes = 100, unsigned seed = 0) {
  Bytes frame(bytes);
  for (std::size_t i = 14; i < bytes; ++i) frame[i] = static_cast<std::byte>(i + seed);
  std::ranges::copy(std::as_bytes(std::span(destination)), frame.begin());
  std::ranges::copy(std::as_bytes(std::span(source)), frame.begin() + 6);
  frame[12] = std::byte{0x88};
  frame[13] = std::byte{0xb5};  // for experiments (IEEE 802)
  return frame;
}

/// A driver's options, on rings of this layout and size.
[[nodiscard]] inline NetOptions on_rings(bool packed, std::uint16_t size = 256) {
  NetOptions options;
  options.queue.ring.size = size;
  if (packed) options.wishes.required_features |= vhost::bit(vhost::feature::ring_packed);
  return options;
}

/// A guest on a port: a driver with memory of its own.
class Station {
 public:
  Station(vhost::frontend::Connection connection, std::uint8_t number,
          const NetOptions& options = {})
      : mac{2, 0, 0, 0, 0, number} {
    must(memory_.add_region(16 << 20));
    driver_ = must(NetDriver::attach(std::move(connection), memory_, options));
  }
  NetDriver* operator->() { return driver_.get(); }
  [[nodiscard]] vhost::frontend::SharedMemory& memory() { return memory_; }

  void send(const MacAddress& destination, std::size_t bytes = 100, unsigned seed = 0) {
    must(driver_->send(frame(mac, destination, bytes, seed)));
  }
  void send_raw(const Bytes& bytes) { must(driver_->send(bytes)); }
  /// The next frame; throws if none comes.
  [[nodiscard]] Bytes receive() { return must(driver_->receive(long_wait * slowness)).bytes; }
  /// No frame comes for a while.
  [[nodiscard]] bool hears_nothing() { return !driver_->receive(milliseconds(100)); }

  const MacAddress mac;

 private:
  vhost::frontend::SharedMemory memory_;
  std::unique_ptr<NetDriver> driver_;
};

/// A vhost-user-net for each test.
class NetServed : public ::testing::Test {
 protected:
  void serve(const Strings& flags, Launch launch = {}) {
    ::unlink(stats.c_str());  // what the last daemon left tells nothing of this one
    Strings all{"--stats-file", stats, "--stats-interval", interval};
    all.insert(all.end(), flags.begin(), flags.end());
    launch.program = "VHOST_USER_NET";
    daemon = std::make_unique<Daemon>(folder, all, launch);
  }
  [[nodiscard]] std::string socket(const std::string& name) const { return folder / name; }
  /// What --port says for this name, with these keys behind it.
  [[nodiscard]] std::string port(const std::string& name, const std::string& keys = {}) const {
    return name + ",socket=" + socket(name) + (keys.empty() ? "" : "," + keys);
  }
  /// A guest on the port of that name.
  [[nodiscard]] Station guest(const std::string& name, std::uint8_t number,
                              const NetOptions& options = {}) {
    return Station(connect(socket(name)), number, options);
  }

  const Folder folder;
  const std::string stats = folder / "stats.json";
  std::string interval = "0.02";
  std::unique_ptr<Daemon> daemon;
};

}  // namespace integration
