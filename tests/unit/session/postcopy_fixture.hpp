#pragma once
#include <poll.h>

#include <thread>

#include "libvhost/memory/fault_guard.hpp"
#include "libvhost/memory/userfault.hpp"
#include "tests/fakes/page_server.hpp"
#include "tests/unit/session/session_fixture.hpp"

namespace vhost::tests {

using fakes::PageServer;
using namespace std::chrono_literals;

/// A device whose rings come back when its worker is done with them.
class DeviceWithWorker : public FakeDevice {
 public:
  /// Looks into ring 0 on a thread of its own.
  void look() {
    worker_ = std::jthread([this] {
      Chain chain(room_);
      (void)ring(0).pop(chain);
    });
  }
  [[nodiscard]] Result<AnyRing> stop_ring(std::uint16_t index) override {
    if (worker_.joinable()) worker_.join();
    return FakeDevice::stop_ring(index);
  }

 private:
  std::array<iovec, 8> room_{};
  std::jthread worker_;
};

class SessionPostcopyTest : public testing::Test {
 protected:
  static constexpr std::uint64_t protocol =
      FakeFrontend::usual_protocol_features | bit(protocol_feature::pagefault);

  void SetUp() override {
    if (const auto possible = userfault::open(); !possible) GTEST_SKIP() << possible.error().what;
    ASSERT_TRUE(fault_guard::install());
    frontend_.negotiate(FakeFrontend::usual_features, protocol);
  }

  bool send(Request request, std::span<const std::byte> payload = {},
            std::span<const int> fds = {}) {
    return frontend_.send(static_cast<std::uint32_t>(request), payload, fds);
  }
  /// The descriptor that came with the answer.
  UniqueFd advise() {
    if (!send(Request::postcopy_advise)) return {};
    auto answer = frontend_.reply();
    if (!answer || !answer->payload.empty() || answer->fds.empty()) return {};
    return std::move(answer->fds.front());
  }
  Outcome listen() { return frontend_.tell(Request::postcopy_listen); }
  std::optional<std::uint64_t> end() { return frontend_.ask<std::uint64_t>(Request::postcopy_end); }
  /// ADVISE and LISTEN.
  UniqueFd begin() {
    UniqueFd userfault = advise();
    EXPECT_TRUE(userfault);
    EXPECT_EQ(listen(), Outcome::done);
    return userfault;
  }

  /// Where the session has each region, by the answer to SET_MEM_TABLE; none if there was none.
  std::vector<std::byte*> announce_table(std::initializer_list<std::size_t> which) {
    const auto [payload, fds] = FakeFrontend::table_of(memory_, which);
    if (!send(Request::set_mem_table, payload, fds)) return {};
    return places(payload);
  }
  std::byte* announce(std::size_t region) {
    const SingleRegion single{0, memory_.regions()[region]};
    const int fd = memory_.fds()[region].get();
    if (!send(Request::add_mem_reg, bytes_of(single), std::span(&fd, 1))) return nullptr;
    const auto found = places(bytes_of(single));
    return found.empty() ? nullptr : found.front();
  }
  /// All but the addresses must be as it was sent.
  std::vector<std::byte*> places(std::span<const std::byte> sent) {
    const auto answer = frontend_.reply();
    if (!answer || answer->payload.size() != sent.size()) return {};
    std::vector<std::byte*> found;
    for (std::size_t at = 8; at < sent.size(); at += sizeof(MemoryRegion)) {
      auto was = read_once<MemoryRegion>(sent.data() + at);
      const auto is = read_once<MemoryRegion>(answer->payload.data() + at);
      found.push_back(reinterpret_cast<std::byte*>(is.frontend_address));
      was.frontend_address = is.frontend_address;
      EXPECT_EQ(std::memcmp(&was, &is, sizeof is), 0);
    }
    return found;
  }
  /// As the specification has it, or as QEMU does.
  bool acknowledge(Request request, std::optional<std::uint64_t> value = 0) {
    if (!value) return send(request);
    return send(request, bytes_of(*value));
  }
  std::size_t regions() { return frontend_.session().info().memory_regions; }

  void configure_ring() {
    ASSERT_EQ(frontend_.num(0, 8), Outcome::done);
    ASSERT_EQ(frontend_.addr(0, driver_.setup()), Outcome::done);
    ASSERT_EQ(frontend_.base(0, 0), Outcome::done);
    ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
    ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  }
  /// A region's pages are all with this server now.
  void move_out(PageServer& server, std::size_t region) {
    const MemoryRegion& where = memory_.regions()[region];
    server.empty(memory_.fds()[region].get(),
                 {memory_.at(where.guest_address) - where.mmap_offset_bytes,
                  where.mmap_offset_bytes + where.size_bytes});
  }
  static std::byte peek(const std::byte* at) { return *static_cast<const volatile std::byte*>(at); }
  /// Somebody waits for a page.
  static bool waits(const UniqueFd& userfault, std::chrono::milliseconds time = 5000ms) {
    pollfd poll{userfault.get(), POLLIN, 0};
    return ::poll(&poll, 1, static_cast<int>(time.count())) == 1;
  }

  DeviceWithWorker device_;
  FakeFrontend frontend_{device_, {.postcopy = true}};
  GuestMemory memory_;
  FakeSplitDriver driver_{memory_, {.size = 8, .event_idx = true}};
  UniqueFd kick_ = FakeFrontend::event();
};

}  // namespace vhost::tests
