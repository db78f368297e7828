#pragma once
#include <poll.h>

#include "tests/integration/hostile.hpp"
#include "tests/integration/raw_ring.hpp"

/*
 * Drivers that break the rules of the ring: that ring stops and says so, its neighbour goes on, and
 * a reset brings it back.
 */
namespace integration {

class HostileRing : public Hostile {
 protected:
  static constexpr std::uint16_t ring_size = 16;

  /// What a test does to ring 1, with a buffer of guest memory at hand.
  struct Victim {
    Guest& disk;
    Buffer room;

    [[nodiscard]] vhost::frontend::Queue& queue() const { return disk->device().queue(1); }
    [[nodiscard]] AnyDriverRing& ring() const { return queue().ring(); }
    /// An entry of a table in that buffer.
    void table(std::uint16_t index, const Piece& piece) const {
      write_entry(ring(), room.data, index, piece);
    }
    void offer(std::initializer_list<Piece> pieces) const {
      ring().offer_raw(place_raw(ring(), pieces));
    }
    void show() const { ring().expose(), queue().kick(); }
    void offer_and_show(std::initializer_list<Piece> pieces) const { offer(pieces), show(); }
  };
  using Mischief = std::function<void(const Victim&)>;

  /// Which rings the driver has.
  [[nodiscard]] virtual BlkOptions rings() const { return with_queues(2, ring_size); }

  static bool told_of_error(const Victim& victim) {
    pollfd error{victim.queue().error_fd(), POLLIN, 0};
    return ::poll(&error, 1, 3000 * slowness) == 1;
  }
  static bool serves(Guest& disk, std::size_t queue) {
    Load load(disk, {.queue = queue, .first_sector = 1024 * queue, .depth = 2});
    load.run(10);
    return load.failed == 0;
  }
  void breaks(const Mischief& mischief) { outcome(mischief, true); }
  void is_survived(const Mischief& mischief) { outcome(mischief, false); }

 private:
  void outcome(const Mischief& mischief, bool must_break) {
    auto disk = guest(rings());
    const Victim victim{disk, disk.allocate(64 * kibi)};
    mischief(victim);
    if (must_break) {
      EXPECT_TRUE(told_of_error(victim));
    }
    EXPECT_TRUE(serves(disk, 0)) << "the neighbour";
    (void)disk->detach();
    must(disk->device().reset());
    must(disk->start());
    EXPECT_TRUE(serves(disk, 1)) << "after the reset";
  }
};

}  // namespace integration
