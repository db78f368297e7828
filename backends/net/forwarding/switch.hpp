#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/net/forwarding/capture.hpp"
#include "backends/net/forwarding/guard.hpp"
#include "backends/net/forwarding/mac_table.hpp"
#include "backends/net/forwarding/sink.hpp"
#include "backends/net/forwarding/source.hpp"
#include "backends/net/forwarding/storm.hpp"
#include "backends/net/frame/vlan.hpp"
#include "libvhost/wire/error.hpp"

/*
 * Decides where frames go, and takes them there.
 *
 * Two kinds: a patch between two ports, which looks at nothing, and a switch, which learns where
 * stations are. A frame for a station that is not known, and one for a group, goes to every other
 * member of its VLAN. A frame for a station behind its sender's own port goes nowhere, and so does
 * one for a group that no bridge forwards to.
 *
 * What comes in through a port is captured, passes the port's guard and gets its VLAN; what goes
 * out gets the tag form of its port, is captured and delivered: one call per sink and burst, in the
 * order in which the frames came.
 *
 * Most bursts are a conversation of two stations, so for each port a worker remembers the last
 * source and the last destination and what came of them, and looks into the table only when an
 * address, the second or the table has changed. Within a burst, a frame that begins with the same
 * bytes as the one before goes where that went, without another look.
 *
 * Ports come and go while frames do. Which there are, a worker knows from a list of its own: the
 * control thread changes the switch, and then has each worker take note of it between two turns.
 *
 *   a new port comes   add() - take_note() on every worker - its sources start
 *   an old port goes   its sources end - withdraw() - take_note() on every worker - erase()
 *
 * So nobody finds a port that is not whole yet, and erase() finds nobody who still uses it: what
 * the table said before withdraw() counts until the end of a worker's turn at most.
 *
 * forward(), flush() and take_note(): any worker, at the same time, each with its own number. The
 * rest: the control thread.
 */
namespace net {

/// One port or uplink.
struct PortSetup {
  std::string name;
  Sink* sink = nullptr;  ///< must outlive the switch
  VlanPolicy vlan = VlanPolicy::transparent();
  Guard guard;
  std::unique_ptr<Capture> capture;  ///< null: none
};

struct SwitchOptions {
  /// There are two ports, and whatever comes in through one goes out through the other. VLAN
  /// policies are not looked at; guards and captures are.
  bool patch = false;
  unsigned workers = 1;
  /// Ports and uplinks that there may be at a time; 0: those that it is created with.
  std::size_t places = 0;
  std::uint32_t ageing_s = 300;            ///< until a station that is not heard is forgotten
  std::uint32_t stations_per_port = 1024;  ///< learned addresses
  /// Flooded frames per second that a port may cause. 0: no limit. A frame counts once, or as many
  /// times as segments that it asks to become, and only if it goes to more than one port.
  std::uint32_t storm_limit = 0;
};

class Switch {
 public:
  /// Needs EAL, but for a patch. A port's PortId is its place in the list.
  [[nodiscard]] static vhost::Result<std::unique_ptr<Switch>> create(std::vector<PortSetup> ports,
                                                                     const SwitchOptions& options);

  /// Delivers the frames of a burst that came in through `source`. What it drops it counts in
  /// source.traffic().
  void forward(Source& source, std::span<Frame> frames, unsigned worker);
  /// The end of a worker's turn: flushes the sinks that it has delivered to.
  void flush(unsigned worker);
  /// Between two turns: the worker knows from now on which ports there are.
  void take_note(unsigned worker);

  /// In the first free place, of which there must be one. Not for a patch.
  [[nodiscard]] PortId add(PortSetup port);
  /// Frames from it come no more; those for its stations go to all others from now on.
  void withdraw(PortId port);
  /// Every worker has taken note: its sink is not used any more, and its place is free.
  void erase(PortId port);

  /// Forgets stations that were not heard for too long. About once a second.
  void age(std::uint64_t now_ns);
  /// Writes what the captures gathered. Several times a second. An error has ended one capture; it
  /// is told once and names the file.
  [[nodiscard]] vhost::Result<void> write_captures();
  [[nodiscard]] bool captures() const;

  /// The learned addresses, at most so many; none of a patch.
  [[nodiscard]] std::vector<Station> stations(std::size_t most) const;
  [[nodiscard]] std::uint32_t station_count(PortId port) const;
  /// Times that an address of the port was not learned because its share is full.
  [[nodiscard]] std::uint64_t not_learned(PortId port) const;
  /// Frames that the port's capture had no room for.
  [[nodiscard]] std::uint64_t capture_lost(PortId port) const;
  [[nodiscard]] const std::string& name(PortId port) const;
  /// Those that there are, in their order.
  [[nodiscard]] const std::vector<std::uint16_t>& members() const { return members_; }

 private:
  struct Port {
    PortSetup setup;
    StormLimit storm;
    bool guarded;
  };
  /// What a worker remembers of the last frame that came in through a port.
  struct Memo {
    std::uint64_t version = 0;  // of the table; 0: nothing remembered
    std::uint32_t second = 0;
    StationKey source{};
    StationKey destination{};
    std::optional<PortId> to;  // nothing: to all
  };
  /// Frames of a burst for one sink.
  struct Group {
    std::array<Frame*, Burst::most> frames;
    std::uint32_t count = 0;
    bool unflushed = false;
  };
  struct alignas(64) Lane {
    std::vector<std::uint16_t> members;    // the ports that there are
    bool tags_change = false;              // not a patch, and some port has a VLAN policy
    std::vector<Memo> memos;               // by PortId of the sender
    std::vector<Group> groups;             // by PortId of the sink
    std::vector<std::uint16_t> filled;     // groups that are not empty
    std::vector<std::uint16_t> unflushed;  // sinks
    std::array<VlanTag, Burst::most> tags;
  };
  struct Journey;

  Switch(std::vector<PortSetup> ports, std::size_t places, const SwitchOptions& options,
         std::unique_ptr<MacTable> table);

  void forward_some(Source& source, std::span<Frame> frames, unsigned worker);
  void patch(Source& source, std::span<Frame> frames, Lane& lane);
  void direct_all(Source& source, std::span<Frame> frames, unsigned worker);
  Group* direct(Journey& journey, Frame& frame, VlanTag& tag);
  void flood(Journey& journey, Frame& frame, const VlanTag& tag);
  void look_up(Journey& journey, StationKey source, StationKey destination);
  static Group& gather(Lane& lane, std::uint16_t port, Frame& frame);
  void deliver(Lane& lane, std::span<Frame> frames, unsigned worker);

  const std::uint32_t storm_limit_;
  std::vector<std::unique_ptr<Port>> ports_;  // by PortId; null: a free place
  std::vector<std::uint16_t> members_;        // as the workers are to know them
  std::unique_ptr<MacTable> table_;           // null: a patch
  std::vector<Lane> lanes_;                   // by worker
};

}  // namespace net
