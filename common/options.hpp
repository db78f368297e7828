#pragma once
/*
 * A daemon's options: flags on the command line and, under the same names, lines of the file that
 * --config names. A flag wins over the file, the file over the default.
 *
 * main() declares every option with the variable it sets, then calls parse(). CLI11 splits the
 * command line and writes --help; values are read by parse.hpp. Whatever is wrong ends in one
 * sentence that names the option (with file and line, if it came from there) and the cure. The
 * variables are then in no particular state: the daemon is not to start.
 *
 * --help, --version and --config are there for every daemon. Start-up only, one thread.
 */
#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/parse.hpp"
#include "libvhost/wire/error.hpp"

namespace common {

/// What main() does after parse().
enum class Next : unsigned char {
  run,   ///< start the daemon
  done,  ///< --help or the like has printed its text: end with status 0
};

/// The exit status after any error of the operator's. The systemd units do not restart on it.
inline constexpr int exit_operator_error = 2;

/// Prints "program: sentence" as one line on stderr, control characters replaced.
void print_error(std::string_view program, const vhost::Error& error);

class Options {
 public:
  /// `program` as in "vhost-user-blk", `summary` for the first line of --help.
  Options(std::string program, std::string version, std::string summary);
  ~Options();
  Options(Options&&) = delete;
  Options& operator=(Options&&) = delete;

  /*
   * Declarations: the flag with its dashes, the variable, which keeps its value if the option is
   * not given, a sentence for --help. The variable must live until parse() has returned.
   */

  /// Any text. `meta` names it in --help: "PATH".
  void text(std::string_view flag, std::string& value, std::string_view meta,
            std::string_view help);
  /// No value on the command line ("--read-only"); true or false in the file.
  void toggle(std::string_view flag, bool& value, std::string_view help);
  /// A whole number from `min`, which is not negative, to `max`.
  template <std::integral T>
  void number(std::string_view flag, T& value, std::type_identity_t<T> min,
              std::type_identity_t<T> max, std::string_view help) {
    add({flag, "N", help, [&value, min, max](std::string_view typed) {
           return store(value, parse_number(typed, static_cast<std::uint64_t>(min),
                                            static_cast<std::uint64_t>(max)));
         }});
  }
  /// Bytes, with K, M, G or T.
  void size(std::string_view flag, std::uint64_t& bytes, std::string_view help);
  /// A time, in seconds unless a unit is given.
  void duration(std::string_view flag, std::chrono::milliseconds& time,
                std::chrono::milliseconds min, std::chrono::milliseconds max,
                std::string_view help);
  /// A list of CPUs, "0,2-3".
  void cpus(std::string_view flag, std::vector<unsigned>& cpus, std::string_view help);
  /// One of a few words, each with its value.
  template <class T>
  void choice(std::string_view flag, T& value,
              std::span<const std::pair<std::string_view, std::type_identity_t<T>>> words,
              std::string_view help) {
    std::vector<std::string_view> names;
    std::vector<T> values;
    for (const auto& [word, meaning] : words) {
      names.push_back(word);
      values.push_back(meaning);
    }
    add({flag, joined(names, "|"), help, [&value, names, values](std::string_view typed) {
           return store(value, one_of(typed, names), [&](std::size_t i) { return values[i]; });
         }});
  }
  template <class T>
  void choice(std::string_view flag, T& value,
              std::initializer_list<std::pair<std::string_view, std::type_identity_t<T>>> words,
              std::string_view help) {
    choice(flag, value, std::span(words.begin(), words.size()), help);
  }
  /// An option that may be given any number of times, in the file too: `take` is handed each value
  /// in order, and refuses it with the end of a sentence. Flags win over all of the file's values.
  void repeated(std::string_view flag, std::function<vhost::Result<void>(std::string_view)> take,
                std::string_view meta, std::string_view help);
  /// A flag that prints `text` on stdout and ends the program, whatever else is given:
  /// --print-capabilities as QEMU wants it.
  void prints(std::string_view flag, std::string text, std::string_view help);

  /// Reads the command line and the configuration file and sets the variables.
  [[nodiscard]] vhost::Result<Next> parse(int argc, const char* const* argv);

  /// Whether the option was given, on the command line or in the file. After parse().
  [[nodiscard]] bool given(std::string_view flag) const;

 private:
  using Setter = std::function<vhost::Result<void>(std::string_view typed)>;
  struct Spec {
    std::string_view flag;
    std::string meta;  ///< empty: takes no value
    std::string_view help;
    Setter set;
    bool repeated = false;
  };
  struct Impl;

  void add(Spec spec);
  [[nodiscard]] static std::string joined(const std::vector<std::string_view>& words,
                                          std::string_view between);
  /// The index of `typed` in `words`.
  [[nodiscard]] static vhost::Result<std::size_t> one_of(
      std::string_view typed, const std::vector<std::string_view>& words);

  struct AsIs {
    template <class V>
    V&& operator()(V&& v) const {
      return std::forward<V>(v);
    }
  };
  template <class T, class V, class As = AsIs>
  static vhost::Result<void> store(T& into, vhost::Result<V> parsed, As as = {}) {
    if (!parsed) return std::unexpected(std::move(parsed.error()));
    into = static_cast<T>(as(std::move(*parsed)));
    return {};
  }

  std::unique_ptr<Impl> impl_;
};

}  // namespace common
