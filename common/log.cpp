#include "common/log.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace common::log {

namespace {

/// Read at every line by any thread; spdlog's own level would need its registry's lock.
std::atomic<Level> threshold = Level::off;

spdlog::level::level_enum as_spdlog(Level level) {
  switch (level) {
    case Level::trace: return spdlog::level::trace;
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warning: return spdlog::level::warn;
    case Level::error: return spdlog::level::err;
    case Level::off: break;
  }
  return spdlog::level::off;
}

/// "<N>" as sd-daemon(3) has it: what the journal reads the priority from.
class Priority : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& line) override {
    const std::string_view prefix = prefix_of(message.level);
    line.append(prefix.data(), prefix.data() + prefix.size());
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<Priority>();
  }

 private:
  static std::string_view prefix_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::trace:
      case spdlog::level::debug: return "<7>";
      case spdlog::level::info: return "<6>";
      case spdlog::level::warn: return "<4>";
      default: return "<3>";
    }
  }
};

std::unique_ptr<spdlog::formatter> formatter_for(Style style) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
  if (style == Style::journal) {
    formatter->add_flag<Priority>('*').set_pattern("%*%v");
  } else {
    formatter->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l: %v");
  }
  return formatter;
}

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

}  // namespace

Style style_of_stderr(const char* journal_stream) {
  struct stat status{};
  if (journal_stream == nullptr || ::fstat(STDERR_FILENO, &status) != 0) return Style::timestamped;
  const bool same =
      fmt::format("{}:{}", status.st_dev, status.st_ino) == std::string_view(journal_stream);
  return same ? Style::journal : Style::timestamped;
}

void set_up(Level level, Style style) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  sink->set_formatter(formatter_for(style));
  auto logger = std::make_shared<spdlog::logger>("", std::move(sink));
  logger->set_level(spdlog::level::trace);  // enabled() has decided before
  spdlog::set_default_logger(std::move(logger));
  threshold.store(level, std::memory_order_relaxed);
}

void set_up(Level level) {
  set_up(level, style_of_stderr(std::getenv("JOURNAL_STREAM")));
}

bool enabled(Level level) {
  return level != Level::off && level >= threshold.load(std::memory_order_relaxed);
}

void write(Level level, std::string_view line) {
  if (!enabled(level)) return;
  if (std::ranges::none_of(line, is_control)) {
    spdlog::default_logger_raw()->log(as_spdlog(level), line);
    return;
  }
  std::string clean(line);
  std::ranges::replace_if(clean, is_control, '?');
  spdlog::default_logger_raw()->log(as_spdlog(level), clean);
}

void write_library_line(vhost::LogLevel level, std::string_view line) {
  switch (level) {
    case vhost::LogLevel::debug: return write(Level::debug, line);
    case vhost::LogLevel::info: return write(Level::info, line);
    case vhost::LogLevel::warning: return write(Level::warning, line);
    case vhost::LogLevel::error: return write(Level::error, line);
  }
}

void write_formatted(Level level, fmt::string_view format, fmt::format_args args) {
  if (enabled(level)) write(level, fmt::vformat(format, args));
}

std::optional<std::uint64_t> Limiter::admit(Clock::time_point now) {
  if (!began_ || now - *began_ >= interval_) {
    began_ = now;
    used_ = 0;
  }
  if (used_ >= burst_) {
    ++kept_back_;
    return std::nullopt;
  }
  ++used_;
  return std::exchange(kept_back_, 0);
}

}  // namespace common::log
