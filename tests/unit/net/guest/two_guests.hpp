#pragma once
#include "backends/net/guest/device.hpp"
#include "tests/unit/net/guest/net_guest.hpp"

namespace net::tests {

using namespace std::chrono_literals;
using vhost::bit;

constexpr std::uint64_t modern = bit(vhost::feature::version_1) | feature::mergeable_buffers;

/// Two guests on a patch: what one sends, the other receives.
class TwoGuests : public testing::Test {
 protected:
  static constexpr std::uint16_t receive_ring = 0;
  static constexpr std::uint16_t transmit_ring = 1;

  struct Guest {
    explicit Guest(std::uint64_t first_ring, GuestMemory& memory)
        : receive(memory, first_ring), transmit(memory, first_ring + 1) {}
    GuestReceive receive;
    GuestTransmit transmit;
    std::unique_ptr<ToGuest> to_guest;
    std::unique_ptr<Device> device;
  };

  // Rings that still run are the workers' until these have ended.
  ~TwoGuests() override { workers_.clear(); }

  void make(unsigned workers = 1, Polling polling = Polling::adaptive, Device::Setup setup = {}) {
    desks_ = std::move(*make_desks(workers));
    std::vector<PortSetup> ports(2);
    for (std::size_t i = 0; i < 2; ++i) {
      guests_[i].to_guest = std::make_unique<ToGuest>(name(i), 16, desks_);
      ports[i].name = name(i);
      ports[i].sink = guests_[i].to_guest.get();
    }
    auto fabric = Switch::create(std::move(ports), {.patch = true, .workers = workers});
    ASSERT_TRUE(fabric) << fabric.error().what;
    switch_ = std::move(*fabric);
    std::vector<Worker*> all;
    for (unsigned i = 0; i < workers; ++i) {
      auto worker =
          Worker::start({.number = i, .cpus = {}, .polling = polling}, *desks_[i], *switch_);
      ASSERT_TRUE(worker) << worker.error().what;
      all.push_back(worker->get());
      workers_.push_back(std::move(*worker));
    }
    for (std::size_t i = 0; i < 2; ++i) {
      setup.name = name(i);
      setup.port = PortId{static_cast<std::uint16_t>(i)};
      guests_[i].device = std::make_unique<Device>(setup, *guests_[i].to_guest, all);
    }
  }
  void start(Guest& guest, std::uint64_t features = modern) {
    guest.device->set_features(features);
    guest.device->start_ring(receive_ring, guest.receive.start(map_));
    guest.device->start_ring(transmit_ring, guest.transmit.start(map_));
  }
  void stop(Guest& guest) {
    EXPECT_TRUE(guest.device->stop_ring(receive_ring));
    EXPECT_TRUE(guest.device->stop_ring(transmit_ring));
  }
  /// Starts both, with buffers to receive into.
  void start_both(std::uint64_t features = modern) {
    for (Guest& guest : guests_) {
      guest.receive.offer_many(20, 1600);
      start(guest, features);
    }
  }
  /// Sends as a driver does: with a kick where one is wanted.
  static void send(Guest& guest, const Bytes& frame, const VnetHeader& header = {}) {
    (void)guest.transmit.send(frame, header);
    if (guest.transmit.driver().must_kick()) guest.transmit.kick.add();
  }
  /// Waits for a frame as a guest does: for a call.
  static std::optional<Received> receive(Guest& guest) {
    for (;;) {
      if (auto one = guest.receive.receive()) return one;
      if (!guest.receive.call.wait(5s)) return std::nullopt;
      (void)guest.receive.call.count();
    }
  }
  [[nodiscard]] bool asleep(const Guest& guest) const {
    return const_cast<Guest&>(guest).transmit.driver().must_kick();
  }
  static std::string name(std::size_t i) { return i == 0 ? "left" : "right"; }

  GuestMemory memory_;
  std::shared_ptr<const vhost::MemoryMap> map_ = memory_.map();
  std::array<Guest, 2> guests_{Guest{0, memory_}, Guest{2, memory_}};
  Guest& left_ = guests_[0];
  Guest& right_ = guests_[1];
  Desks desks_;
  std::unique_ptr<Switch> switch_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace net::tests
