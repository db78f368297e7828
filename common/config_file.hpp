#pragma once
/*
 * The configuration file: the flags of the command line without their dashes, one a line.
 *
 *   # a comment
 *   socket-path = "/run/disk0.sock"   # "..." takes \" and \\, '...' takes all as it is
 *   queues = 4                        # a bare word ends at a space or a '#'
 *   cpus = 0,2-3
 *   read-only = true
 *
 * A name is set once, but those of options that may be given several times.
 *
 * That is a part of TOML (and of INI, but for bare words with spaces): tables, arrays and values
 * over several lines have no use here and are refused. We parse it ourselves because CLI11 2.1.2
 * cuts a quoted value at '#', skips lines that it does not understand, and cannot say which line is
 * wrong: a disk's path must not be guessed.
 *
 * Text only: what a name means, and whether there is such an option, is options.cpp's business.
 */
#include <string>
#include <string_view>
#include <vector>

#include "libvhost/wire/error.hpp"

namespace common {

/// One line that sets something.
struct Setting {
  std::string name;   ///< without dashes: "socket-path"
  std::string value;  ///< unquoted
  unsigned line = 0;  ///< from 1

  bool operator==(const Setting&) const = default;
};

/// The settings in `text`, in order. Refuses a line that is none, and a name that is set twice
/// unless it is in `repeated`; the sentence starts with `path` and the line's number.
[[nodiscard]] vhost::Result<std::vector<Setting>> parse_config(
    std::string_view text, std::string_view path, const std::vector<std::string>& repeated = {});

/// Reads and parses the file; at most 1 MiB.
[[nodiscard]] vhost::Result<std::vector<Setting>> read_config(
    const std::string& path, const std::vector<std::string>& repeated = {});

}  // namespace common
