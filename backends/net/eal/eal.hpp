#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libvhost/wire/error.hpp"

/*
 * DPDK's environment, done for the user: nobody has to know its arguments.
 *
 * It uses hugepages if enough are free, and says in one line what their lack costs if not. It
 * shares nothing with other processes of DPDK, needs no root, leaves the CPU affinity of the
 * calling thread as it was, and writes to our log instead of stderr.
 *
 * Order: Eal::start() before libvhost's fault guard (EAL takes SIGBUS for a moment, while it
 * allocates) and before there are other threads. All uplinks are closed before it ends.
 */
namespace net {

struct EalSetup {
  std::size_t memory_bytes = 0;            ///< for packet buffers: the sum of uplink_memory()
  std::vector<std::string> pci_devices{};  ///< addresses: these are taken, and no others
  bool no_iommu = false;                   ///< as --unsafe-no-iommu: devices get physical addresses
  std::vector<std::string> extra{};  ///< --eal, split at spaces: wins over what is chosen here
  std::filesystem::path sysfs = "/sys";
};

/// What --eal says as arguments: split at spaces.
[[nodiscard]] std::vector<std::string> split_arguments(std::string_view text);

/// What EAL is started with, and whether that is with hugepages.
struct EalPlan {
  std::vector<std::string> arguments;
  bool hugepages = false;
  std::string note{};  ///< a line for the log: what is missing, what it costs; may be empty
};
/// Chooses. Refuses where it cannot work: a device without IOMMU needs hugepages.
[[nodiscard]] vhost::Result<EalPlan> plan_eal(const EalSetup& setup);

/// DPDK from start() to the end of the object. One in the life of a process: EAL starts only once.
class Eal {
 public:
  /// A refusal has no option's name in front, but where --eal is to blame.
  [[nodiscard]] static vhost::Result<Eal> start(const EalSetup& setup);

  Eal(Eal&& other) noexcept
      : hugepages_(other.hugepages_), ours_(std::exchange(other.ours_, false)) {}
  Eal& operator=(Eal&&) = delete;
  ~Eal();

  [[nodiscard]] bool hugepages() const { return hugepages_; }

 private:
  explicit Eal(bool hugepages) : hugepages_(hugepages) {}

  bool hugepages_;
  bool ours_ = true;
};

/// Gives the calling thread its own caches of packet buffers, as long as the object lives. Each
/// worker has one. Where DPDK has no place for one more thread, it goes on without, slower. Without
/// EAL there is nothing to give.
class EalThread {
 public:
  EalThread();
  EalThread(EalThread&&) = delete;
  EalThread& operator=(EalThread&&) = delete;
  ~EalThread();

 private:
  bool registered_;
};

/// The last line that DPDK logged as an error, for a sentence of ours; empty if there was none
/// since the last call. Control thread.
[[nodiscard]] std::string take_eal_error();

}  // namespace net
