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
#include <unistd.h>

#include <optional>

#include <nlohmann/json.hpp>

#include "backends/blk/device.hpp"
#include "backends/blk/image.hpp"
#include "backends/blk/image_lock.hpp"
#include "backends/blk/serial.hpp"
#include "backends/blk/settings.hpp"
#include "backends/blk/stats_document.hpp"
#include "common/daemon.hpp"
#include "common/log.hpp"
#include "libvhost/session/server.hpp"

namespace blk {
namespace {

using vhost::Result;

Result<std::shared_ptr<const Image>> open_image(const Settings& settings) {
  auto image = Image::open({settings.blk_file, settings.read_only, settings.cache});
  if (!image) return std::unexpected(image.error());
  for (const std::string& note : image->notes) common::log::info("{}", note);
  if (settings.lock == LockWhile::serving) {
    if (auto locked = lock_image(*image); !locked) return std::unexpected(locked.error());
  }
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

/// The running daemon: everything that lives as long as it serves.
class Daemon {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Daemon>> start(const Settings& settings);

  /// Serves until told to end. Does not return if requests had to be left with the storage.
  [[nodiscard]] Result<void> run();

 private:
  explicit Daemon(const Settings& settings) : settings_(settings) {}

  [[nodiscard]] Result<void> make_device();
  [[nodiscard]] Result<void> take_on_duties();
  void on_hangup();

  Settings settings_;
  std::unique_ptr<common::ControlLoop> control_;
  std::shared_ptr<const Image> image_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<vhost::Server> server_;
};

Result<std::unique_ptr<Daemon>> Daemon::start(const Settings& settings) {
  std::unique_ptr<Daemon> daemon(new Daemon(settings));
  auto control = common::ControlLoop::create();  // first: the workers inherit the signal mask
  if (!control) return std::unexpected(control.error());
  daemon->control_ = std::move(*control);

  if (auto made = daemon->make_device(); !made) return std::unexpected(made.error());
  auto endpoint = open_endpoint(settings);
  if (!endpoint) return std::unexpected(endpoint.error());
  auto server =
      vhost::Server::start(daemon->control_->loop(), *daemon->device_, std::move(*endpoint),
                           common::library_log(), {.postcopy = settings.postcopy});
  if (!server) return std::unexpected(server.error());
  daemon->server_ = std::move(*server);
  if (auto taken = daemon->take_on_duties(); !taken) return std::unexpected(taken.error());
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
    setup.hands_over = settings_.lock == LockWhile::running;
    setup.disk = image_->disk;
    setup.disk.set_serial(default_serial(*image_));
  }
  if (!settings_.serial.empty()) setup.disk.set_serial(settings_.serial);
  setup.queues = settings_.queues;
  setup.workers = settings_.workers;
  setup.cpus = settings_.cpus;
  setup.ignores_flush = ignores_flush(settings_.cache);
  setup.patience.end_signal = control_->end_signal();
  auto device = Device::create(std::move(setup));
  if (!device) return std::unexpected(device.error());
  device_ = std::move(*device);
  return {};
}

Result<void> Daemon::take_on_duties() {
  common::ControlLoop::Duties duties;
  duties.on_hangup = [this] { on_hangup(); };
  duties.alive = [this] { return device_->alive(); };
  duties.stats_file = settings_.stats_file;
  duties.stats_interval = settings_.stats_interval;
  duties.stats = [this](std::chrono::steady_clock::duration uptime) {
    return stats_document(settings_, *device_, *server_, uptime);
  };
  return control_->take_on(std::move(duties));
}

void Daemon::on_hangup() {
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

Result<void> Daemon::run() {
  common::log::info("serving {} on {}", settings_.null_bytes ? "a null disk" : settings_.blk_file,
                    settings_.fd ? "an inherited socket" : settings_.socket_path);
  auto ended = control_->run();
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
  return common::serve<Daemon>("vhost-user-blk", read_settings(argc, argv));
}

}  // namespace
}  // namespace blk

int main(int argc, char** argv) {
  return blk::serve(argc, argv);
}
