#pragma once
#include <memory>

#include "backends/net/forwarding/desk.hpp"
#include "backends/net/forwarding/source.hpp"
#include "backends/net/frame/offload.hpp"
#include "backends/net/guest/queue_stats.hpp"
#include "libvhost/session/device.hpp"

/*
 * One running transmit queue of a guest: chains come out of the ring, become frames, and go back
 * when the frames have been delivered.
 *
 * Where a chain's pieces end means nothing: header and frame may be split anywhere (VIRTIO 2.7.4).
 * A chain that is no frame is given back like the others, and counted. So is every chain of a queue
 * that the front-end has disabled (vhost-user, "Ring states").
 *
 * Frames that ask to be cut into many cost whoever they go to many times what they cost here, so a
 * burst ends in front of the one that would bring it above most_segments_of_burst. Chains behind
 * are the ring's again until the next turn.
 *
 * Thread: the worker that owns it.
 */
namespace net {

class FromGuest final : public Source {
 public:
  struct Setup {
    PortId port{};
    std::uint16_t queue = 0;  ///< the pair's number, from 0
    std::string name;         ///< of the port, for the log
    std::size_t header_bytes = 0;
    Accepts allowed;  ///< what the driver may leave to us
  };

  /// `desk` is that of the worker that will own the queue.
  FromGuest(Setup setup, vhost::StartedRing ring, Desk& desk, QueueStats& stats);

  bool take(Burst& burst) override;
  void release() override;
  bool arm() override;
  void disarm() override;
  int wake_fd() const override { return kick_ ? kick_->get() : -1; }
  void woken() override;
  Traffic& traffic() override { return stats_.traffic; }
  PortId port() const override { return setup_.port; }
  std::size_t room_needed() const override;

  void move_to(const std::shared_ptr<const vhost::MemoryMap>& memory);
  /// Calls the driver, whether it wants it or not.
  void call() { desk_.mailbox->call(call_.get()); }
  /// Returns the descriptor that was called until now. Calls the driver once on the new one.
  std::shared_ptr<const vhost::EventFd> change_call(std::shared_ptr<const vhost::EventFd> call);
  [[nodiscard]] vhost::AnyRing give_up_ring() { return std::move(ring_); }

 private:
  struct Intake;

  template <vhost::Ring R>
  bool take_from(R& ring, Burst& burst);
  template <vhost::Ring R>
  [[nodiscard]] bool take_singles(R& ring, Intake& intake);
  template <vhost::Ring R>
  [[nodiscard]] bool take_chain(R& ring, Intake& intake);
  [[nodiscard]] bool accept(std::span<iovec> pieces, Intake& intake);
  [[nodiscard]] bool read_plain(iovec& piece, Frame& frame) const;
  [[nodiscard]] std::optional<Drop> read(std::span<iovec> pieces, Frame& frame) const;
  void broke();

  const Setup setup_;
  const bool discard_;
  vhost::AnyRing ring_;
  std::shared_ptr<const vhost::EventFd> kick_;
  std::shared_ptr<const vhost::EventFd> call_;
  std::shared_ptr<const vhost::EventFd> error_;
  Desk& desk_;
  QueueStats& stats_;
  // The chains taken since the last release().
  std::size_t chains_ = 0;
  std::array<std::uint16_t, Burst::most> heads_;
  bool broken_ = false;
};

}  // namespace net
