#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

/// What one run of vhost-bench is to do, and how it went.
namespace bench {

enum class Pattern : std::uint8_t { random, sequential };
enum class Mode : std::uint8_t { polling, interrupt };

struct Plan {
  std::string socket{};
  std::uint16_t queues = 1;
  std::uint16_t depth = 1;  ///< requests in flight on each queue
  std::uint64_t block_bytes = 4096;
  std::uint8_t read_percent = 100;
  Pattern pattern = Pattern::random;
  Mode mode = Mode::polling;
  bool verify = false;
  std::uint64_t rate = 0;  ///< requests in a second, over all queues; 0: as fast as they come back
  std::chrono::milliseconds duration{10000};
  std::chrono::milliseconds warmup{1000};
  std::uint64_t span_bytes = 0;  ///< the part of the disk that is used, from its start; 0: all
  std::uint16_t ring_size = 0;   ///< descriptors; 0: what the depth needs
  bool direct = false;           ///< no indirect descriptors
  bool whole_batches = false;    ///< show requests to the device only when a batch is complete
  bool no_event_idx = false;
  bool packed = false;
  bool legacy = false;
  bool huge_pages = false;
  std::uint64_t iommu_page_bytes = 0;  ///< of an IOMMU between driver and device; 0: there is none
  bool dirty_log = false;
  std::uint64_t seed = 1;

  bool json = false;
  bool calibrate = false;
  std::vector<unsigned> cpus{};
  std::uint64_t target_pid = 0;
};

}  // namespace bench
