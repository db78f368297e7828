#include "common/parse.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include <fmt/core.h>

namespace common {

using vhost::Fault;
using vhost::Result;

namespace {

constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();

std::unexpected<vhost::Error> refuse(std::string_view text, std::string_view why) {
  return vhost::fail(Fault::operator_, fmt::format("'{}' {}", text, why));
}

/// Takes the digits off the front of `text`. Nothing, and `text` as it was, if there are none or
/// too many for 64 bits.
std::optional<std::uint64_t> take_digits(std::string_view& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

std::optional<std::uint64_t> product(std::uint64_t a, std::uint64_t b) {
  std::uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

/// The power of 1024 that a size's suffix stands for.
std::optional<unsigned> power_of(std::string_view suffix) {
  if (suffix.empty()) return 0;
  constexpr std::string_view letters = "KMGT";
  const char letter = static_cast<char>(suffix.front() & ~0x20);  // to upper case
  const std::size_t power = letters.find(letter);
  const std::string_view rest = suffix.substr(1);
  if (power == std::string_view::npos || !(rest.empty() || rest == "iB")) return std::nullopt;
  return static_cast<unsigned>(power + 1);
}

/// Milliseconds in a duration's unit.
std::optional<std::uint64_t> milliseconds_in(std::string_view unit) {
  if (unit.empty() || unit == "s") return 1000;
  if (unit == "ms") return 1;
  if (unit == "m" || unit == "min") return 60 * 1000;
  if (unit == "h") return 60 * 60 * 1000;
  return std::nullopt;
}

/// The part of `unit_ms` that ".digits" at the front of `text` is; 0 if there is no fraction.
/// Nothing if it is malformed or no whole number of milliseconds.
std::optional<std::uint64_t> fraction_of(std::string_view digits, std::uint64_t unit_ms) {
  std::uint64_t remainder = 0;
  std::uint64_t scale = 1;
  while (digits.ends_with('0')) digits.remove_suffix(1);
  if (digits.size() > 6) return std::nullopt;  // no unit has more places
  for (const char digit : digits) {
    remainder = remainder * 10 + static_cast<std::uint64_t>(digit - '0');
    scale *= 10;
  }
  if (remainder * unit_ms % scale != 0) return std::nullopt;
  return remainder * unit_ms / scale;
}

/// "500ms" or "2s": as an operator would write it.
std::string in_words(std::chrono::milliseconds time) {
  const auto count = time.count();
  return count % 1000 == 0 ? std::to_string(count / 1000) + "s" : std::to_string(count) + "ms";
}

std::optional<std::uint64_t> total_milliseconds(std::string_view text) {
  const auto whole = take_digits(text);
  if (!whole) return std::nullopt;
  std::string_view digits;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    digits = text.substr(0, text.find_first_not_of("0123456789"));
    if (digits.empty()) return std::nullopt;
    text.remove_prefix(digits.size());
  }
  const auto unit_ms = milliseconds_in(text);
  if (!unit_ms) return std::nullopt;
  const auto whole_ms = product(*whole, *unit_ms);
  const auto part_ms = fraction_of(digits, *unit_ms);
  if (!whole_ms || !part_ms || *whole_ms > largest - *part_ms) return std::nullopt;
  return *whole_ms + *part_ms;
}

}  // namespace

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t min, std::uint64_t max) {
  std::string_view rest = text;
  const auto value = take_digits(rest);
  if (!value || !rest.empty() || *value < min || *value > max) {
    return refuse(text, fmt::format("is not accepted: give a number from {} to {}", min, max));
  }
  return *value;
}

Result<std::uint64_t> parse_size(std::string_view text) {
  std::string_view suffix = text;
  const auto number = take_digits(suffix);
  const auto power = power_of(suffix);
  if (!number || !power) {
    return refuse(text, "is no size: give bytes, or a number with K, M, G or T behind it");
  }
  const auto size = product(*number, std::uint64_t{1} << (10 * *power));
  if (!size) return refuse(text, "is too large: a size must be less than 16777216T");
  return *size;
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text,
                                                 std::chrono::milliseconds min,
                                                 std::chrono::milliseconds max) {
  const auto total = total_milliseconds(text);
  if (!total || *total < static_cast<std::uint64_t>(min.count()) ||
      *total > static_cast<std::uint64_t>(max.count())) {
    return refuse(
        text, fmt::format("is not accepted: give a time from {} to {}, in seconds or with ms, s, m "
                          "or h behind it",
                          in_words(min), in_words(max)));
  }
  return std::chrono::milliseconds(*total);
}

Result<std::vector<unsigned>> parse_cpus(std::string_view text) {
  constexpr std::string_view cure = "is no list of CPUs: give numbers and ranges, as in 0,2-3";
  constexpr std::uint64_t last_cpu = 8191;
  std::vector<unsigned> cpus;
  std::string_view rest = text;
  while (true) {
    const auto first = take_digits(rest);
    auto last = first;
    if (rest.starts_with('-')) {
      rest.remove_prefix(1);
      last = take_digits(rest);
    }
    if (!first || !last || *first > *last) return refuse(text, cure);
    if (*last > last_cpu) return refuse(text, "names a CPU above 8191: there is no such CPU");
    for (auto cpu = static_cast<unsigned>(*first); cpu <= *last; ++cpu) {
      if (std::ranges::find(cpus, cpu) != cpus.end()) {
        return refuse(text, fmt::format("names CPU {} twice: name it once", cpu));
      }
      cpus.push_back(cpu);
    }
    if (rest.empty()) return cpus;
    if (!rest.starts_with(',')) return refuse(text, cure);
    rest.remove_prefix(1);
  }
}

Result<bool> parse_switch(std::string_view text) {
  for (const auto word : {"true", "on", "yes", "1"}) {
    if (text == word) return true;
  }
  for (const auto word : {"false", "off", "no", "0"}) {
    if (text == word) return false;
  }
  return refuse(text, "is not accepted: give true or false");
}

}  // namespace common
