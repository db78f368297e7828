#include "common/cpu.hpp"

#include <sched.h>

#include <algorithm>
#include <memory>
#include <string>

namespace common {

using vhost::Fault;

namespace {

struct FreeSet {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, FreeSet>;

constexpr unsigned most_cpus = 8192;  // the largest CONFIG_NR_CPUS

CpuSet empty_set(unsigned cpus) {
  CpuSet set(CPU_ALLOC(cpus));
  if (set) CPU_ZERO_S(CPU_ALLOC_SIZE(cpus), set.get());
  return set;
}

/// "0-3,8"
std::string in_words(const std::vector<unsigned>& cpus) {
  std::string words;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!words.empty()) words += ',';
    words += std::to_string(cpus[i]);
    if (last > i) words += '-' + std::to_string(cpus[last]);
    i = last + 1;
  }
  return words;
}

}  // namespace

vhost::Result<std::vector<unsigned>> allowed_cpus() {
  const std::size_t bytes = CPU_ALLOC_SIZE(most_cpus);
  const CpuSet set = empty_set(most_cpus);
  if (!set || ::sched_getaffinity(0, bytes, set.get()) != 0) {
    return vhost::fail_errno(Fault::host, "cannot ask which CPUs this process may use");
  }
  std::vector<unsigned> cpus;
  for (unsigned cpu = 0; cpu < most_cpus; ++cpu) {
    if (CPU_ISSET_S(cpu, bytes, set.get())) cpus.push_back(cpu);
  }
  return cpus;
}

vhost::Result<void> check_cpus(const std::vector<unsigned>& cpus,
                               const std::vector<unsigned>& allowed) {
  for (const unsigned cpu : cpus) {
    if (std::ranges::find(allowed, cpu) != allowed.end()) continue;
    return vhost::fail(Fault::operator_, "CPU " + std::to_string(cpu) +
                                             " is not there or not allowed to this process: "
                                             "choose from " +
                                             in_words(allowed));
  }
  return {};
}

vhost::Result<void> pin_thread(pthread_t thread, const std::vector<unsigned>& cpus) {
  if (cpus.empty()) return vhost::fail(Fault::operator_, "cannot pin a thread to no CPU at all");
  const unsigned size = *std::ranges::max_element(cpus) + 1;
  const std::size_t bytes = CPU_ALLOC_SIZE(size);
  const CpuSet set = empty_set(size);
  if (!set) return vhost::fail_errno(Fault::host, "cannot pin a thread", ENOMEM);
  for (const unsigned cpu : cpus) CPU_SET_S(cpu, bytes, set.get());
  if (const int error = ::pthread_setaffinity_np(thread, bytes, set.get()); error != 0) {
    return vhost::fail_errno(Fault::host, "cannot pin a thread to CPU " + in_words(cpus), error);
  }
  return {};
}

void name_this_thread(std::string_view name) {
  constexpr std::size_t kept_bytes = 15;
  ::pthread_setname_np(::pthread_self(), std::string(name.substr(0, kept_bytes)).c_str());
}

}  // namespace common
