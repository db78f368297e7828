#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backends/net/frame/offload.hpp"
#include "backends/net/guest/queue_stats.hpp"
#include "common/spin_lock.hpp"
#include "libvhost/session/device.hpp"

/*
 * One receive queue of a guest, reached by any worker under its own lock (to_guest.hpp).
 *
 * A driver with mergeable buffers gets a frame in as many as it takes, all but the last one filled
 * (VIRTIO 5.1.6.4); if it offers too few, none is used up. Without, a frame must fit into one. What
 * the driver did not accept (checksums or segments left open) is done here, before the copy.
 */
namespace net {

/// How frames are laid out for a driver, by the features that it accepted.
struct GuestForm {
  std::size_t header_bytes = header_bytes_of(0);
  bool mergeable = false;
  Accepts accepts;                  ///< towards the guest
  std::uint32_t longest_plain = 0;  ///< of a frame without segmentation

  [[nodiscard]] static GuestForm of(std::uint64_t features, std::uint16_t mtu);
  /// VIRTIO 5.1.6.1.
  [[nodiscard]] static std::size_t header_bytes_of(std::uint64_t features);
};

/// A receive queue that runs or ran. All but `stats`, `call_due_` and `just_broke_` is under
/// the lock.
class ToGuestQueue {
 public:
  void start(vhost::StartedRing ring, const GuestForm& form);
  [[nodiscard]] vhost::StartedRing stop();
  std::shared_ptr<const vhost::EventFd> set_call(std::shared_ptr<const vhost::EventFd> call);
  void move_to(const std::shared_ptr<const vhost::MemoryMap>& memory);
  void set_longest_plain(std::uint32_t bytes);

  void deliver(std::span<Frame* const> frames);
  /// What to call now; null: nothing.
  [[nodiscard]] const vhost::EventFd* take_call();
  /// The driver broke the rules, and this was not asked before.
  [[nodiscard]] bool take_news_of_breaking() {
    return just_broke_.load(std::memory_order_relaxed) && just_broke_.exchange(false);
  }
  /// What to signal then; null: nobody wants to know.
  [[nodiscard]] const vhost::EventFd* error();

  QueueStats stats;

 private:
  /// A chain of the ring that no frame has been put into yet.
  struct Popped {
    std::uint16_t head;
    std::size_t bytes;
    std::span<iovec> pieces;

    /// In one piece.
    [[nodiscard]] bool holds(std::size_t wanted) const {
      return pieces.size() == 1 && bytes >= wanted;
    }
  };

  template <vhost::Ring R>
  bool put_plain(R& ring, const Frame& frame);
  template <vhost::Ring R>
  void deliver_one(R& ring, Frame& frame);
  template <vhost::Ring R>
  void put(R& ring, const Frame& frame);
  template <vhost::Ring R>
  void pop_ahead(R& ring, std::span<Frame* const> frames);
  template <vhost::Ring R>
  [[nodiscard]] vhost::Pop pop(R& ring);
  template <vhost::Ring R>
  [[nodiscard]] std::optional<Drop> gather(R& ring, std::size_t bytes);
  template <vhost::Ring R>
  void give_back(R& ring);
  void write(const Frame& frame);
  void broke();

  common::SpinLock lock_;
  std::optional<vhost::AnyRing> ring_;
  std::shared_ptr<const vhost::EventFd> call_;
  std::shared_ptr<const vhost::EventFd> error_;
  GuestForm form_;
  bool broken_ = false;
  Tally tally_;

  // Chains that were popped in this burst, and room for their pieces. Those before `next_` have
  // been given back to the driver with a frame; the frame at hand goes into the `taken_` behind.
  std::vector<Popped> popped_;
  std::size_t next_ = 0;
  std::size_t taken_ = 0;
  std::vector<iovec> room_;
  std::size_t pieces_ = 0;

  std::atomic<bool> call_due_ = false;
  std::atomic<bool> just_broke_ = false;
};

}  // namespace net
