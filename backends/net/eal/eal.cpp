#include "backends/net/eal/eal.hpp"

#include <fcntl.h>
#include <getopt.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>

#include "common/cpu.hpp"
#include "common/log.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace net {
namespace {

/// Changes only while there are no workers.
std::atomic<bool> eal_runs = false;

using vhost::Fault, vhost::Result;

/// DPDK's log, which any of its threads may write to.
class LogStream {
 public:
  /// What DPDK had to say so far, while stderr was closed to it, is written. What went wrong there
  /// is part of an error, so warnings come only from now on.
  void started() {
    const std::lock_guard lock(mutex_);
    started_ = true;
    for (const std::string& line : std::exchange(early_, {})) common::log::debug("DPDK: {}", line);
  }

  std::string take_error() {
    const std::lock_guard lock(mutex_);
    return std::exchange(last_error_, {});
  }

  void write(std::string_view line, unsigned level) {
    while (line.ends_with('\n')) line.remove_suffix(1);
    if (line.empty()) return;
    const std::lock_guard lock(mutex_);
    const bool error = level <= RTE_LOG_ERR;
    if (error) last_error_ = line;
    if (!started_) {
      if (early_.size() < most_early) early_.emplace_back(line);
    } else if (error) {
      common::log::limited(limiter_, common::log::Level::warning, "DPDK: {}", line);
    } else {
      common::log::debug("DPDK: {}", line);
    }
  }

 private:
  static constexpr std::size_t most_early = 1000;

  std::mutex mutex_;
  bool started_ = false;
  std::vector<std::string> early_;
  std::string last_error_;
  common::log::Limiter limiter_{std::chrono::seconds(10), 5};
};

/// As long as the process: DPDK's threads may outlive everything else.
LogStream& log_stream() {
  static auto* const stream = new LogStream;
  return *stream;
}

ssize_t write_to_log(void*, const char* text, std::size_t bytes) {
  const int level = ::rte_log_cur_msg_loglevel();
  log_stream().write({text, bytes}, level < 0 ? RTE_LOG_DEBUG : static_cast<unsigned>(level));
  return static_cast<ssize_t>(bytes);
}

Result<void> redirect_log() {
  std::FILE* const stream =
      ::fopencookie(nullptr, "w", {.read = {}, .write = write_to_log, .seek = {}, .close = {}});
  if (stream == nullptr || ::rte_openlog_stream(stream) != 0) {
    return vhost::fail_errno(Fault::host, "cannot take over DPDK's log");
  }
  return {};
}

/// Leads a stream to nowhere for a while. EAL prints all of its options to stdout if it is given
/// one that it does not know, and the worst of its errors to stderr beside its log.
class Quiet {
 public:
  explicit Quiet(std::FILE* stream) : stream_(stream) {
    std::fflush(stream);
    kept_ = vhost::UniqueFd(::fcntl(::fileno(stream), F_DUPFD_CLOEXEC, 3));
    const vhost::UniqueFd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (kept_ && nowhere) ::dup2(nowhere.get(), ::fileno(stream));
  }
  Quiet(Quiet&&) = delete;
  Quiet& operator=(Quiet&&) = delete;
  ~Quiet() {
    std::fflush(stream_);
    if (kept_) ::dup2(kept_.get(), ::fileno(stream_));
  }

 private:
  std::FILE* stream_;
  vhost::UniqueFd kept_;
};

/// EAL leaves its folder behind where it shares nothing in it.
void remove_runtime_folder(const std::string& folder) {
  std::error_code not_empty;
  if (!folder.empty()) std::filesystem::remove(folder, not_empty);
}

/// EAL keeps the pointers, and writes to what they point at.
int init(const std::vector<std::string>& arguments) {
  static auto* const kept = new std::vector<std::string>;
  *kept = arguments;
  std::vector<char*> pointers;
  for (std::string& argument : *kept) pointers.push_back(argument.data());
  const auto count = static_cast<int>(pointers.size());
  pointers.push_back(nullptr);
  const Quiet out(stdout);
  const Quiet err(stderr);
  const int messages = std::exchange(::opterr, 0);
  const int result = ::rte_eal_init(count, pointers.data());
  ::opterr = messages;
  return result;
}

std::unexpected<vhost::Error> refuse(const EalSetup& setup, const EalPlan& plan, int error) {
  const std::string said = log_stream().take_error();
  const std::string detail = said.empty() ? std::string(::rte_strerror(error)) : said;
  if (!setup.extra.empty()) {
    return vhost::fail(Fault::operator_,
                       "--eal: DPDK does not start with these arguments (" + detail +
                           "); leave them out, or see DPDK's guide for what it takes");
  }
  if (error == ENOMEM) {
    return vhost::fail(Fault::operator_,
                       "DPDK does not get its memory (" + detail + "): " +
                           (plan.hugepages ? "hugepages were free, but a cgroup or another process "
                                             "has taken them; add some (vm.nr_hugepages)"
                                           : "allow this process more memory"));
  }
  return vhost::fail(Fault::host, "DPDK does not start: " + detail);
}

}  // namespace

Result<Eal> Eal::start(const EalSetup& setup) {
  const auto plan = plan_eal(setup);
  if (!plan) return pass_on(plan);
  const auto cpus = common::allowed_cpus();
  if (!cpus) return pass_on(cpus);
  if (const auto redirected = redirect_log(); !redirected) return pass_on(redirected);
  const int result = init(plan->arguments);
  const int error = rte_errno;
  // EAL has bound this thread to its lcore.
  if (const auto restored = common::pin_thread(::pthread_self(), *cpus); !restored) {
    return pass_on(restored);
  }
  log_stream().started();
  if (result < 0) {
    remove_runtime_folder(::rte_eal_get_runtime_dir());
    return refuse(setup, *plan, error);
  }
  // Who has no packet buffers has nothing to gain.
  if (!plan->note.empty() && setup.memory_bytes != 0) common::log::info("{}", plan->note);
  eal_runs = true;
  return Eal(plan->hugepages);
}

Eal::~Eal() {
  if (!ours_) return;
  eal_runs = false;
  const std::string folder = ::rte_eal_get_runtime_dir();
  ::rte_eal_cleanup();
  remove_runtime_folder(folder);
}

EalThread::EalThread() : registered_(eal_runs && ::rte_thread_register() == 0) {
  if (eal_runs && !registered_) {
    common::log::warning(
        "DPDK has no place for one more thread ({}): this one goes on without its "
        "own cache of packet buffers, slower",
        ::rte_strerror(rte_errno));
  }
}

EalThread::~EalThread() {
  if (registered_) ::rte_thread_unregister();
}

std::string take_eal_error() {
  return log_stream().take_error();
}

}  // namespace net
