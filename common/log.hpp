#pragma once
/*
 * The daemons' log: lines on stderr, through spdlog.
 *
 * On a terminal or in a file a line has its time (UTC), level and text. If stderr is the journal's
 * stream (JOURNAL_STREAM names its device and inode) the journal knows the time better, and takes
 * the priority from "<N>" in front of the line. A line is one line whatever is in it: control
 * characters, which a guest or front-end may have sent, are replaced by '?'.
 *
 * spdlog is known to log.cpp only; the format strings here are fmt's, checked when compiled. Any
 * thread may log once set_up() has returned, but the hot path does not: lines that a guest could
 * cause without end go through a Limiter.
 */
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/core.h>

#include "libvhost/session/log.hpp"

namespace common::log {

enum class Level : unsigned char { trace, debug, info, warning, error, off };

/// The levels by the words of --log-level.
inline constexpr std::array<std::pair<std::string_view, Level>, 6> level_names{{
    {"trace", Level::trace},
    {"debug", Level::debug},
    {"info", Level::info},
    {"warning", Level::warning},
    {"error", Level::error},
    {"off", Level::off},
}};

/// Where the lines go to decides how they look.
enum class Style : unsigned char { timestamped, journal };

/// Whether stderr is the stream that `journal_stream` ("device:inode", as in the environment's
/// JOURNAL_STREAM; may be null) names.
[[nodiscard]] Style style_of_stderr(const char* journal_stream);

/// Starts the log; before that, lines are lost. Once, before there are threads. Calling it again
/// changes the level and style.
void set_up(Level level, Style style);
/// As above, with the style that fits stderr.
void set_up(Level level);

/// Whether a line of this level would be written. Cheap.
[[nodiscard]] bool enabled(Level level);

/// Writes a line as it is.
void write(Level level, std::string_view line);

/// Formats and writes a line; does neither if the level is not enabled.
void write_formatted(Level level, fmt::string_view format, fmt::format_args args);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write_formatted(Level::debug, format, fmt::make_format_args(args...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write_formatted(Level::info, format, fmt::make_format_args(args...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write_formatted(Level::warning, format, fmt::make_format_args(args...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write_formatted(Level::error, format, fmt::make_format_args(args...));
}

/// libvhost's lines, written to this log: what it takes as a vhost::Log.
void write_library_line(vhost::LogLevel level, std::string_view line);

/// Lets at most `burst` lines through in each `interval`, and counts the others. One thread's.
class Limiter {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Limiter(Clock::duration interval, unsigned burst = 1)
      : interval_(interval), burst_(burst) {}

  /// Nothing: keep quiet. A number: speak, and that many lines were kept back since the last.
  [[nodiscard]] std::optional<std::uint64_t> admit(Clock::time_point now = Clock::now());

 private:
  Clock::duration interval_;
  unsigned burst_;
  unsigned used_ = 0;
  std::uint64_t kept_back_ = 0;
  std::optional<Clock::time_point> began_;
};

/// Formats and writes a line if `limiter` lets it through, with the count of those it kept back.
template <class... Args>
void limited(Limiter& limiter, Level level, fmt::format_string<Args...> format, Args&&... args) {
  if (!enabled(level)) return;
  const auto kept_back = limiter.admit();
  if (!kept_back) return;
  if (*kept_back == 0) {
    write_formatted(level, format, fmt::make_format_args(args...));
    return;
  }
  const auto line = fmt::vformat(format, fmt::make_format_args(args...));
  write_formatted(level, "{} ({} more lines like this were not written)",
                  fmt::make_format_args(line, *kept_back));
}

}  // namespace common::log
