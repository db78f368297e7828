#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "libvhost/frontend/connection.hpp"
#include "libvhost/frontend/dirty_pages.hpp"
#include "libvhost/frontend/queue.hpp"
#include "libvhost/frontend/shared_memory.hpp"

/*
 * A virtio device behind a vhost-user connection, as its driver sees it. What is common to all
 * kinds of device; a block or a net driver stands on top.
 *
 * The life of a device, after the illumos virtio framework:
 *
 *   starting       create(): a connection, and memory to share
 *   negotiation    negotiate(): features and protocol features, wanted and required
 *   queues         make_queues(): rings in the shared memory, and their eventfds
 *   finishing      start(): memory, inflight region, rings; the device runs
 *   chains         queue(i): add, submit, poll
 *   interrupts     queue(i).wait(), or poll() on its call_fd()
 *   migration      start_log(), dirty_pages(): what the device writes, while it runs
 *   quiesce        stop() or suspend(): the device has let go of everything; start() goes on where
 *                  it was
 *   detach         detach(): stop, and every chain comes back to the caller, finished or not
 *
 * When the back-end dies, lost() is true, and reconnect() gives the same rings to its successor:
 * with the inflight region, which outlives the back-end here, or else by offering again what did
 * not come back. Either way requests may be carried out twice; they must be such that this is
 * harmless (reads and writes of sectors are).
 *
 * The back-end is not trusted: replies are checked, rings believe only their own books.
 *
 * Thread: one for everything here; each queue may be handed to a thread of its own between start()
 * and stop().
 */
namespace vhost::frontend {

/// Not among them: GPA_ADDRESSES, with which the back-end is told no address of this process, and
/// GET_VRING_BASE_INFLIGHT and _SKIP_DRAIN, for drivers that carry requests in flight elsewhere.
/// Whoever wants them asks for them.
inline constexpr std::uint64_t default_protocol_features =
    bit(protocol_feature::mq) | bit(protocol_feature::log_shmfd) |
    bit(protocol_feature::reply_ack) | bit(protocol_feature::backend_req) |
    bit(protocol_feature::config) | bit(protocol_feature::inflight_shmfd) |
    bit(protocol_feature::reset_device) | bit(protocol_feature::configure_mem_slots) |
    bit(protocol_feature::status);

/// The IOMMU of a device that negotiated VIRTIO_F_ACCESS_PLATFORM: what descriptors call a guest
/// address is then one that it translates, and the back-end knows the memory elsewhere.
struct IommuOptions {
  std::uint64_t page_bytes = 4096;               ///< of its translations; a power of two
  std::uint64_t shift = std::uint64_t{1} << 40;  ///< from such an address to where the memory is
};

/// What a driver would like to have, where it is offered, and what it cannot do without.
struct Wishes {
  std::uint64_t features = bit(feature::version_1) | bit(feature::event_idx) |
                           bit(feature::indirect_desc) | bit(feature::protocol_features);
  std::uint64_t required_features = 0;
  std::uint64_t protocol_features = default_protocol_features;
  std::uint64_t required_protocol_features = 0;
  /// Of use if `features` has VIRTIO_F_ACCESS_PLATFORM.
  IommuOptions iommu{};
};

/// A chain that detach() took back.
struct ReturnedChain {
  std::size_t queue = 0;
  std::uint64_t cookie = 0;
  bool finished = false;  ///< the device used it; false: it may have been carried out or not
  std::uint32_t written_bytes = 0;
};

/// Who brings pages of memory that a back-end finds missing (vhost-user, "Postcopy").
struct PageSource {
  /// Told of the back-end's faults by this descriptor, and wakes by it who waits there.
  std::function<void(UniqueFd userfault)> adopt;
  /// What is here from `bytes` on, one region, begins at this address in the back-end.
  std::function<void(const std::byte* bytes, std::uint64_t backend_address)> placed;
};

enum class Wake : std::uint8_t { used, timeout, ring_error, lost };

class Device {
 public:
  /// Called for each message of the back-end channel; 0 says done. The connection must not be
  /// used in it.
  using ChannelHandler = Connection::ChannelHandler;

  /// `memory` must outlive the device.
  Device(Connection connection, SharedMemory& memory)
      : connection_(std::move(connection)), memory_(memory) {}
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] Result<void> negotiate(const Wishes& wishes);
  /// Makes the rings of `count` queues, as the back-end counts them: some kinds of device have
  /// several rings in each. What was negotiated (EVENT_IDX, VERSION_1, INDIRECT_DESC, RING_PACKED)
  /// overrules the options.
  [[nodiscard]] Result<void> make_queues(std::size_t count, QueueOptions options,
                                         std::size_t rings_each = 1);
  [[nodiscard]] Result<void> start();
  /// The device gives its rings back. What it finished is still to be polled.
  [[nodiscard]] Result<void> stop();
  /// stop() that does not wait for what the device can leave in flight: the inflight region has it,
  /// for the next start(), or after reconnect() for a successor. Needs GET_VRING_BASE_SKIP_DRAIN.
  [[nodiscard]] Result<void> suspend();
  /// From now on another file has the inflight region's content: a guest that moved takes the
  /// content along, and not the file. Only while stopped.
  [[nodiscard]] Result<void> move_inflight();
  /// Also where the connection is lost. Afterwards the rings are empty, and start() begins anew.
  [[nodiscard]] std::vector<ReturnedChain> detach();
  /// Goes on with a new back-end for the same device, and starts it. Without an inflight region
  /// every queue must have been polled until empty.
  [[nodiscard]] Result<void> reconnect(Connection connection);
  /// The next reconnect() finds memory that is not all there: it comes from `source`, page by page,
  /// until all_pages_came(). The back-end must offer PAGEFAULT.
  void arrive_by(PageSource source);
  [[nodiscard]] Result<void> all_pages_came();
  /// RESET_DEVICE, where it was negotiated: only while stopped.
  [[nodiscard]] Result<void> reset();

