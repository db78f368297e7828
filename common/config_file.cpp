#include "common/config_file.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/text_file.hpp"

namespace common {

using vhost::Fault;
using vhost::Result;

namespace {

bool is_name(std::string_view text) {
  return !text.empty() && text.find_first_not_of(
                              "abcdefghijklmnopqrstuvwxyz"
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                              "0123456789-_") == std::string_view::npos;
}

/// Takes a quoted string, whose opening quote is the first character, off the front of `text`.
/// Nothing if it does not end, or escapes what needs no escape.
std::optional<std::string> take_quoted(std::string_view& text) {
  const char quote = text.front();
  std::string value;
  for (std::size_t i = 1; i < text.size(); ++i) {
    char c = text[i];
    if (c == quote) {
      text.remove_prefix(i + 1);
      return value;
    }
    if (c == '\\' && quote == '"') {
      ++i;
      if (i == text.size() || (text[i] != '"' && text[i] != '\\')) return std::nullopt;
      c = text[i];
    }
    value.push_back(c);
  }
  return std::nullopt;
}

/// Takes a value off the front of `text`; what stays may be a comment only.
std::optional<std::string> take_value(std::string_view& text) {
  if (text.empty()) return std::nullopt;
  if (text.front() == '"' || text.front() == '\'') return take_quoted(text);
  const std::size_t end = std::min(text.find_first_of(" \t\r#"), text.size());
  const std::string_view word = text.substr(0, end);
  if (word.empty() || word.find_first_of("[]{}\"'=") != std::string_view::npos) {
    return std::nullopt;
  }
  text.remove_prefix(end);
  return std::string(word);
}

/// A line that is not blank and not only a comment.
Result<Setting> parse_line(std::string_view line) {
  const auto refuse = [](std::string what) {
    return vhost::fail(Fault::operator_, std::move(what));
  };
  if (line.front() == '[') {
    return refuse("sections are not supported: write every setting as name = value");
  }
  const std::size_t equals = line.find('=');
  const std::string name(trimmed(line.substr(0, equals)));
  if (equals == std::string_view::npos || !is_name(name)) {
    return refuse("this is no setting: write name = value");
  }
  std::string_view rest = trimmed(line.substr(equals + 1));
  auto value = take_value(rest);
  rest = trimmed(rest);
  if (!value || !(rest.empty() || rest.front() == '#')) {
    return refuse("the value of " + name + " cannot be read: put it in double quotes");
  }
  return Setting{name, std::move(*value)};
}

}  // namespace

Result<std::vector<Setting>> parse_config(std::string_view text, std::string_view path,
                                          const std::vector<std::string>& repeated) {
  std::vector<Setting> settings;
  for (unsigned number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;

    const std::string where = std::string(path) + ", line " + std::to_string(number) + ": ";
    auto setting = parse_line(line);
    if (!setting) return vhost::fail(Fault::operator_, where + setting.error().what);
    setting->line = number;
    const auto earlier = std::ranges::find(settings, setting->name, &Setting::name);
    if (earlier != settings.end() && std::ranges::find(repeated, setting->name) == repeated.end()) {
      return vhost::fail(Fault::operator_, where + setting->name + " is set in line " +
                                               std::to_string(earlier->line) +
                                               " already: remove one of the two");
    }
    settings.push_back(std::move(*setting));
  }
  return settings;
}

Result<std::vector<Setting>> read_config(const std::string& path,
                                         const std::vector<std::string>& repeated) {
  const auto text = read_text_file(path);
  if (!text) return vhost::fail(Fault::operator_, "--config: " + text.error().what);
  return parse_config(*text, path, repeated);
}

}  // namespace common
