#include "common/options.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <optional>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "common/config_file.hpp"

namespace common {

using vhost::Fault;
using vhost::Result;

namespace {

std::unexpected<vhost::Error> refuse(std::string what) {
  return vhost::fail(Fault::operator_, std::move(what));
}

/// A value that was typed, and where, for the sentence that refuses it.
struct Typed {
  std::string value;
  std::string where;  ///< "--queues", or "/etc/x.conf, line 3: queues"
};

}  // namespace

struct Options::Impl {
  struct Option {
    std::string flag;
    Setter set;
    CLI::Option* cli = nullptr;
    std::string ignored;  ///< CLI11 wants a variable; the value is taken from its results
    bool repeated = false;
    bool given = false;
  };
  struct Text {
    std::string flag;
    std::string text;
  };

  std::string program;
  std::string version;
  CLI::App app;
  std::deque<Option> options;  // CLI11 keeps references: the elements must not move
  std::vector<Text> texts;
  std::string config;

  Option* find(std::string_view flag) {
    const auto at = std::ranges::find(options, flag, &Option::flag);
    return at == options.end() ? nullptr : &*at;
  }
  std::optional<Next> print_if_asked(int argc, const char* const* argv) const;
  Result<void> split(int argc, const char* const* argv);
  Result<void> apply(Option& option, const Typed& typed);
  Result<void> apply_command_line();
  std::vector<std::string> repeated_names() const;
  Result<void> apply_file();
};

void print_error(std::string_view program, const vhost::Error& error) {
  std::string line = std::string(program) + ": " + error.what;
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  line += '\n';
  std::fputs(line.c_str(), stderr);
}

Options::Options(std::string program, std::string version, std::string summary)
    : impl_(std::make_unique<Impl>()) {
  impl_->program = std::move(program);
  impl_->version = std::move(version);
  impl_->app.name(impl_->program);
  impl_->app.description(std::move(summary));
  impl_->app.allow_extras();
  impl_->app.set_help_flag();  // ours go through prints() like the others
  text("--config", impl_->config, "PATH",
       "Read options from this file, one \"name = value\" a line; flags win over it");
  prints("--version", impl_->program + " " + impl_->version + "\n", "Print the version and end");
  prints("--help", {}, "Print this help and end");
}

Options::~Options() = default;

void Options::add(Spec spec) {
  auto& option = impl_->options.emplace_back();
  option.flag = spec.flag;
  option.set = std::move(spec.set);
  option.repeated = spec.repeated;
  const std::string help(spec.help);  // const: or CLI11 takes it for the flag's variable
  if (spec.meta.empty()) {
    option.cli = impl_->app.add_flag(option.flag, help);
  } else {
    option.cli = impl_->app.add_option(option.flag, option.ignored, help);
    option.cli->type_name(spec.meta);
  }
  option.cli->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void Options::text(std::string_view flag, std::string& value, std::string_view meta,
                   std::string_view help) {
  add({flag, std::string(meta), help, [&value](std::string_view typed) -> Result<void> {
         if (typed.empty()) return refuse("is empty: give a value or leave the option out");
         value = typed;
         return {};
       }});
}

void Options::toggle(std::string_view flag, bool& value, std::string_view help) {
  add({flag, {}, help, [&value](std::string_view typed) {
         return store(value, parse_switch(typed));
       }});
}

void Options::size(std::string_view flag, std::uint64_t& bytes, std::string_view help) {
  add({flag, "SIZE", help,
       [&bytes](std::string_view typed) { return store(bytes, parse_size(typed)); }});
}

void Options::duration(std::string_view flag, std::chrono::milliseconds& time,
                       std::chrono::milliseconds min, std::chrono::milliseconds max,
                       std::string_view help) {
  add({flag, "SECONDS", help, [&time, min, max](std::string_view typed) {
         return store(time, parse_duration(typed, min, max));
       }});
}

void Options::cpus(std::string_view flag, std::vector<unsigned>& cpus, std::string_view help) {
  add({flag, "LIST", help,
       [&cpus](std::string_view typed) { return store(cpus, parse_cpus(typed)); }});
}

void Options::repeated(std::string_view flag, Setter take, std::string_view meta,
                       std::string_view help) {
  add({flag, std::string(meta), help, std::move(take), true});
}

void Options::prints(std::string_view flag, std::string text, std::string_view help) {
  const std::string description(help);
  impl_->app.add_flag(std::string(flag), description);
  impl_->texts.push_back({std::string(flag), std::move(text)});
}

std::string Options::joined(const std::vector<std::string_view>& words, std::string_view between) {
  std::string all;
  for (const auto word : words) {
    if (!all.empty()) all += between;
    all += word;
  }
  return all;
}

Result<std::size_t> Options::one_of(std::string_view typed,
                                    const std::vector<std::string_view>& words) {
  const auto at = std::ranges::find(words, typed);
  if (at == words.end()) {
    return refuse("'" + std::string(typed) + "' is not accepted: give one of " +
                  joined(words, ", "));
  }
  return static_cast<std::size_t>(at - words.begin());
}

/// Other flags are ignored then, right or wrong: QEMU's convention for --print-capabilities.
std::optional<Next> Options::Impl::print_if_asked(int argc, const char* const* argv) const {
  for (int i = 1; i < argc; ++i) {
    const auto asked = std::ranges::find(texts, argv[i], &Text::flag);
    if (asked == texts.end()) continue;
    const std::string text = asked->flag == "--help" ? app.help() : asked->text;
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    return Next::done;
  }
  return std::nullopt;
}

/// Has CLI11 split the command line. Its own messages are developers' English; what went wrong is
/// told from its state instead, and the message is quoted only if that says nothing.
Result<void> Options::Impl::split(int argc, const char* const* argv) {
  std::string message;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ArgumentMismatch& error) {
    // The one mismatch left: a flag at the end, without its value. "--queues: 1 required ..."
    const std::string what = error.what();
    return refuse(what.substr(0, what.find(':')) +
                  ": a value is missing: write it behind the flag");
  } catch (const CLI::Error& error) {
    message = error.what();
  }
  const auto unknown = app.remaining();
  if (!unknown.empty()) {
    return refuse("'" + unknown.front() + "' is no option of " + program +
                  ": see --help for those it has");
  }
  if (!message.empty()) return refuse(message + ": see --help");
  return {};
}

Result<void> Options::Impl::apply(Option& option, const Typed& typed) {
  option.given = true;
  auto set = option.set(typed.value);
  if (!set) return refuse(typed.where + ": " + set.error().what);
  return {};
}

Result<void> Options::Impl::apply_command_line() {
  for (auto& option : options) {
    const auto& values = option.cli->results();
    if (values.empty()) continue;
    if (values.size() > 1 && !option.repeated) {
      return refuse(option.flag + ": given more than once: give it once");
    }
    for (const auto& value : values) {
      if (auto set = apply(option, {value, option.flag}); !set) return set;
    }
  }
  return {};
}

std::vector<std::string> Options::Impl::repeated_names() const {
  std::vector<std::string> names;
  for (const auto& option : options) {
    if (option.repeated) names.push_back(option.flag.substr(2));
  }
  return names;
}

Result<void> Options::Impl::apply_file() {
  if (config.empty()) return {};
  auto settings = read_config(config, repeated_names());
  if (!settings) return std::unexpected(std::move(settings.error()));
  std::vector<const Option*> flags;
  for (const auto& option : options) {
    if (option.given) flags.push_back(&option);
  }
  for (const auto& setting : *settings) {
    const std::string where =
        config + ", line " + std::to_string(setting.line) + ": " + setting.name;
    Option* option = find("--" + setting.name);
    if (option == nullptr || option->flag == "--config") {
      return refuse(where + ": there is no such setting: the names are those of the flags, see " +
                    program + " --help");
    }
    if (std::ranges::find(flags, option) != flags.end()) continue;  // the flag wins
    if (auto set = apply(*option, {setting.value, where}); !set) return set;
  }
  return {};
}

Result<Next> Options::parse(int argc, const char* const* argv) {
  if (const auto done = impl_->print_if_asked(argc, argv)) return *done;
  if (auto ok = impl_->split(argc, argv); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = impl_->apply_command_line(); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = impl_->apply_file(); !ok) return std::unexpected(std::move(ok.error()));
  return Next::run;
}

bool Options::given(std::string_view flag) const {
  const auto* option = impl_->find(flag);
  return option != nullptr && option->given;
}

}  // namespace common