  /// Rings, if the kind of device has several in each of its queues.
  [[nodiscard]] std::size_t queue_count() const { return queues_.size(); }
  [[nodiscard]] Queue& queue(std::size_t index) { return *queues_[index]; }
  /// Waits for used entries in one queue, and answers the back-end channel meanwhile.
  [[nodiscard]] Wake wait(std::size_t queue, std::chrono::milliseconds time);

  /// Has the back-end log what it writes, from now on and after each start(). Memory that is added
  /// later needs another start_log().
  [[nodiscard]] Result<void> start_log();
  [[nodiscard]] Result<void> stop_log();
  /// Between start_log() and stop_log(). After stop() it has everything.
  [[nodiscard]] DirtyPages& dirty_pages() { return *log_; }

  /// The device's configuration space.
  [[nodiscard]] Result<std::vector<std::byte>> read_config(std::uint32_t offset_bytes,
                                                           std::uint32_t size_bytes);
  [[nodiscard]] Result<void> write_config(std::uint32_t offset_bytes,
                                          std::span<const std::byte> bytes);
  /// True once after each time the back-end said that its configuration changed.
  [[nodiscard]] bool take_config_changed() { return std::exchange(config_changed_, false); }
  /// Hears the messages of the back-end channel; set it before negotiate().
  void on_channel(ChannelHandler handler) { on_channel_ = std::move(handler); }

  [[nodiscard]] bool translated() const { return has(features_, feature::access_platform); }
  /// The page that a miss is in, as an update says it; nothing if it is not in the memory.
  [[nodiscard]] std::optional<IotlbMessage> translation(const IotlbMessage& miss) const;
  /// Answers misses in place of translation().
  void on_miss(Connection::Translator translator) { on_miss_ = std::move(translator); }
  /// Takes translations back. When it returns the device does not use them any more.
  [[nodiscard]] Result<void> invalidate(std::uint64_t address, std::uint64_t bytes);

  /// Adds memory, of a running device too. The id is that of SharedMemory::regions().
  [[nodiscard]] Result<std::size_t> add_region(std::size_t size_bytes, RegionOptions options = {});
  /// Takes memory away that holds no buffer any more, of a running device too.
  [[nodiscard]] Result<void> remove_region(std::size_t id);

  [[nodiscard]] std::uint64_t offered_features() const { return offered_; }
  [[nodiscard]] std::uint64_t features() const { return features_; }
  [[nodiscard]] std::uint64_t protocol_features() const { return protocol_features_; }
  /// What the back-end allows, in queues as it counts them; 1 if it does not say.
  [[nodiscard]] std::size_t max_queues() const { return max_queues_; }
  [[nodiscard]] bool running() const { return running_; }
  /// The back-end closed the connection.
  [[nodiscard]] bool lost() { return connection_.closed_within(std::chrono::milliseconds(0)); }
  [[nodiscard]] Connection& connection() { return connection_; }
  [[nodiscard]] SharedMemory& memory() { return memory_; }
  /// The kept inflight region; -1 without one.
  [[nodiscard]] int inflight_fd() const { return inflight_fd_.get(); }
  [[nodiscard]] const InflightDescription& inflight() const { return inflight_; }

 private:
  [[nodiscard]] bool with(unsigned protocol) const { return has(protocol_features_, protocol); }
  [[nodiscard]] Result<void> negotiate_protocol();
  [[nodiscard]] Result<void> set_features();
  [[nodiscard]] Result<void> set_status(std::uint8_t bits);
  [[nodiscard]] Result<void> share_memory();
  [[nodiscard]] Result<void> share_table();
  [[nodiscard]] Result<void> share_region(const Region& region);
  [[nodiscard]] MemoryRegion as_shared(const Region& region) const;
  [[nodiscard]] VringAddr addresses_of(std::uint32_t index) const;
  [[nodiscard]] Result<void> tell_memory(Request request, std::span<const std::byte> payload,
                                         std::span<const int> fds);
  [[nodiscard]] Result<void> listen_for_faults();
  [[nodiscard]] Result<void> share_inflight();
  [[nodiscard]] Result<void> share_log();
  [[nodiscard]] Result<void> tell_logging();
  [[nodiscard]] std::uint64_t features_to_tell() const;
  [[nodiscard]] Result<void> start_queue(std::uint32_t index);
  [[nodiscard]] Result<void> stop_by(Request request);
  [[nodiscard]] Result<void> tell_vring(Request request, std::uint32_t index, std::uint32_t value);
  [[nodiscard]] Result<void> tell_vring_fd(Request request, std::uint32_t index, int fd);
  [[nodiscard]] Result<void> barrier();

  Connection connection_;
  SharedMemory& memory_;
  Wishes wishes_;
  ChannelHandler on_channel_;
  Connection::Translator on_miss_;
  std::uint64_t offered_ = 0;
  std::uint64_t features_ = 0;
  std::uint64_t protocol_features_ = 0;
  std::size_t max_queues_ = 1;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<std::uint32_t> bases_;  // where each ring goes on
  std::vector<std::size_t> shared_;   // ids of the regions that the back-end has
  UniqueFd inflight_fd_;
  InflightDescription inflight_{};
  std::optional<DirtyPages> log_;
  std::optional<PageSource> page_source_;
  bool running_ = false;
  bool stopped_ = false;  // by the back-end, which said where each ring goes on
  bool config_changed_ = false;
};

}  // namespace vhost::frontend
