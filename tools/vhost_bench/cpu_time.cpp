#include "tools/vhost_bench/cpu_time.hpp"

#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "common/cpu.hpp"

namespace bench {
namespace {

/// utime and stime of /proc/PID/stat: ticks of 10 ms, but of ended threads, too.
std::optional<std::uint64_t> from_stat(const std::string& folder) {
  std::ifstream file(folder + "/stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // The name, in parentheses, may hold anything; fields are counted behind it.
  std::size_t at = line.rfind(')');
  std::uint64_t ticks = 0;
  for (int field = 3; field <= 15 && at != std::string::npos; ++field) {
    at = line.find(' ', at + 1);
    if (field >= 14 && at != std::string::npos) ticks += std::stoull(line.substr(at + 1));
  }
  return ticks * (1'000'000'000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
}

/// The first number of each thread's schedstat: nanoseconds on a CPU.
std::optional<std::uint64_t> from_schedstat(const std::string& folder) {
  std::error_code error;
  std::uint64_t sum = 0;
  for (const auto& task : std::filesystem::directory_iterator(folder + "/task", error)) {
    std::ifstream file(task.path() / "schedstat");
    std::uint64_t time = 0;
    if (!(file >> time)) return std::nullopt;
    sum += time;
  }
  if (error) return std::nullopt;
  return sum;
}

}  // namespace

std::optional<std::uint64_t> cpu_time_ns(std::uint64_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  if (const auto exact = from_schedstat(folder); exact && *exact > 0) return exact;
  return from_stat(folder);
}

void CpuMeter::begin() {
  use_.generator_seconds = -static_cast<double>(own_cpu_time_ns()) / 1e9;
  if (target_pid_ == 0) return;
  if (const auto used = cpu_time_ns(target_pid_)) {
    use_.target_seconds = -static_cast<double>(*used) / 1e9;
  }
}

void CpuMeter::end() {
  use_.generator_seconds += static_cast<double>(own_cpu_time_ns()) / 1e9;
  if (!use_.target_seconds) return;
  const auto used = cpu_time_ns(target_pid_);
  if (!used) use_.target_seconds.reset();
  if (used) *use_.target_seconds += static_cast<double>(*used) / 1e9;
}

double round_trip_ns(unsigned one_cpu, unsigned other_cpu) {
  constexpr unsigned rounds = 200'000;
  struct alignas(128) Line {
    std::atomic<unsigned> value{0};
  };
  Line ping, pong;
  const auto pin = [](unsigned cpu) { std::ignore = common::pin_thread(::pthread_self(), {cpu}); };
  std::thread other([&] {
    pin(other_cpu);
    for (unsigned i = 1; i <= rounds; ++i) {
      while (ping.value.load(std::memory_order_acquire) != i) {
      }
      pong.value.store(i, std::memory_order_release);
    }
  });
  pin(one_cpu);
  const auto start = std::chrono::steady_clock::now();
  for (unsigned i = 1; i <= rounds; ++i) {
    ping.value.store(i, std::memory_order_release);
    while (pong.value.load(std::memory_order_acquire) != i) {
    }
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  other.join();
  return took.count() / rounds;
}

std::uint64_t own_cpu_time_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(time.tv_nsec);
}

}  // namespace bench
