#include "common/stats_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include <nlohmann/json.hpp>

#include "common/log.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace common {

using vhost::Fault;
using vhost::Result;
using vhost::UniqueFd;

namespace {

std::string temporary_beside(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  return path.substr(0, name) + "." + path.substr(name) + ".tmp";
}

UniqueFd create_new(const std::string& path) {
  constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
  constexpr mode_t mode = 0600;  // until it is complete
  UniqueFd file(::open(path.c_str(), flags, mode));
  if (file || errno != EEXIST) return file;
  if (::unlink(path.c_str()) != 0) return UniqueFd();
  return UniqueFd(::open(path.c_str(), flags, mode));
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
  return true;
}

/// Whether renaming a file to `path` replaces nothing but a document.
bool may_replace(const std::string& path) {
  struct stat status{};
  return ::lstat(path.c_str(), &status) != 0 || S_ISREG(status.st_mode);
}

}  // namespace

StatsFile::StatsFile(std::string path)
    : path_(std::move(path)), temporary_(temporary_beside(path_)) {}

Result<void> StatsFile::replace(std::string_view document) const {
  if (!may_replace(path_)) return vhost::fail(Fault::host, "it exists and is no regular file");
  constexpr mode_t readable_by_all = 0644;
  const UniqueFd file = create_new(temporary_);
  if (!file) return vhost::fail_errno(Fault::host, "cannot create " + temporary_);
  if (!write_all(file.get(), document) || ::fchmod(file.get(), readable_by_all) != 0 ||
      ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    auto error = vhost::fail_errno(Fault::host, "cannot replace it");
    ::unlink(temporary_.c_str());
    return error;
  }
  return {};
}

bool StatsFile::write(std::string_view document) {
  const auto replaced = replace(document);
  if (!replaced && replaced.error().what != trouble_) {
    trouble_ = replaced.error().what;
    log::warning("the stats file {} is not written: {}", path_, trouble_);
  } else if (replaced && !trouble_.empty()) {
    trouble_.clear();
    log::info("the stats file {} is written again", path_);
  }
  return replaced.has_value();
}

bool StatsFile::write_json(const nlohmann::json& document) {
  constexpr int indent = 2;
  return write(document.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace common
