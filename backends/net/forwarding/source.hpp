#pragma once
#include <array>
#include <span>
#include <vector>

#include "backends/net/frame/frame.hpp"
#include "backends/net/frame/traffic.hpp"

namespace net {

/// The number of a port or uplink in the switch.
enum class PortId : std::uint16_t {};

/// The frames of one turn of one source, and room for their pieces. A worker has one and lends it
/// to its sources in turn.
struct Burst {
  static constexpr std::size_t most = 32;

  std::array<Frame, most> frames;
  std::size_t count = 0;
  std::vector<iovec> room;  ///< for the frames' `rest`

  [[nodiscard]] std::span<Frame> taken() { return {frames.data(), count}; }
};

/// Where frames enter the daemon: one queue of a guest or of an uplink. Served by one worker.
class Source {
 public:
  virtual ~Source() = default;

  /// Takes what is there, at most Burst::most frames. False: there was nothing at all; frames that
  /// were dropped here count as something.
  [[nodiscard]] virtual bool take(Burst& burst) = 0;
  /// The frames of the burst have been delivered: their buffers go back.
  virtual void release() = 0;

  /// Asks to be woken through wake_fd(). True: there is something already, do not sleep.
  [[nodiscard]] virtual bool arm() = 0;
  virtual void disarm() = 0;
  /// Readable when there is something, after arm(); or one of these two.
  [[nodiscard]] virtual int wake_fd() const = 0;
  static constexpr int look_again = -1;     ///< nothing will say so
  static constexpr int nothing_comes = -2;  ///< there will not be anything any more
  /// wake_fd() was readable.
  virtual void woken() = 0;

  /// How much of Burst::room take() may need.
  [[nodiscard]] virtual std::size_t room_needed() const { return 0; }

  /// What the switch counts against the sender.
  [[nodiscard]] virtual Traffic& traffic() = 0;
  [[nodiscard]] virtual PortId port() const = 0;
};

}  // namespace net
