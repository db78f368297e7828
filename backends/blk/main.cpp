/*
 * vhost-user-blk: serves one disk to one front-end after another.
 *
 *   read settings - open and lock the image - start the workers - listen - tell systemd - loop
 *
 * Whatever is wrong with the settings, the image or the socket is said in one sentence before
 * anything listens. The loop ends with SIGTERM or SIGINT; what is in flight then ends first, or is
 * left to the inflight region if the storage takes too long. SIGHUP looks at the image's size
 * again.
 */
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <optional>

#include <nlohmann/json.hpp>

#include "backends/blk/device.hpp"
#include "backends/blk/image.hpp"
#include "backends/blk/image_lock.hpp"
#include "backends/blk/serial.hpp"
#include "backends/blk/settings.hpp"
#include "backends/blk/stats_document.hpp"
#include "common/log.hpp"
#include "common/options.hpp"
#include "common/service.hpp"
#include "common/signals.hpp"
#include "common/stats_file.hpp"
#include "libvhost/session/server.hpp"

namespace blk {
namespace {

using vhost::Result;

Result<std::shared_ptr<const Image>> open_image(const Settings& settings) {
  auto image = Image::open({settings.blk_file, settings.read_only, settings.cache});
  if (!image) return std::unexpected(image.error());
  for (const std::string& note : image->notes) common::log::info("{}", note);
  if (auto locked = lock_image(*image); !locked) return std::unexpected(locked.error());
  return std::make_shared<const Image>(std::move(*image));
}

Disk null_disk(const Settings& settings) {
  Disk disk;
  disk.size_bytes = *settings.null_bytes;
  disk.read_only = settings.read_only;
  disk.write_cache = write_cache(settings.cache);
  disk.set_serial(serial_of("null " + std::to_string(disk.size_bytes)));
  return disk;
}

Result<vhost::Endpoint> open_endpoint(const Settings& settings) {
  using vhost::Endpoint;
  if (settings.fd) {
    auto endpoint = Endpoint::adopt(vhost::UniqueFd(*settings.fd));
    if (!endpoint) {
      return vhost::fail(vhost::Fault::operator_, "--fd: " + endpoint.error().what);
    }
    return endpoint;
  }
  auto endpoint = settings.client ? Endpoint::connect(settings.socket_path)
                                  : Endpoint::listen(settings.socket_path);
  if (!endpoint) {
    return vhost::fail(vhost::Fault::operator_, "--socket-path: " + endpoint.error().what);
  }
  return endpoint;
}

/// Three descriptors a queue may be more than the usual soft limit.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

/// The library's lines, of which a front-end that comes and goes could cause any number.
vhost::Log library_log() {
  const auto limiter = std::make_shared<common::log::Limiter>(std::chrono::seconds(10), 50);
  return [limiter](vhost::LogLevel level, std::string_view line) {
    if (const auto kept_back = limiter->admit()) {
      if (*kept_back != 0)
        common::log::warning("{} lines like the next were not written", *kept_back);
      common::log::write_library_line(level, line);
    }
  };
}

/// The running daemon: everything that lives as long as it serves.
class Daemon {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Daemon>> start(const Settings& settings);

  /// Serves until told to end. Does not return if requests had to be left with the storage.
  [[nodiscard]] Result<void> run();

 private:
  explicit Daemon(const Settings& settings, vhost::EventLoop loop)
      : settings_(settings),
        loop_(std::move(loop)),
        stats_file_(settings.stats_file),
        service_(common::Service::from_environment()) {}

  [[nodiscard]] Result<void> make_device();
  [[nodiscard]] Result<void> watch();
  void on_hangup();
  void write_stats();

