/*
 * A guest that rewrites its rings, headers and frames while we read them.
 *
 * Under AddressSanitizer, and with the guard pages around guest memory, any use of a value that was
 * checked in one form and used in another ends the test. ThreadSanitizer would call the guest's own
 * writes a race, which they are: it sits this one out.
 */
#include <atomic>
#include <random>
#include <thread>

#include "backends/net/guest/from_guest.hpp"
#include "backends/net/guest/to_guest.hpp"
#include "libvhost/ring/barrier.hpp"
#include "tests/unit/net/guest/net_guest.hpp"

namespace net::tests {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t all_features =
    vhost::bit(vhost::feature::version_1) | feature::mergeable_buffers | feature::guest_csum;
constexpr Accepts everything{true, true, true, true, true};

/// One guest that sends, and one that receives, in one memory.
class Mutated : public testing::Test {
 protected:
  static constexpr std::uint16_t size = 16;
  static constexpr std::uint32_t buffer_bytes = 2048;
  static constexpr std::uint64_t buffers_at = GuestMemory::low + 0x100000;

  /// Both rings anew, with plausible chains in them.
  void start() {
    for (FakeSplitDriver* const driver : {&from_, &to_}) {
      driver->start_at(0);
      for (std::uint16_t i = 0; i < size; ++i) write_descriptor(*driver, i);
      for (std::uint16_t i = 0; i < size; ++i) driver->avail_entry(i, i);
    }
    write_frames();
    from_.avail_idx(size);
    to_.avail_idx(size);
    queue_.emplace(FromGuest::Setup{PortId{0}, 0, "guest", header_bytes, everything}, ring(from_),
                   *desks_[0], stats_);
    to_guest_.make_room(0);
    to_guest_.start(0, ring(to_), GuestForm::of(all_features, 9000));
    burst_.room.resize(queue_->room_needed());
  }
  void stop() {
    (void)to_guest_.stop(0);
    queue_.reset();
  }
  /// Frames that ask for segmentation: Ethernet, IPv4, TCP.
  void write_frames() const {
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t at = buffers_at + i * buffer_bytes;
      memory_.store(at, VnetHeader{needs_csum, gso::tcp4, 54, 500, 34, 16});
      constexpr std::array<std::uint8_t, 24> headers{
          2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0, 0x45, 0, 0x07, 0xe6, 0, 0, 0, 0, 64, 6};
      memory_.store(at + 12, headers);
      memory_.store(at + 12 + 34 + 12, std::uint8_t{0x50});
    }
  }
  void write_descriptor(FakeSplitDriver& driver, std::uint16_t index) const {
    const bool receives = &driver == &to_;
    const std::uint64_t at =
        buffers_at + (receives ? size * buffer_bytes : 0) + index * buffer_bytes;
    driver.descriptor(index,
                      {at, buffer_bytes, receives ? vhost::desc_write : std::uint16_t{0}, 0});
  }
  [[nodiscard]] vhost::StartedRing ring(FakeSplitDriver& driver) const {
    auto made = vhost::SplitRing::create(driver.setup(), map_);
    if (!made) ADD_FAILURE() << made.error().what;
    return {std::move(*made), event_.shared(), event_.shared(), event_.shared()};
  }
  /// Sends what is there, as a worker would.
  void turn() {
    burst_.count = 0;
    if (!queue_->take(burst_)) return;
    std::array<Frame*, Burst::most> frames{};
    for (std::size_t i = 0; i < burst_.count; ++i) frames[i] = &burst_.frames[i];
    if (burst_.count != 0) to_guest_.deliver(std::span(frames).first(burst_.count), 0);
    queue_->release();
    to_guest_.flush(0);
  }

  GuestMemory memory_;
  std::shared_ptr<const vhost::MemoryMap> map_ = memory_.map();
  FakeSplitDriver from_{memory_, {.size = size, .at = GuestMemory::low}};
  FakeSplitDriver to_{memory_, {.size = size, .at = GuestMemory::low + 0x8000}};
  Event event_;
  Desks desks_ = std::move(*make_desks(1));
  QueueStats stats_;
  std::optional<FromGuest> queue_;
  ToGuest to_guest_{"guest", 1, desks_};
  Burst burst_;
};

/// What a guest's other processor does meanwhile.
void mutate(const GuestMemory& memory, const std::atomic<bool>& go_on) {
  std::mt19937_64 random(1);
  const auto pick = [&](std::uint64_t below) { return random() % below; };
  while (go_on.load(std::memory_order_relaxed)) {
    std::this_thread::sleep_for(1us);  // or no ring would live long enough to be of interest
    switch (pick(12)) {
      case 0:  // descriptors and the available rings
        memory.store(GuestMemory::low + pick(2) * 0x8000 + pick(512),
                     static_cast<std::uint8_t>(random()));
        break;
      case 1:  // the available indexes step on
        for (const std::uint64_t ring : {0, 0x8000}) {
          const std::uint64_t at = GuestMemory::low + ring + 16 * 16 + 2;
          memory.store(at, static_cast<std::uint16_t>(memory.load<std::uint16_t>(at) + pick(3)));
        }
        break;
      case 2:
      case 3:
      case 4:
      case 5:  // a header, with something that is nearly right
        memory.store(
            GuestMemory::low + 0x100000 + pick(16) * 2048,
            VnetHeader{static_cast<std::uint8_t>(pick(4)), static_cast<std::uint8_t>(pick(6)),
                       static_cast<std::uint16_t>(random()), static_cast<std::uint16_t>(pick(3000)),
                       static_cast<std::uint16_t>(pick(2100)),
                       static_cast<std::uint16_t>(pick(40))});
        break;
      default:  // a frame's protocol headers
        memory.store(GuestMemory::low + 0x100000 + pick(16) * 2048 + 12 + pick(64),
                     static_cast<std::uint8_t>(random()));
    }
  }
}

TEST_F(Mutated, GuestsHarmNobodyElse) {
#if defined(VHOST_UNDER_TSAN)
  GTEST_SKIP() << "the guest's writes are a race, and are meant to be";
#endif
  std::atomic<bool> go_on = true;
  std::uint64_t served = 0;
  {
    const std::jthread guest([&] { mutate(memory_, go_on); });
    const auto end = std::chrono::steady_clock::now() + 2s;
    while (std::chrono::steady_clock::now() < end) {
      start();
      for (int i = 0; i < 20; ++i) turn();
      stop();
    }
    served = stats_.traffic.frames.value();
    go_on = false;
  }
  // The test is worth something only if both ways were gone often.
  EXPECT_GT(served, 1000u);
  EXPECT_GT(to_guest_.stats(0)->traffic.frames.value(), 1000u);
  EXPECT_GT(to_guest_.stats(0)->traffic.segmented.value(), 10u);
  EXPECT_GT(stats_.broken.value(), 10u);
  for (const Drop why : {Drop::bad_checksum, Drop::bad_segmentation}) {
    EXPECT_GT(stats_.traffic.dropped[static_cast<std::size_t>(why)].value(), 10u) << name(why);
  }
}

}  // namespace
}  // namespace net::tests
