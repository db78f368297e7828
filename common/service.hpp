#pragma once
/*
 * What a systemd service says to its manager (sd_notify(3), sd_watchdog_enabled(3)). The sockets
 * of a .socket unit are inherited from descriptor 3 on: `--fd 3` takes the first.
 *
 * We speak the protocol ourselves: it is a datagram of lines to the socket in NOTIFY_SOCKET, and
 * a few variables. libsystemd would bring six more libraries (among them gcrypt and three
 * compressors) into a daemon that is to be small: 0.5 ms of start-up and 1.2 MiB of memory.
 *
 * Not under systemd (no NOTIFY_SOCKET) everything here does nothing. A manager that does not
 * listen is no reason to stop serving a guest, so nothing here fails either; only the watchdog's
 * message matters, and if it is lost the manager notices.
 *
 * Control thread.
 */
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace common {

class Service {
 public:
  /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
  [[nodiscard]] static Service from_environment();

  /// The daemon listens. `status` is what `systemctl status` shows.
  void ready(std::string_view status) const;
  /// A new status line.
  void status(std::string_view status) const;
  /// The daemon is about to end.
  void stopping() const;
  /// A sign of life; see keep_alive_interval().
  void keep_alive() const;

  /// How often keep_alive() should be called: half of what the manager waits. Nothing if it does
  /// not watch.
  [[nodiscard]] std::optional<std::chrono::microseconds> keep_alive_interval() const {
    return keep_alive_interval_;
  }

 private:
  /// Waiting is for messages that must not be lost to a full queue.
  enum class Patience : unsigned char { wait, drop };
  void send(std::string_view message, Patience patience) const;

  vhost::UniqueFd socket_;
  std::string address_;  ///< a path, or '\0' and an abstract name; empty: not under systemd
  std::optional<std::chrono::microseconds> keep_alive_interval_;
};

}  // namespace common
