#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "libvhost/frontend/connection.hpp"

/*
 * A daemon as a process: its flags, its folder, its end. Everything here talks to the real
 * program from outside, by what any user of it has: flags, signals, files, /proc.
 *
 * What should have worked and did not is thrown: gtest ends the test with the sentence.
 */
namespace integration {

using std::chrono::milliseconds;
using Strings = std::vector<std::string>;

/// Under a sanitizer everything is slower, and so it is in an emulated machine, where our runner
/// says so; promises about time are stretched, or not tested.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
inline const bool emulated = std::getenv("VHOST_TESTS_EMULATED") != nullptr;
inline const int slowness = sanitized || emulated ? 10 : 1;
/// For what must come, however busy the machine is: only a test that fails waits so long.
inline constexpr milliseconds long_wait{20'000};

template <class T>
T must(vhost::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().what);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Looks again and again until the condition holds or the time is over.
template <class Condition>
[[nodiscard]] bool eventually(Condition condition, milliseconds time = long_wait) {
  const auto deadline = std::chrono::steady_clock::now() + time * slowness;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::usleep(500);
  }
  return true;
}

/// A folder on a disk (for direct I/O), short enough for a socket's path; removed at the end.
class Folder {
 public:
  Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// The names of what is in it, sorted.
  [[nodiscard]] Strings list() const;
  /// The same, but for the next stats file of a daemon that runs.
  [[nodiscard]] Strings list_settled() const;

 private:
  std::string path_;
};

/// How a process came to its end.
struct End {
  int status = -1;  ///< of exit(), -1 if a signal ended it
  int signal = 0;
  bool operator==(const End&) const = default;
};
inline constexpr End good_end{0, 0};

struct Launch {
  Strings environment{};                   ///< NAME=value, beside ours
  int inherit_fd = -1;                     ///< stays open in the daemon, under the same number
  const char* program = "VHOST_USER_BLK";  ///< the variable that has the program's path
  int stdin_fd = -1;                       ///< what it reads; -1: nothing
};

class Daemon {
 public:
  /// Starts the program with these flags; its stderr goes to a file in `folder`.
  Daemon(const Folder& folder, const Strings& flags, const Launch& launch = {});
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  /// Kills it if it still runs.
  ~Daemon();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// Nothing: it still runs after this time.
  [[nodiscard]] std::optional<End> end_within(milliseconds time);
  /// SIGTERM, and how it ended.
  [[nodiscard]] std::optional<End> terminate();
  /// SIGKILL, and waits until it is gone.
  void kill();
  [[nodiscard]] bool running() { return !end_within(milliseconds(0)); }

  /// What it wrote to stderr so far.
  [[nodiscard]] std::string words() const;
  [[nodiscard]] std::size_t descriptors() const;
  [[nodiscard]] milliseconds cpu_time() const;
  [[nodiscard]] std::size_t resident_bytes() const;

 private:
  std::string stderr_path_;
  pid_t pid_ = -1;
  std::optional<End> end_;
};

/// A file of that size, all zeroes.
std::string make_image(const Folder& folder, std::uint64_t bytes, const std::string& name = "disk");
/// Its bytes, read past any daemon.
[[nodiscard]] std::vector<std::byte> read_file(const std::string& path, std::uint64_t offset,
                                               std::size_t bytes);
[[nodiscard]] std::string read_text(const std::string& path);
/// The statistics; throws if they do not come or are no JSON.
[[nodiscard]] nlohmann::json read_stats(const std::string& path);
/// Waits until the statistics satisfy the condition, and returns them.
template <class Condition>
[[nodiscard]] nlohmann::json stats_when(const std::string& path, Condition condition) {
  nlohmann::json stats;
  if (!eventually([&] { return condition(stats = read_stats(path)); })) {
    throw std::runtime_error("the statistics never came to that: " + stats.dump(1));
  }
  return stats;
}

/// A connection to whoever listens, or will listen soon, at `path`.
[[nodiscard]] inline vhost::frontend::Connection connect(const std::string& path) {
  return must(
      vhost::frontend::Connection::connect(path, {long_wait * slowness, long_wait * slowness}));
}

}  // namespace integration
