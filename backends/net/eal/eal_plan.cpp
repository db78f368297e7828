#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>

#include "backends/net/eal/eal.hpp"
#include "common/cpu.hpp"

/*
 * What EAL is started with.
 *
 * With hugepages: --in-memory, which takes them from the kernel without any mount, any file and any
 * privilege, and --single-file-segments, without which virtio-user has too many regions to share.
 * Without: --no-huge with a fixed size, and --no-shconf for what --in-memory would do (22.11
 * refuses the two together).
 */
namespace net {
namespace {

using vhost::Fault, vhost::Result;

constexpr std::size_t mebibyte = std::size_t{1} << 20;
/// For EAL itself, the ethdev library, hash tables, and what does not fit between pools.
constexpr std::size_t base_bytes = 48 * mebibyte;
/// EAL's sets of CPUs end here.
constexpr unsigned most_cpus = 1024;

struct HugepageSize {
  std::size_t bytes = 0;
  std::size_t free = 0;  ///< pages
};

std::size_t number_in(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::size_t number = 0;
  stream >> number;
  return stream ? number : 0;
}

/// By size, the smallest first. Pages that are free but promised to others do not count.
std::vector<HugepageSize> hugepage_sizes(const std::filesystem::path& sysfs) {
  std::vector<HugepageSize> sizes;
  std::error_code none;
  for (const auto& folder :
       std::filesystem::directory_iterator(sysfs / "kernel/mm/hugepages", none)) {
    const std::string name = folder.path().filename();
    constexpr std::string_view prefix = "hugepages-";
    if (!name.starts_with(prefix)) continue;
    std::size_t kibibytes = 0;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), kibibytes);
    if (kibibytes == 0) continue;
    const std::size_t free = number_in(folder.path() / "free_hugepages");
    const std::size_t promised = number_in(folder.path() / "resv_hugepages");
    sizes.push_back({kibibytes << 10, free - std::min(free, promised)});
  }
  std::ranges::sort(sizes, {}, &HugepageSize::bytes);
  return sizes;
}

std::size_t pages_for(std::size_t bytes, std::size_t page) {
  return (bytes + page - 1) / page;
}

bool suffice(const HugepageSize& size, std::size_t bytes) {
  return size.free >= pages_for(bytes, size.bytes);
}

/// "add 22 hugepages of 2048 kB (echo 22 > /sys/.../nr_hugepages ...)"
std::string what_to_add(const std::vector<HugepageSize>& sizes, std::size_t bytes) {
  if (sizes.empty()) return "this kernel has no hugepages";
  const HugepageSize& size = sizes.front();
  return "add " + std::to_string(pages_for(bytes, size.bytes) - size.free) + " hugepages of " +
         std::to_string(size.bytes >> 10) + " kB to the " + std::to_string(size.free) +
         " that are free (vm.nr_hugepages)";
}

/// Whether --eal already says one of these.
bool says(const EalSetup& setup, std::initializer_list<std::string_view> options) {
  return std::ranges::any_of(setup.extra, [&](std::string_view argument) {
    return std::ranges::any_of(options, [&](std::string_view option) {
      const bool longer = option.starts_with("--");
      return argument == option || (longer && argument.starts_with(std::string(option) + '=')) ||
             (!longer && argument.starts_with(option));
    });
  });
}

/// Devices may be there that see physical addresses.
bool unguarded(const EalSetup& setup) {
  return setup.no_iommu && !setup.pci_devices.empty();
}

/// "0@(0,1,5)": one lcore, the calling thread, on all CPUs that it may use now.
Result<std::string> lcores() {
  const auto cpus = common::allowed_cpus();
  if (!cpus) return pass_on(cpus);
  std::string words;
  for (const unsigned cpu : *cpus) {
    if (cpu < most_cpus) words += (words.empty() ? "0@(" : ",") + std::to_string(cpu);
  }
  if (words.empty()) {
    return vhost::fail(Fault::operator_, "DPDK knows CPUs below 1024 only: allow this process one");
  }
  return words + ')';
}

Result<void> choose_memory(EalPlan& plan, const EalSetup& setup) {
  if (says(setup, {"--no-huge", "--in-memory", "--huge-dir", "--legacy-mem"})) return {};
  const std::size_t needed = base_bytes + setup.memory_bytes;
  const auto sizes = hugepage_sizes(setup.sysfs);
  plan.hugepages =
      std::ranges::any_of(sizes, [&](const HugepageSize& size) { return suffice(size, needed); });
  if (plan.hugepages) {
    plan.arguments.insert(plan.arguments.end(), {"--in-memory", "--single-file-segments"});
    return {};
  }
  const std::string cure = what_to_add(sizes, needed);
  if (unguarded(setup)) {
    return vhost::fail(Fault::operator_, "a device without an IOMMU needs hugepages for its " +
                                             std::to_string(pages_for(needed, mebibyte)) +
                                             " MiB: " + cure);
  }
  plan.arguments.insert(plan.arguments.end(), {"--no-huge", "--no-shconf"});
  if (!says(setup, {"-m"})) {
    plan.arguments.insert(plan.arguments.end(),
                          {"-m", std::to_string(pages_for(needed, mebibyte))});
  }
  plan.note =
      "DPDK runs without hugepages: packet buffers lie in 4 KiB pages, which costs uplinks "
      "of DPDK's some speed (guests among themselves none); to use them, " +
      cure;
  return {};
}

}  // namespace

std::vector<std::string> split_arguments(std::string_view text) {
  std::vector<std::string> arguments;
  while (!text.empty()) {
    const std::size_t space = std::min(text.find(' '), text.size());
    if (space > 0) arguments.emplace_back(text.substr(0, space));
    text.remove_prefix(std::min(space + 1, text.size()));
  }
  return arguments;
}

Result<EalPlan> plan_eal(const EalSetup& setup) {
  EalPlan plan{.arguments = {"vhost-user-net"}};
  auto& arguments = plan.arguments;
  if (!says(setup, {"--lcores", "-l", "-c"})) {
    const auto words = lcores();
    if (!words) return pass_on(words);
    arguments.push_back("--lcores=" + *words);
  }
  if (!says(setup, {"--file-prefix"})) {
    arguments.push_back("--file-prefix=vhost-user-net-" + std::to_string(::getpid()));
  }
  if (!says(setup, {"--telemetry"})) arguments.emplace_back("--no-telemetry");
  // Without a list, EAL would take every device that vfio-pci has, also those of others.
  for (const std::string& address : setup.pci_devices) {
    arguments.insert(arguments.end(), {"-a", address});
  }
  if (setup.pci_devices.empty() && !says(setup, {"-a", "--allow"})) {
    arguments.emplace_back("--no-pci");
  }
  if (!says(setup, {"--iova-mode"})) {
    arguments.emplace_back(unguarded(setup) ? "--iova-mode=pa" : "--iova-mode=va");
  }
  if (!says(setup, {"--log-level"})) arguments.emplace_back("--log-level=warning");
  if (const auto chosen = choose_memory(plan, setup); !chosen) return pass_on(chosen);
  arguments.insert(arguments.end(), setup.extra.begin(), setup.extra.end());
  return plan;
}

}  // namespace net
