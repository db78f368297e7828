#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/blk/cache_mode.hpp"
#include "common/log.hpp"
#include "libvhost/wire/error.hpp"

namespace blk {

/// When the image is kept from others.
enum class LockWhile : std::uint8_t {
  serving,  ///< from the start of the daemon to its end
  running,  ///< while a ring runs: two daemons can hand the disk of a guest that moves over
};

/// What the operator asked for, checked as far as that is possible without touching anything.
struct Settings {
  // Where the front-end is met: one of the first three.
  std::string socket_path;
  bool client = false;    ///< connect to socket_path instead of listening there
  std::optional<int> fd;  ///< inherited, listening or connected

  // What is served: one of the first two.
  std::string blk_file;
  std::optional<std::uint64_t> null_bytes;
  bool read_only = false;
  bool postcopy = false;
  CacheMode cache = CacheMode::none;
  LockWhile lock = LockWhile::serving;
  std::string serial;

  std::uint16_t queues = 256;
  std::uint16_t workers = 1;
  std::vector<unsigned> cpus;

  std::string stats_file;
  std::chrono::milliseconds stats_interval{1000};
  common::log::Level log_level = common::log::Level::info;
};

/// Reads command line and configuration file. Nothing: the program has done what it was asked to
/// (--help, --version, --print-capabilities). Errors name the option and the cure.
[[nodiscard]] vhost::Result<std::optional<Settings>> read_settings(int argc,
                                                                   const char* const* argv);

}  // namespace blk
