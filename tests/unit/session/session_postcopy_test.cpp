#include <poll.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "libvhost/memory/fault_guard.hpp"
#include "libvhost/memory/userfault.hpp"
#include "tests/fakes/page_server.hpp"
#include "tests/unit/session/session_fixture.hpp"

/* Memory that comes page by page: the order of the messages, and who waits for what. */
namespace vhost::tests {
namespace {

using namespace std::chrono_literals;
using fakes::PageServer;

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

TEST_F(SessionPostcopyTest, IsOfferedOnlyWhereTheOperatorWantsIt) {
  FakeFrontend other(device_);
  const auto bits = [](FakeFrontend& frontend) {
    return *frontend.ask<std::uint64_t>(Request::get_protocol_features);
  };
  EXPECT_TRUE(has(bits(frontend_), protocol_feature::pagefault));
  EXPECT_FALSE(has(bits(other), protocol_feature::pagefault));
  EXPECT_EQ(bits(frontend_) & ~bits(other), bit(protocol_feature::pagefault));
}

TEST_F(SessionPostcopyTest, AdviseGivesADescriptorAndWatchesNothingYet) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  const UniqueFd userfault = advise();
  ASSERT_TRUE(userfault);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done) << "acknowledged as ever";
  EXPECT_EQ(regions(), 2u);
}

TEST_F(SessionPostcopyTest, RefusesListenWithoutAdvise) {
  EXPECT_EQ(listen(), Outcome::refused);
}

TEST_F(SessionPostcopyTest, RefusesEndWithoutListen) {
  EXPECT_EQ(end(), 1u);
  (void)advise();
  EXPECT_EQ(end(), 1u);
  EXPECT_EQ(listen(), Outcome::done);
  EXPECT_EQ(end(), 0u);
  EXPECT_EQ(end(), 1u);
  EXPECT_EQ(listen(), Outcome::refused) << "it takes another ADVISE";
}

TEST_F(SessionPostcopyTest, RefusesAdviseAfterListenByAnAnswerWithoutADescriptor) {
  const UniqueFd userfault = begin();
  ASSERT_TRUE(send(Request::postcopy_advise));
  const auto answer = frontend_.reply();
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->payload.empty());
  EXPECT_TRUE(answer->fds.empty());
  EXPECT_EQ(end(), 0u);
  EXPECT_TRUE(advise()) << "another migration";
}

TEST_F(SessionPostcopyTest, ServesQemusOneConversationForEachPairOfRings) {
  const UniqueFd second_pair = advise();
  const UniqueFd first_pair = advise();
  ASSERT_EQ(listen(), Outcome::done);
  ASSERT_EQ(listen(), Outcome::done);
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(announce(2), place) << "the same region, for the other pair";
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);

  std::jthread reader([&] { (void)peek(place); });
  EXPECT_TRUE(waits(first_pair)) << "the last that was advised is told";
  EXPECT_FALSE(waits(second_pair, 0ms));
  EXPECT_EQ(end(), 0u);
  reader.join();
  EXPECT_EQ(end(), 0u);
  EXPECT_EQ(end(), 1u);
}

TEST_F(SessionPostcopyTest, AnnouncesWhereEachRegionsFirstByteIs) {
  memory_.add({0x20'0000'0000, 8192, 0x7c0000000000, 12288});  // not at its file's beginning
  const UniqueFd userfault = begin();
  const auto found = announce_table({0, 2, 3});
  ASSERT_EQ(found.size(), 3u);
  const std::array which{0, 2, 3};
  for (std::size_t i = 0; i < which.size(); ++i) {
    const MemoryRegion& region = memory_.regions()[static_cast<std::size_t>(which[i])];
    memory_.store(region.guest_address + 5, std::byte{0x40});
    memory_.store(region.guest_address + region.size_bytes - 1, std::byte{0x41});
    EXPECT_EQ(peek(found[i] + 5), std::byte{0x40});
    EXPECT_EQ(peek(found[i] + region.size_bytes - 1), std::byte{0x41});
  }
}

TEST_F(SessionPostcopyTest, UsesNoMemoryBeforeItIsAcknowledged) {
  memory_.store(driver_.used_at(), std::uint32_t{0});  // the page has come
  const UniqueFd userfault = begin();
  configure_ring();
  ASSERT_EQ(announce_table({0, 1, 2}).size(), 3u);
  EXPECT_EQ(regions(), 0u);
  EXPECT_TRUE(device_.running.empty());
  EXPECT_FALSE(waits(userfault, 0ms));
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  EXPECT_EQ(regions(), 3u);
  EXPECT_EQ(device_.running.size(), 1u);
}

