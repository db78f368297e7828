#pragma once
#include <gtest/gtest.h>

#include "libvhost/frontend/net_driver.hpp"
#include "tests/unit/frontend/fake_switch.hpp"

namespace vhost::frontend {

/// A net driver on a fake switch.
class NetTest : public testing::Test {
 protected:
  static constexpr std::size_t to_guest = 0;  // rings of pair 0
  static constexpr std::size_t from_guest = 1;
  using Bytes = FakeSwitch::Bytes;

  Result<std::unique_ptr<NetDriver>> try_attach(NetOptions options = {}) {
    EXPECT_TRUE(memory_.add_region(std::size_t{32} << 20));
    auto connection = Connection::adopt(switch_.backend.socket());
    EXPECT_TRUE(connection);
    switch_.backend.run();
    return NetDriver::attach(std::move(*connection), memory_, options);
  }
  void attach(NetOptions options = {}) {
    auto driver = try_attach(options);
    ASSERT_TRUE(driver) << driver.error().what;
    driver_ = std::move(*driver);
  }
  [[nodiscard]] NetQueue& queue(std::size_t pair = 0) { return driver_->queue(pair); }

  [[nodiscard]] static Bytes pattern(std::size_t bytes) {
    Bytes data(bytes);
    for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7 + i / 256);
    return data;
  }
  /// A frame as a device writes it.
  [[nodiscard]] static Bytes behind_header(const Bytes& frame, std::size_t header_bytes = 12) {
    Bytes whole(header_bytes);
    whole.insert(whole.end(), frame.begin(), frame.end());
    return whole;
  }
  /// Receives one frame, which must come, and gives it back.
  Bytes receive(std::size_t pair = 0) {
    NetFrame frame;
    const Poll answer = queue(pair).receive(frame);
    EXPECT_EQ(answer, Poll::done);
    Bytes bytes(frame.length);
    frame.copy_to(bytes);
    last_header_ = frame.header;
    last_pieces_ = frame.pieces.size();
    queue(pair).give_back(frame);
    queue(pair).kick();
    return bytes;
  }
  /// What receive() says now is that the pair is broken, for this reason.
  void expect_broken(std::string_view reason) {
    NetFrame frame;
    EXPECT_EQ(queue().receive(frame), Poll::broken);
    EXPECT_TRUE(frame.pieces.empty());
    ASSERT_NE(queue().broken_because(), nullptr);
    EXPECT_NE(std::string_view(queue().broken_because()).find(reason), std::string_view::npos)
        << queue().broken_because();
    EXPECT_EQ(queue().receive(frame), Poll::broken);
  }

  SharedMemory memory_;
  FakeSwitch switch_;
  std::unique_ptr<NetDriver> driver_;
  NetHeader last_header_{};
  std::size_t last_pieces_ = 0;
};

}  // namespace vhost::frontend
