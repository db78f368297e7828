#pragma once
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

#include "backends/blk/image.hpp"
#include "backends/blk/worker.hpp"
#include "tests/unit/blk/guest_queue.hpp"
#include "tests/unit/blk/scratch.hpp"

namespace blk::testing_tools {

using namespace std::chrono_literals;
using vhost::fakes::eventually;

/// Storage that answers when the test says so: a pipe, of which reads wait for bytes.
class SlowStorage {
 public:
  SlowStorage() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) ADD_FAILURE() << "no pipe";
    image_->file = vhost::UniqueFd(ends[0]);
    answers_ = vhost::UniqueFd(ends[1]);
    image_->disk.size_bytes = 1 << 20;
  }
  [[nodiscard]] const std::shared_ptr<Image>& image() const { return image_; }
  /// Lets one read of a sector end.
  void answer() const {
    const std::array<std::byte, 512> sector{};
    EXPECT_EQ(::write(answers_.get(), sector.data(), sector.size()), 512);
  }
  /// Bytes that no read has taken.
  [[nodiscard]] int unread() const {
    int bytes = 0;
    EXPECT_EQ(::ioctl(image_->file.get(), FIONREAD, &bytes), 0);
    return bytes;
  }

 private:
  std::shared_ptr<Image> image_ = std::make_shared<Image>();
  vhost::UniqueFd answers_;
};

/// One queue of the guest's with its descriptors and what is counted.
struct GuestsEnd {
  GuestsEnd(GuestMemory& memory, std::uint16_t queue)
      : guest(memory, {.size = 64}, queue), index(queue) {}

  [[nodiscard]] vhost::StartedRing ring(const std::shared_ptr<const vhost::MemoryMap>& map,
                                        std::uint32_t base = 0) const {
    auto made = vhost::SplitRing::create(setup(base), map, section());
    if (!made) ADD_FAILURE() << made.error().what;
    return {std::move(*made), polled ? nullptr : kick.shared(), call.shared(), error.shared()};
  }
  [[nodiscard]] vhost::InflightSection section() const {
    if (!region) return {};
    return {region, region->bytes(), 64};
  }
  /// From the next ring() on its requests in flight are kept.
  void keep_inflight() {
    auto made = vhost::make_inflight_region(1, 64);
    auto mapped = vhost::Mapping::map(made->file.get(), 0, made->description.mmap_size_bytes);
    region = std::make_shared<const vhost::Mapping>(std::move(*mapped));
  }
  [[nodiscard]] vhost::RingSetup setup(std::uint32_t base) const {
    return const_cast<GuestQueue&>(guest).driver().setup(base);
  }
  /// Kicks if the device wants it, as a driver does behind every request.
  void kick_if_wanted() {
    if (guest.driver().must_kick()) kick.add();
  }
  /// Waits until so many requests have come back, as a guest waits: for calls.
  bool wait_for(std::size_t count) {
    while ((done += guest.take_all()) < count) {
      if (!call.wait()) return false;
      (void)call.count();
    }
    done -= count;
    return true;
  }
  bool read_one() {
    (void)guest.read(0);
    kick_if_wanted();
    return wait_for(1);
  }
  /// The worker has gone to sleep: it asks for kicks.
  bool wait_until_asleep() {
    return eventually([this] { return guest.driver().must_kick(); });
  }

  GuestQueue guest;
  std::uint16_t index;
  std::shared_ptr<const vhost::Mapping> region;
  bool polled = false;
  std::size_t done = 0;
  Event kick, call, error;
  QueueStats stats;
};

/// A guest, and the disk that its queues are served as.
class WorkerTest : public testing::Test {
 protected:
  WorkerTest() { disk_.size_bytes = 1 << 20; }

  std::unique_ptr<Worker> null_worker(common::Patience patience = {}) {
    auto made = make_null_worker({"test-worker", {}, patience});
    if (!made) ADD_FAILURE() << made.error().what;
    return std::move(*made);
  }
  std::unique_ptr<Worker> worker_on(const Image& image, common::Patience patience = {}) {
    auto made = make_file_worker({"test-worker", {}, patience}, image, durable_);
    if (!made) ADD_FAILURE() << made.error().what;
    return std::move(*made);
  }
  void add(Worker& worker, GuestsEnd& end, std::uint32_t base = 0) {
    auto queue = std::make_unique<Queue>(end.index, end.ring(map_, base), disk_, end.stats);
    EXPECT_TRUE(worker.post([&] { worker.add(std::move(queue)); }));
  }
  std::uint32_t remove(Worker& worker, const GuestsEnd& end) {
    return take_back(worker, end, &Worker::remove);
  }
  std::uint32_t suspend(Worker& worker, const GuestsEnd& end) {
    return take_back(worker, end, &Worker::suspend);
  }
  std::uint32_t take_back(Worker& worker, const GuestsEnd& end,
                          vhost::AnyRing (Worker::*how)(std::uint16_t)) {
    std::uint32_t base = 0;
    EXPECT_TRUE(worker.post([&] {
      auto ring = (worker.*how)(end.index);
      base = std::get<vhost::SplitRing>(ring).base();
      EXPECT_EQ(std::get<vhost::SplitRing>(ring).in_flight(), 0u);
    }));
    return base;
  }

  GuestMemory memory_;
  std::shared_ptr<const vhost::MemoryMap> map_ = memory_.map();
  Disk disk_;
  std::atomic<bool> durable_ = false;
};

/// Keeps what a thread still uses that nobody can stop, as the daemon does by leaving at once.
template <class T>
void leave_behind(T thing) {
  static auto* const left = new std::vector<T>;
  left->push_back(std::move(thing));
}

}  // namespace blk::testing_tools