TEST_F(SessionPostcopyTest, TakesAnAcknowledgementAsTheSpecificationAndAsQemuHasIt) {
  const UniqueFd userfault = begin();
  for (const auto& value : {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(0)}) {
    ASSERT_EQ(announce_table({0}).size(), 1u);
    ASSERT_TRUE(acknowledge(Request::set_mem_table, value));
    EXPECT_EQ(regions(), 1u);
    ASSERT_NE(announce(1), nullptr);
    EXPECT_EQ(regions(), 1u);
    ASSERT_TRUE(acknowledge(Request::add_mem_reg, value));
    EXPECT_EQ(regions(), 2u);
  }
}

TEST_F(SessionPostcopyTest, SeveralRegionsHaveOneAcknowledgement) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_NE(announce(1), nullptr);
  ASSERT_NE(announce(2), nullptr);
  EXPECT_EQ(regions(), 0u);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 3u);
}

TEST_F(SessionPostcopyTest, TakesQemusAcknowledgementOfNoNewMemory) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_TRUE(acknowledge(Request{0})) << "nothing had changed";
  const SingleRegion gone{0, memory_.regions()[0]};
  ASSERT_TRUE(send(Request::rem_mem_reg, bytes_of(gone)));
  EXPECT_TRUE(acknowledge(Request::rem_mem_reg));
  EXPECT_EQ(regions(), 0u);
  EXPECT_FALSE(frontend_.reply());
}

TEST_F(SessionPostcopyTest, AnEmptyTableIsATableWhereNothingIsToBeAcknowledged) {
  const UniqueFd userfault = begin();
  ASSERT_EQ(announce_table({0}).size(), 1u);
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  ASSERT_TRUE(send(Request::set_mem_table, bytes_of(MemoryTableHeader{0, 0})));
  EXPECT_TRUE(frontend_.reply());
  EXPECT_EQ(regions(), 1u);
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  EXPECT_EQ(regions(), 0u);
}

TEST_F(SessionPostcopyTest, EndsTheConnectionOfAFrontEndThatCannotBringPages) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  EXPECT_FALSE(acknowledge(Request::add_mem_reg, 1));
}

TEST_F(SessionPostcopyTest, NothingIsAnAcknowledgementOutsideOfPostcopy) {
  (void)advise();
  EXPECT_FALSE(acknowledge(Request::add_mem_reg));
}

TEST_F(SessionPostcopyTest, WhatHasADescriptorOrAsksForAnAnswerIsNoAcknowledgement) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  EXPECT_EQ(frontend_.tell(Request::add_mem_reg, std::uint64_t{0}), Outcome::refused);
  EXPECT_EQ(frontend_.tell(Request::add_mem_reg, std::uint64_t{0}, {kick_.get()}),
            Outcome::refused);
  const int fd = kick_.get();
  EXPECT_FALSE(send(Request::add_mem_reg, bytes_of(std::uint64_t{0}), std::span(&fd, 1)));
}

TEST_F(SessionPostcopyTest, RefusesARemovalBeforeTheAcknowledgementAndTakesOneAfter) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  const SingleRegion gone{0, memory_.regions()[0]};
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, gone), Outcome::refused);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, gone), Outcome::done);
  EXPECT_EQ(regions(), 0u);
  ASSERT_NE(announce(0), nullptr) << "and it may come again";
}

TEST_F(SessionPostcopyTest, RefusesMemoryThatOverlapsWhatIsOnlyAnnounced) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  const SingleRegion same{0, memory_.regions()[0]};
  EXPECT_EQ(frontend_.tell(Request::add_mem_reg, same, {memory_.fds()[1].get()}), Outcome::refused);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);
}

TEST_F(SessionPostcopyTest, TakesAnAcknowledgementThatCameAfterTheEnd) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_EQ(end(), 0u);
  EXPECT_EQ(regions(), 0u);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, SingleRegion{0, memory_.regions()[0]}),
            Outcome::done);
}

TEST_F(SessionPostcopyTest, ATableAfterTheEndReplacesWhatWasAnnounced) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_EQ(end(), 0u);
  EXPECT_EQ(frontend_.set_memory(memory_, {1, 2}), Outcome::done);
  EXPECT_EQ(regions(), 2u);
  EXPECT_FALSE(acknowledge(Request::add_mem_reg)) << "there is nothing to acknowledge";
}

