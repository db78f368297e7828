#include "backends/blk/settings.hpp"

#include <unistd.h>

#include "backends/blk/serial.hpp"
#include "backends/blk/virtio_blk.hpp"
#include "common/cpu.hpp"
#include "common/options.hpp"
#include "libvhost/memory/userfault.hpp"

namespace blk {
namespace {

using common::Options;
using vhost::Fault;

/// As QEMU's conventions for back-end programs want it: type and what the flags can do.
constexpr const char* capabilities = R"({
  "type": "block",
  "features": ["read-only", "blk-file"]
})";

constexpr std::array<std::pair<std::string_view, LockWhile>, 2> lock_names{{
    {"serving", LockWhile::serving},
    {"running", LockWhile::running},
}};

void declare_place(Options& options, Settings& settings, int& fd) {
  options.text("--socket-path", settings.socket_path, "PATH",
               "Unix socket on which the front-end (QEMU's -chardev) connects.");
  options.toggle("--client", settings.client,
                 "Connect to --socket-path instead of listening (QEMU's server=on), again and "
                 "again.");
  options.number("--fd", fd, 0, 1 << 20,
                 "An inherited socket instead, listening or connected, by its number.");
}

void declare_disk(Options& options, Settings& settings, std::uint64_t& null_bytes) {
  options.text("--blk-file", settings.blk_file, "PATH", "The raw image file or block device.");
  options.size(
      "--null", null_bytes,
      "Serve a disk of this size that keeps nothing, for measuring. Reads leave buffers as they "
      "are.");
  options.toggle("--read-only", settings.read_only, "The guest may not write.");
  options.choice("--cache", settings.cache, cache_mode_names,
                 "How writes reach the storage, as QEMU means it. Default: none.");
  options.choice("--lock", settings.lock, lock_names,
                 "When the image is locked: serving, from start to end, or running, while a "
                 "guest uses it, as migration needs it. Default: serving.");
  options.text("--serial", settings.serial, "TEXT",
               "The disk's serial, 1 to 20 printable characters. Default: derived from the image.");
}

void declare_service(Options& options, Settings& settings) {
  options.number("--queues", settings.queues, 1, 256,
                 "Queues that a front-end may use at most. An unused one costs nothing. Default: "
                 "256.");
  options.number("--workers", settings.workers, 1, 256,
                 "Threads that serve the queues; a queue belongs to one of them. Default: 1.");
  options.cpus("--cpus", settings.cpus, "CPUs for the workers, one each in turn: 0,2-3.");
  options.toggle(
      "--postcopy", settings.postcopy,
      "The guest may come here by postcopy, while some of its memory is still elsewhere.");
  options.text("--stats-file", settings.stats_file, "PATH",
               "Write statistics there, as JSON (docs/stats.md).");
  options.duration("--stats-interval", settings.stats_interval, std::chrono::milliseconds(10),
                   std::chrono::hours(24), "How often. Default: 1 s.");
  options.choice("--log-level", settings.log_level, common::log::level_names,
                 "What is written to stderr. Default: info.");
}

/// What the options must be to each other.
vhost::Result<void> check(const Settings& settings) {
  if (settings.fd && !settings.socket_path.empty()) {
    return vhost::fail(Fault::operator_, "--fd and --socket-path exclude each other; give one");
  }
  if (!settings.fd && settings.socket_path.empty()) {
    return vhost::fail(Fault::operator_,
                       "--socket-path is missing; give the path of the socket for QEMU's -chardev");
  }
  if (settings.fd == STDERR_FILENO) {
    return vhost::fail(Fault::operator_,
                       "--fd: 2 is where errors are written; hand the socket over as another");
  }
  if (settings.client && settings.fd) {
    return vhost::fail(Fault::operator_, "--client goes with --socket-path, not with --fd");
  }
  if (settings.null_bytes && !settings.blk_file.empty()) {
    return vhost::fail(Fault::operator_, "--null and --blk-file exclude each other; give one");
  }
  if (!settings.null_bytes && settings.blk_file.empty()) {
    return vhost::fail(Fault::operator_,
                       "--blk-file is missing; give an image file or a block device");
  }
  if (settings.null_bytes && (*settings.null_bytes == 0 || *settings.null_bytes % sector_bytes)) {
    return vhost::fail(Fault::operator_,
                       "--null " + std::to_string(*settings.null_bytes) +
                           ": the size must be a multiple of 512 bytes, and not 0");
  }
  return {};
}

vhost::Result<void> check_machine(const Settings& settings) {
  if (settings.postcopy) {
    if (const auto possible = vhost::userfault::open(); !possible) {
      return vhost::fail(Fault::operator_, "--postcopy: " + possible.error().what);
    }
  }
  if (settings.cpus.empty()) return {};
  const auto allowed = common::allowed_cpus();
  if (!allowed) return std::unexpected(allowed.error());
  if (auto there = common::check_cpus(settings.cpus, *allowed); !there) {
    return vhost::fail(Fault::operator_, "--cpus: " + there.error().what);
  }
  return {};
}

}  // namespace

vhost::Result<std::optional<Settings>> read_settings(int argc, const char* const* argv) {
  Settings settings;
  int fd = -1;
  std::uint64_t null_bytes = 0;
  Options options("vhost-user-blk", VHOST_BACKENDS_VERSION,
                  "Serves a disk to a QEMU guest over vhost-user, by io_uring.");
  declare_place(options, settings, fd);
  declare_disk(options, settings, null_bytes);
  declare_service(options, settings);
  options.prints("--print-capabilities", capabilities,
                 "Print what this back-end can do, for management software.");

  const auto next = options.parse(argc, argv);
  if (!next) return std::unexpected(next.error());
  if (*next == common::Next::done) return std::nullopt;
  if (options.given("--fd")) settings.fd = fd;
  if (options.given("--null")) settings.null_bytes = null_bytes;

  if (auto checked = check(settings); !checked) return std::unexpected(checked.error());
  if (auto checked = check_machine(settings); !checked) return std::unexpected(checked.error());
  if (options.given("--serial")) {
    if (auto serial = check_serial(settings.serial); !serial) {
      return std::unexpected(serial.error());
    }
  }
  return settings;
}

}  // namespace blk
