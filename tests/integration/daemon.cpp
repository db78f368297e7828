#include "tests/integration/daemon.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace integration {
namespace {

using Clock = std::chrono::steady_clock;

std::string program(const char* variable) {
  const char* const path = std::getenv(variable);
  if (path == nullptr) throw std::runtime_error(variable + std::string(" names no program"));
  return path;
}

std::vector<char*> pointers(Strings& strings) {
  std::vector<char*> all;
  for (std::string& text : strings) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

/// Ours, without what an outer service manager meant for us.
Strings environment(const Strings& added) {
  Strings all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (!text.starts_with("NOTIFY_SOCKET=") && !text.starts_with("WATCHDOG_")) {
      all.emplace_back(text);
    }
  }
  all.insert(all.end(), added.begin(), added.end());
  return all;
}

End end_of(int status) {
  return WIFEXITED(status) ? End{WEXITSTATUS(status), 0} : End{-1, WTERMSIG(status)};
}

}  // namespace

Folder::Folder() {
  path_ = "/var/tmp/vub-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp");
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Strings Folder::list() const {
  Strings names;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

Strings Folder::list_settled() const {
  Strings names = list();
  std::erase(names, ".stats.json.tmp");
  return names;
}

Daemon::Daemon(const Folder& folder, const Strings& flags, const Launch& launch)
    : stderr_path_(folder / "stderr") {
  Strings arguments{program(launch.program)};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  Strings variables = environment(launch.environment);
  const auto argv = pointers(arguments);
  const auto envp = pointers(variables);
  const int err = ::open(stderr_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (err < 0) throw std::runtime_error("cannot make " + stderr_path_);

  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  pid_ = ::fork();
  if (pid_ == 0) {
    // A test that crashes leaves no daemon behind, nor one that holds the test's output open.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(launch.stdin_fd >= 0 ? launch.stdin_fd : null, STDIN_FILENO);
    ::dup2(null, STDOUT_FILENO);
    ::dup2(err, STDERR_FILENO);
    if (launch.inherit_fd >= 0) ::fcntl(launch.inherit_fd, F_SETFD, 0);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  ::close(err);
  ::close(null);
  if (pid_ < 0) throw std::runtime_error("fork");
}

Daemon::~Daemon() {
  kill();
}

void Daemon::signal(int number) const {
  if (!end_) ::kill(pid_, number);
}

std::optional<End> Daemon::end_within(milliseconds time) {
  const auto deadline = Clock::now() + time;
  while (!end_) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      end_ = end_of(status);
    } else if (Clock::now() >= deadline) {
      return std::nullopt;
    } else {
      ::usleep(500);
    }
  }
  return end_;
}

std::optional<End> Daemon::terminate() {
  signal(SIGTERM);
  return end_within(milliseconds(5000) * slowness);
}

void Daemon::kill() {
  signal(SIGKILL);
  int status = 0;
  if (!end_ && ::waitpid(pid_, &status, 0) == pid_) end_ = end_of(status);
}

std::string Daemon::words() const {
  return read_text(stderr_path_);
}

std::size_t Daemon::descriptors() const {
  const std::filesystem::directory_iterator all("/proc/" + std::to_string(pid_) + "/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

milliseconds Daemon::cpu_time() const {
  const std::string text = read_text("/proc/" + std::to_string(pid_) + "/stat");
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  long user = 0;
  long system = 0;
  fields >> user >> system;
  return milliseconds((user + system) * 1000 / ::sysconf(_SC_CLK_TCK));
}

std::size_t Daemon::resident_bytes() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/statm");
  std::size_t all = 0;
  std::size_t resident = 0;
  file >> all >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::string make_image(const Folder& folder, std::uint64_t bytes, const std::string& name) {
  const std::string path = folder / name;
  const vhost::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    throw std::runtime_error("cannot make " + path);
  }
  return path;
}

std::vector<std::byte> read_file(const std::string& path, std::uint64_t offset, std::size_t bytes) {
  std::vector<std::byte> content(bytes);
  const vhost::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t got = ::pread(fd.get(), content.data(), bytes, static_cast<off_t>(offset));
  if (got != static_cast<ssize_t>(bytes)) throw std::runtime_error("cannot read " + path);
  return content;
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

nlohmann::json read_stats(const std::string& path) {
  std::string text;
  if (!eventually([&] { return !(text = read_text(path)).empty(); })) {
    throw std::runtime_error("no statistics at " + path);
  }
  return nlohmann::json::parse(text);
}

}  // namespace integration