TEST_F(SessionPostcopyTest, LetsGoOfMemoryThatIsRemovedWhilePagesCome) {
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) count += line.contains("memfd:guest");
    return count;
  };
  const UniqueFd userfault = begin();
  const std::size_t before = mappings();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(mappings(), before + 1);
  const SingleRegion gone{0, memory_.regions()[0]};
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, gone), Outcome::done);
  EXPECT_EQ(mappings(), before);
}

TEST_F(SessionPostcopyTest, PagesComeWhileARingIsStartedAndUsed) {
  PageServer server(5ms);
  (void)driver_.add({{GuestMemory::far + 4096, 4096}});
  memory_.store(GuestMemory::far + 4100, std::uint64_t{0x1234567890});
  for (const std::size_t region : {0u, 1u, 2u}) move_out(server, region);

  server.adopt(begin());
  const auto found = announce_table({0, 1, 2});
  for (std::size_t i = 0; i < found.size(); ++i) {
    server.learn(memory_.at(memory_.regions()[i].guest_address),
                 reinterpret_cast<std::uintptr_t>(found[i]));
  }
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  configure_ring();
  ASSERT_EQ(device_.running.size(), 1u);
  std::array<iovec, 8> room{};
  Chain chain(room);
  ASSERT_EQ(device_.ring(0).pop(chain), Pop::ready);
  std::uint64_t value = 0;
  std::memcpy(&value, found[2] + 4100, sizeof value);
  EXPECT_EQ(value, 0x1234567890u);
  EXPECT_GE(server.asked_by_backend(), 2u);
  EXPECT_FALSE(server.was_asked_for_the_unknown());
  server.push_all();
  EXPECT_EQ(end(), 0u);
}

TEST_F(SessionPostcopyTest, WatchesMemoryThatWasSharedBefore) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  configure_ring();
  PageServer server(0ms);
  move_out(server, 0);
  const UniqueFd userfault = begin();
  device_.look();
  EXPECT_TRUE(waits(userfault));
  EXPECT_EQ(end(), 0u) << "and whoever waits is woken by the end";
}

TEST_F(SessionPostcopyTest, WatchesNothingAfterTheEnd) {
  const UniqueFd userfault = begin();
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  ASSERT_EQ(end(), 0u);
  EXPECT_EQ(peek(place), std::byte{0});
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done) << "acknowledged as ever";
}

TEST_F(SessionPostcopyTest, WhoWaitsIsWokenWhenTheFrontEndDiesThoughNobodyReadsTheSocket) {
  const UniqueFd userfault = begin();
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  std::atomic<int> got = -1;
  std::jthread reader([&] { got = static_cast<int>(peek(place)); });
  ASSERT_TRUE(waits(userfault));
  frontend_.die();
  reader.join();
  EXPECT_EQ(got, 0);
  EXPECT_EQ(::lseek(memory_.fds()[2].get(), 0, SEEK_DATA), -1) << "no page was made in the file";
  EXPECT_FALSE(frontend_.session().memory_is_whole());
  frontend_.disconnect();
  EXPECT_FALSE(fault_guard::any_lost());
  EXPECT_NE(frontend_.log().back().find("in the middle of postcopy"), std::string::npos);
}

TEST_F(SessionPostcopyTest, WhoWaitsIsWokenWhenTheFrontEndSaysNoMore) {
  const UniqueFd userfault = begin();
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  std::jthread reader([&] { (void)peek(place); });
  ASSERT_TRUE(waits(userfault));
  ASSERT_EQ(::shutdown(frontend_.socket(), SHUT_WR), 0);
  reader.join();
  EXPECT_EQ(::lseek(memory_.fds()[2].get(), 0, SEEK_DATA), -1);
}

TEST_F(SessionPostcopyTest, AWorkerThatWaitsWhenWeEndTheConnectionComesBackAndMakesNoPage) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0, 1, 2}), Outcome::done);
  configure_ring();
  PageServer server(0ms);
  move_out(server, 0);
  const std::size_t before = open_fds();
  {
    const UniqueFd userfault = begin();
    device_.look();
    ASSERT_TRUE(waits(userfault));
    EXPECT_FALSE(send(Request{77}));
  }
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_EQ(::lseek(memory_.fds()[0].get(), 0, SEEK_DATA), -1);
  EXPECT_LT(open_fds(), before);
}

}  // namespace
}  // namespace vhost::tests