  Settings settings_;
  vhost::EventLoop loop_;
  vhost::UniqueFd end_signals_;
  vhost::UniqueFd hangups_;
  std::shared_ptr<const Image> image_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<vhost::Server> server_;
  common::StatsFile stats_file_;
  vhost::UniqueFd stats_timer_;
  common::Service service_;
  vhost::UniqueFd keep_alive_timer_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

Result<std::unique_ptr<Daemon>> Daemon::start(const Settings& settings) {
  auto loop = vhost::EventLoop::create();
  if (!loop) return std::unexpected(loop.error());
  std::unique_ptr<Daemon> daemon(new Daemon(settings, std::move(*loop)));

  // Signals first: the workers inherit the mask.
  auto ends = common::catch_end_signals();
  if (!ends) return std::unexpected(ends.error());
  daemon->end_signals_ = std::move(*ends);
  auto hangups = common::catch_signals({SIGHUP});
  if (!hangups) return std::unexpected(hangups.error());
  daemon->hangups_ = std::move(*hangups);

  if (auto made = daemon->make_device(); !made) return std::unexpected(made.error());
  auto endpoint = open_endpoint(settings);
  if (!endpoint) return std::unexpected(endpoint.error());
  auto server =
      vhost::Server::start(daemon->loop_, *daemon->device_, std::move(*endpoint), library_log());
  if (!server) return std::unexpected(server.error());
  daemon->server_ = std::move(*server);
  if (auto watched = daemon->watch(); !watched) return std::unexpected(watched.error());
  return daemon;
}

Result<void> Daemon::make_device() {
  Device::Setup setup;
  if (settings_.null_bytes) {
    setup.disk = null_disk(settings_);
  } else {
    auto image = open_image(settings_);
    if (!image) return std::unexpected(image.error());
    image_ = *image;
    setup.image = image_;
    setup.disk = image_->disk;
    setup.disk.set_serial(default_serial(*image_));
  }
  if (!settings_.serial.empty()) setup.disk.set_serial(settings_.serial);
  setup.queues = settings_.queues;
  setup.workers = settings_.workers;
  setup.cpus = settings_.cpus;
  setup.ignores_flush = ignores_flush(settings_.cache);
  setup.patience.end_signal = end_signals_.get();
  auto device = Device::create(std::move(setup));
  if (!device) return std::unexpected(device.error());
  device_ = std::move(*device);
  return {};
}

Result<void> Daemon::watch() {
  if (auto watched = loop_.watch(end_signals_.get(), [this] { loop_.stop(); }); !watched) {
    return watched;
  }
  if (auto watched = loop_.watch(hangups_.get(), [this] { on_hangup(); }); !watched) {
    return watched;
  }
  if (!settings_.stats_file.empty()) {
    auto timer = loop_.every(settings_.stats_interval, [this] { write_stats(); });
    if (!timer) return std::unexpected(timer.error());
    stats_timer_ = std::move(*timer);
    write_stats();
  }
  if (const auto interval = service_.keep_alive_interval()) {
    // A sign of life is only given if every worker shows one, too.
    auto timer =
        loop_.every(std::chrono::duration_cast<std::chrono::milliseconds>(*interval), [this] {
          if (device_->alive()) service_.keep_alive();
        });
    if (!timer) return std::unexpected(timer.error());
    keep_alive_timer_ = std::move(*timer);
  }
  return {};
}

void Daemon::on_hangup() {
  (void)common::next_signal(hangups_);
  if (!image_) return;
  const auto size = image_->size_now();
  if (!size) {
    common::log::warning("{}", size.error().what);
  } else if (*size != device_->disk().size_bytes) {
    common::log::info("the image has {} bytes now", *size);
    device_->resize(*size);
    server_->notify_config_change();
  }
}

void Daemon::write_stats() {
  (void)stats_file_.write_json(
      stats_document(settings_, *device_, *server_, std::chrono::steady_clock::now() - began_));
}

Result<void> Daemon::run() {
  common::log::info("serving {} on {}", settings_.null_bytes ? "a null disk" : settings_.blk_file,
                    settings_.fd ? "an inherited socket" : settings_.socket_path);
  service_.ready("serving");
  auto ended = loop_.run();
  service_.stopping();
  if (!settings_.stats_file.empty()) write_stats();
  server_.reset();
  if (device_->abandoned()) {
    common::log::warning("requests in flight are left to the next start");
    ::_exit(EXIT_SUCCESS);  // a worker is still with the storage, and uses all of this
  }
  device_.reset();
  if (image_) unlock_image(*image_);
  return ended;
}

int serve(int argc, const char* const* argv) {
  const auto settings = read_settings(argc, argv);
  if (!settings) {
    common::print_error("vhost-user-blk", settings.error());
    return common::exit_operator_error;
  }
  if (!*settings) return EXIT_SUCCESS;
  common::log::set_up((*settings)->log_level);
  raise_descriptor_limit();

  auto daemon = Daemon::start(**settings);
  if (!daemon) {
    common::print_error("vhost-user-blk", daemon.error());
    return daemon.error().fault == vhost::Fault::operator_ ? common::exit_operator_error
                                                           : EXIT_FAILURE;
  }
  if (const auto ended = (*daemon)->run(); !ended) {
    common::print_error("vhost-user-blk", ended.error());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace blk

int main(int argc, char** argv) {
  return blk::serve(argc, argv);
}
