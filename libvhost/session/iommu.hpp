#pragma once
#include <chrono>
#include <deque>

#include "libvhost/memory/iotlb.hpp"
#include "libvhost/session/backend_channel.hpp"

/*
 * The control thread's half of an IOMMU (vhost-user, "IOMMU support"; the other is Iotlb): asks the
 * front-end for translations that rings miss, and hears of others that it has to forget.
 *
 * A miss goes out on the back-end channel and is answered by an update on the main connection.
 * Where the front-end also replies to it (REPLY_ACK), a "no" is known at once. In any case a miss
 * that no update answered in time is refused; so are all if there is no channel. A ring that needs
 * what was refused breaks. A front-end answers from its main loop, which takes it microseconds, and
 * all that time the guest's request hangs: after five seconds it will not come. Those are seconds
 * in which this thread was there to hear it.
 *
 * A ring hears of answers once, when all that it misses is answered, because it reads its chain
 * from the start then.
 *
 * Misses are sent on an event of their own and never in the middle of a message: a front-end that
 * waits for our reply could take them for it. Everything is bounded: what one ring may have asked
 * for, what is on its way at once, and how long it takes.
 *
 * Thread: the control thread.
 */
namespace vhost {

/// What translating has cost a connection, for the statistics.
struct IommuCounts {
  std::uint64_t updates = 0;        ///< translations that the front-end told
  std::uint64_t misses = 0;         ///< that rings were missing, and that were to be asked for
  std::uint64_t refused = 0;        ///< of these, that nobody translated
  std::uint64_t late = 0;           ///< of these, because no answer came in time
  std::uint64_t invalidations = 0;  ///< that were carried out
  std::uint64_t drains = 0;         ///< times that a ring was stopped for one
  std::uint64_t overflows = 0;      ///< times that all was forgotten, because there was no room

  IommuCounts& operator+=(const IommuCounts& other);
  [[nodiscard]] bool operator==(const IommuCounts&) const = default;
};

class Iommu {
 public:
  /// How long an answer may take.
  static constexpr std::chrono::milliseconds usual_patience{5000};
  /// Misses of one ring that are to be answered. What is more, it wants again.
  static constexpr std::size_t most_of_a_ring = 512;
  /// Misses of all rings that were sent and not answered.
  static constexpr std::size_t most_sent = 64;
  /// Times that a front-end may say that it is done when it is not: what it had sent may have been
  /// taken back at once.
  static constexpr unsigned most_empty_promises = 8;

  struct Setup {
    EventLoop& loop;
    BackendChannel& channel;
    Log log;
    std::uint16_t rings;
    /// Whether misses ask for a reply.
    std::function<bool()> replies;
    /// A ring that waits for translations can look again.
    std::function<void(std::uint16_t ring)> wake;
    std::chrono::milliseconds patience = usual_patience;
  };

  [[nodiscard]] static Result<std::unique_ptr<Iommu>> create(Setup setup);
  ~Iommu();
  Iommu(const Iommu&) = delete;
  Iommu& operator=(const Iommu&) = delete;

  [[nodiscard]] const std::shared_ptr<Iotlb>& iotlb() const { return iotlb_; }

  /// A ring is about to begin anew: what was refused to it is forgotten.
  void begin(std::uint16_t ring);
  /// Of a ring that began. While it waits and does not run, its areas are asked for.
  [[nodiscard]] const std::shared_ptr<Ledger>& ledger(std::uint16_t ring) const {
    return rings_[ring].ledger;
  }
  /// The ring does not run any more, and waits for nothing.
  void end(std::uint16_t ring);

  /// An update or an invalidation. The rings that use what is to be forgotten: it is only forgotten
  /// when they do not run any more.
  [[nodiscard]] Result<std::vector<std::uint16_t>> take(const IotlbMessage& message);
  /// A ring was stopped for that.
  void count_drain() { ++counts_.drains; }

  [[nodiscard]] IommuCounts counts() const;
  /// Misses that are not answered yet.
  [[nodiscard]] std::size_t unanswered() const { return asked_.size(); }

 private:
  struct Ring {
    std::shared_ptr<Ledger> ledger;  // null: it did not begin
    std::size_t unanswered = 0;      // of asked_
  };
  struct Asked {
    std::uint64_t number = 0;
    std::uint16_t ring = 0;
    Miss miss;
    std::uint64_t last_tick = 0;
    unsigned empty_promises = 0;
    bool sent = false;
  };

  Iommu(Setup setup, std::shared_ptr<Iotlb> iotlb)
      : setup_(std::move(setup)), iotlb_(std::move(iotlb)), rings_(setup_.rings) {}
  [[nodiscard]] Result<void> watch();
  [[nodiscard]] Result<void> update(const IotlbMessage& message);
  void on_wanted();
  void note(std::uint16_t ring, std::span<const Miss> misses);
  void send_some();
  [[nodiscard]] BackendChannel::Sent send(const Asked& asked);
  void on_reply(std::uint64_t number, std::optional<std::uint64_t> reply);
  void on_tick();
  template <class Which>
  void settle(Which which, bool refused);
  void wake_answered();

  Setup setup_;
  std::shared_ptr<Iotlb> iotlb_;
  std::vector<Ring> rings_;
  UniqueFd timer_;
  bool ticking_ = false;
  std::uint64_t ticks_ = 0;
  std::deque<Asked> asked_;  // oldest first
  std::uint64_t last_number_ = 0;
  IommuCounts counts_;
};

}  // namespace vhost
