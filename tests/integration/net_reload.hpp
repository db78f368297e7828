#pragma once
#include <signal.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/integration/net_fixture.hpp"

namespace integration {

using nlohmann::json;

/// A vhost-user-net whose ports are in a file that changes.
class NetReload : public NetServed {
 protected:
  void write(const Strings& lines) const {
    std::ofstream out(file, std::ios::trunc);
    for (const std::string& line : lines) out << line << '\n';
  }
  /// A daemon with these ports in its file.
  void serve_file(const Strings& lines, const Strings& flags = {}) {
    write(lines);
    Strings all{"--ports", file};
    all.insert(all.end(), flags.begin(), flags.end());
    serve(all);
    EXPECT_TRUE(eventually([&] { return said("serving; "); })) << daemon->words();
  }
  [[nodiscard]] bool said(const std::string& words) const {
    return daemon->words().find(words) != std::string::npos;
  }
  [[nodiscard]] std::size_t times_said(const std::string& words) const {
    const std::string all = daemon->words();
    std::size_t count = 0;
    for (auto at = all.find(words); at != all.npos; at = all.find(words, at + 1)) ++count;
    return count;
  }
  /// SIGHUP, and waits until the daemon has answered with `answer`.
  void hang_up(const std::string& answer) {
    const std::size_t before = times_said(answer);
    daemon->signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return times_said(answer) > before; }))
        << "no '" << answer << "' in: " << daemon->words();
  }
  void change_to(const Strings& lines) {
    write(lines);
    hang_up(done);
  }
  /// A file that is refused with one sentence.
  void refuses(const Strings& lines, const std::string& sentence) {
    write(lines);
    hang_up("SIGHUP: " + sentence);
    EXPECT_TRUE(said("; all ports stay as they are"));
  }
  /// Between two writes of the stats file.
  [[nodiscard]] std::size_t descriptors() const {
    std::size_t least = daemon->descriptors();
    for (int i = 0; i < 20; ++i) {
      ::usleep(1000);
      least = std::min(least, daemon->descriptors());
    }
    return least;
  }
  [[nodiscard]] bool exists(const std::string& path) const {
    struct stat info{};
    return ::lstat(path.c_str(), &info) == 0;
  }
  [[nodiscard]] static Strings names_in(const json& now) {
    Strings names;
    for (const auto& one : now["ports"]) names.push_back(one["name"]);
    return names;
  }
  /// The statistics, once these ports are in them.
  [[nodiscard]] json stats_of(const Strings& names) const {
    return stats_when(stats, [&](const json& now) { return names_in(now) == names; });
  }
  /// Each of these ports has had one front-end.
  void expect_one_connection_each(const Strings& names) const {
    (void)stats_when(stats, [&](const json& now) {
      return names_in(now) == names && std::ranges::all_of(now["ports"], [](const json& one) {
               return one["connection"]["connections"] == 1;
             });
    });
  }
  /// A frame goes from one to the other. What else was sent before does not count.
  static bool reaches(Station& from, Station& to, unsigned seed) {
    from.send(to.mac, 100, seed);
    const Bytes wanted = frame(from.mac, to.mac, 100, seed);
    for (int others = 0; others < 20; ++others) {
      if (to.receive() == wanted) return true;
    }
    return false;
  }

  const std::string file = folder / "lan.ports";
  const std::string done = "ports now; the list ";
};

}  // namespace integration
