#pragma once
#include <memory>

#include <gtest/gtest.h>

#include "tests/integration/guest.hpp"

namespace integration {

/// A daemon on an image of its own, for each test.
class Served : public ::testing::Test {
 protected:
  static constexpr std::uint64_t image_bytes = 64 * mebi;

  /// Starts the daemon; what it is told beside socket, image and a quick stats file.
  void serve(const Strings& flags = {}) {
    if (image.empty()) image = make_image(folder, image_bytes);
    restart(flags);
  }
  void restart(const Strings& flags = {}) {
    Strings all{"--socket-path", socket, "--blk-file",       image,
                "--stats-file",  stats,  "--stats-interval", interval};
    all.insert(all.end(), flags.begin(), flags.end());
    daemon = std::make_unique<Daemon>(folder, all);
  }
  /// Starts a successor as a service manager does, again if it ends: the kernel may take longer to
  /// end the writes of the dead, and with them its lock, than a daemon waits.
  vhost::frontend::Connection resurrect(const Strings& flags = {}) {
    for (int attempt = 0; attempt < 8; ++attempt) {
      restart(flags);
      while (daemon->running()) {
        auto connection =
            vhost::frontend::Connection::connect(socket, {.reply_deadline = milliseconds(20'000)});
        if (connection) return std::move(*connection);
        ::usleep(500);
      }
    }
    throw std::runtime_error("no successor: " + daemon->words());
  }
  /// A guest with the usual driver, or with these changes to it.
  [[nodiscard]] Guest guest(BlkOptions options = {}) { return Guest(socket, std::move(options)); }
  [[nodiscard]] bool image_holds(std::uint64_t first_sector, std::uint64_t seed,
                                 std::size_t bytes) const {
    return holds(read_file(image, first_sector * sector, bytes), seed);
  }

  const Folder folder;
  const std::string socket = folder / "socket";
  const std::string stats = folder / "stats.json";
  std::string image;
  std::string interval = "0.02";
  std::unique_ptr<Daemon> daemon;
};

inline constexpr std::size_t kibi = 1024;

/// A driver's options with so many queues.
[[nodiscard]] inline BlkOptions with_queues(std::size_t queues, std::uint16_t size = 128) {
  BlkOptions options;
  options.queues = queues;
  options.queue.ring.size = size;
  return options;
}

/// The same on packed rings.
[[nodiscard]] inline BlkOptions packed(BlkOptions options = {}) {
  options.wishes.required_features |= vhost::bit(vhost::feature::ring_packed);
  return options;
}

}  // namespace integration
