#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "backends/net/forwarding/guard.hpp"
#include "backends/net/forwarding/source.hpp"
#include "backends/net/frame/vlan.hpp"
#include "libvhost/wire/error.hpp"

struct rte_hash;

/*
 * Which port a station was last heard on: the learned addresses of all VLANs.
 *
 * DPDK's rte_hash (RW_CONCURRENCY_LF) finds the position of a key; what is known of the station
 * lies at that position in an array of our own, in one atomic word: its port and when it was heard
 * last. So a worker that hears a station again, even on another port, changes one word and takes no
 * lock. A word of 0 means that there is no station.
 *
 * Adding and deleting keys needs a lock. The control thread waits for it; a worker does not: if it
 * is taken, the next frame of the station will teach it. (rte_hash's own MULTI_WRITER_ADD demands
 * threads that EAL has numbered.) Only an add makes a word of 0 another, only age() and forget()
 * make it 0, all under the lock; everybody else uses compare-and-swap on a word that is not 0.
 *
 * A deleted key's position may be used again only when no worker can still look at it. A worker
 * marks its turn: `turn` is odd while it uses the table. age() deletes keys, fences, and notes the
 * turns; a worker whose turn was even then, or is another one by now, cannot have found the deleted
 * keys any more, and when that is true of all of them the positions are freed, by the same or by a
 * later age(). Nobody waits for anybody, a worker that sleeps does not hold positions back, and one
 * that is stopped in the middle of a turn only delays them. Until they are freed age() deletes no
 * others; what forget() deletes joins them, and the turns are noted anew for all.
 *
 * Bounded: so many stations per port that a guest which invents addresses fills its own share and
 * nobody else's, and room for all shares together. The hash is keyed with a secret, because a guest
 * that could choose addresses of one bucket would keep others out of it.
 *
 * version() changes whenever an answer may have: stations added, moved or gone. Who has read it
 * before a lookup may use the answer as long as it stays.
 */
namespace net {

/// A MAC address, as it lies in the frame, and its VLAN.
enum class StationKey : std::uint64_t {};

[[nodiscard]] inline StationKey station_key(const Frame& frame, std::size_t offset, VlanId vlan) {
  const std::uint64_t low = frame.field<std::uint32_t>(offset);
  const std::uint64_t high = frame.field<std::uint16_t>(offset + 4);
  return StationKey{low | high << 32 | static_cast<std::uint64_t>(vlan) << 48};
}

/// One learned address, for the stats file.
struct Station {
  MacAddress mac;
  VlanId vlan;
  PortId port;
  std::uint32_t age_s;
};

class MacTable {
 public:
  struct Limits {
    std::uint16_t ports = 0;
    unsigned workers = 1;
    std::uint32_t stations_per_port = 1024;
    std::uint32_t ageing_s = 300;
  };

  /// Needs EAL.
  [[nodiscard]] static vhost::Result<std::unique_ptr<MacTable>> create(const Limits& limits);
  ~MacTable();
  MacTable(const MacTable&) = delete;
  MacTable& operator=(const MacTable&) = delete;

  /// While it lives, its worker may call find() and hear(). One at a time per worker.
  class Turn {
   public:
    Turn(MacTable& table, unsigned worker) : turn_(table.turns_[worker].number) {
      // In one order with the fence of age(): either it sees this turn, or this turn sees its
      // deletions.
      turn_.store(turn_.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
      std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    ~Turn() { turn_.store(turn_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    std::atomic<std::uint64_t>& turn_;
  };

  /// The port of a station, if it is known.
  [[nodiscard]] std::optional<PortId> find(StationKey key) const;
  /// A frame of this station came in through the port. A group address is nobody's.
  void hear(StationKey key, PortId port);

  [[nodiscard]] std::uint64_t version() const { return version_.load(std::memory_order_acquire); }
  /// The second that hear() writes down: of the last age().
  [[nodiscard]] std::uint32_t second() const { return second_.load(std::memory_order_relaxed); }

  /// Tells the time and forgets stations that were not heard for too long. Control thread, about
  /// once a second.
  void age(std::uint64_t now_ns);
  /// Forgets the stations of a port through which nothing comes in any more. What find() said of
  /// them counts until the end of the worker's turn, or until version() is looked at. Control
  /// thread.
  void forget(PortId port);

  /// What is known now, at most so many. Control thread.
  [[nodiscard]] std::vector<Station> stations(std::size_t most) const;
  [[nodiscard]] std::uint32_t station_count(PortId port) const;
  /// Times that an address of the port was not learned because its share is full.
  [[nodiscard]] std::uint64_t not_learned(PortId port) const;

 private:
  struct Place {
    std::atomic<std::uint64_t> key;
    std::atomic<std::uint64_t> heard;  // port and second; 0: nobody
  };
  struct alignas(64) PortShare {
    std::atomic<std::uint32_t> stations = 0;
    std::atomic<std::uint64_t> not_learned = 0;
  };
  struct alignas(64) TurnNumber {
    std::atomic<std::uint64_t> number = 0;
  };

  MacTable(const Limits& limits, rte_hash* hash, std::uint64_t secret);

  [[nodiscard]] std::uint32_t hash_of(StationKey key) const;
  [[nodiscard]] Place* place_of(StationKey key) const;
  bool hear_again(Place& place, PortId port);
  void add(StationKey key, PortId port);
  [[nodiscard]] bool take_share(PortId port);
  void give_back_share(PortId port);
  template <class Condition>
  void forget_if(Condition condition);
  void forget(Place& place, std::uint64_t heard);
  [[nodiscard]] bool free_positions();
  void changed() { version_.fetch_add(1, std::memory_order_release); }

  const Limits limits_;
  rte_hash* const hash_;
  const std::uint64_t secret_;
  const std::uint32_t place_count_;
  const std::unique_ptr<Place[]> places_;  // by position

  std::mutex writers_;
  std::vector<PortShare> shares_;
  std::vector<TurnNumber> turns_;
  alignas(64) std::atomic<std::uint64_t> version_ = 1;
  std::atomic<std::uint32_t> second_ = 0;

  // Control thread.
  std::vector<std::int32_t> deleted_;      // positions not freed yet
  std::vector<std::uint64_t> turns_then_;  // when they had been deleted
};

}  // namespace net
