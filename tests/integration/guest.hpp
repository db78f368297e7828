#pragma once
#include <atomic>
#include <map>
#include <memory>

#include "libvhost/frontend/blk_driver.hpp"
#include "tests/integration/daemon.hpp"

/*
 * Guests without a VM, on libvhost/frontend: memory, a driver, and what they check.
 */
namespace integration {

using vhost::frontend::BlkDriver;
using vhost::frontend::BlkOptions;
using vhost::frontend::BlkStatus;
using vhost::frontend::BlkType;
using vhost::frontend::Buffer;
using vhost::frontend::Segment;
using vhost::frontend::SharedMemory;

inline constexpr std::uint64_t sector = 512;
inline constexpr std::uint64_t mebi = std::uint64_t{1} << 20;

/// Bytes that tell where they belong: each 8 of them differ with `seed` and position.
[[nodiscard]] std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed);
void fill(std::span<std::byte> bytes, std::uint64_t seed);
[[nodiscard]] bool holds(std::span<const std::byte> bytes, std::uint64_t seed);

/// A driver with its memory.
class Guest {
 public:
  explicit Guest(const std::string& socket, BlkOptions options = {},
                 std::size_t memory_bytes = 32 * mebi)
      : Guest(connect(socket), std::move(options), memory_bytes) {}
  Guest(vhost::frontend::Connection connection, BlkOptions options, std::size_t memory_bytes)
      : memory_(with_region(memory_bytes)),
        disk_(must(BlkDriver::attach(std::move(connection), *memory_, std::move(options)))) {}

  BlkDriver* operator->() { return disk_.get(); }
  BlkDriver& operator*() { return *disk_; }
  [[nodiscard]] SharedMemory& memory() { return *memory_; }
  [[nodiscard]] Buffer allocate(std::size_t bytes, std::size_t alignment = 4096) {
    return must(memory_->allocate(bytes, alignment));
  }

  void write(std::uint64_t first_sector, std::uint64_t seed, std::size_t bytes) {
    must(disk_->write(first_sector, pattern(bytes, seed)));
  }
  [[nodiscard]] bool reads(std::uint64_t first_sector, std::uint64_t seed, std::size_t bytes);

  /// A chain made of exactly these pieces on a queue, and the status byte, which is the last
  /// writable byte. Throws if it does not come back.
  BlkStatus perform(std::span<const Segment> readable, std::span<const Segment> writable,
                    std::size_t queue = 0);
  /// The used length of the last perform().
  [[nodiscard]] std::uint32_t used_length() const { return used_length_; }
  [[nodiscard]] std::byte& at(std::uint64_t guest_address);

 private:
  static std::unique_ptr<SharedMemory> with_region(std::size_t bytes);

  std::unique_ptr<SharedMemory> memory_;
  std::unique_ptr<BlkDriver> disk_;
  std::uint32_t used_length_ = 0;
};

/// Writes and reads over a part of the disk of its own, through one queue; whatever is read is
/// compared with what was written there last. Each slot has its own blocks, so that no two
/// requests in flight touch the same bytes.
///
/// Thread: the one that owns the queue. `completed` may be read by others.
class Load {
 public:
  struct Shape {
    std::size_t queue = 0;
    std::uint64_t first_sector = 0;
    std::uint64_t blocks = 256;
    std::uint32_t block_bytes = 4096;
    std::uint16_t depth = 16;
    std::size_t misalignment = 0;  ///< bytes that buffers start behind a page
    std::uint32_t seed = 1;
  };
  Load(Guest& guest, const Shape& shape);
  ~Load();

  /// Submits until `depth` requests are with the device.
  void submit();
  /// Takes in what is done, waiting up to `time` for the first. Throws if data or status is wrong.
  /// False: nothing came.
  bool reap(milliseconds time = milliseconds(0));
  /// Rounds of submit and reap until told otherwise; what is in flight is awaited.
  void run(const std::atomic<bool>& stop);
  void run(std::uint64_t requests);
  /// Waits until nothing is in flight any more.
  void settle();
  /// Everything ever written is still there.
  void verify();
  /// Requests that failed are as good as done, and their blocks of unknown content.
  void tolerate_errors() { tolerant_ = true; }

  [[nodiscard]] std::uint32_t in_flight() const { return in_flight_; }
  std::atomic<std::uint64_t> completed = 0;
  std::uint64_t failed = 0;

 private:
  struct Slot {
    Buffer buffer;
    std::byte* data = nullptr;
    Segment segment;
    std::uint64_t block = 0;
    std::uint64_t seed = 0;
    bool writing = false;
    bool busy = false;
  };
  void start(std::uint16_t index);
  void finish(std::uint16_t index, BlkStatus status);
  std::uint32_t random();

  Guest& guest_;
  Shape shape_;
  std::vector<Slot> slots_;
  std::map<std::uint64_t, std::uint64_t> written_;  // block -> seed
  std::uint32_t in_flight_ = 0;
  std::uint32_t state_;
  std::uint64_t next_seed_ = 1;
  bool tolerant_ = false;
};

}  // namespace integration
