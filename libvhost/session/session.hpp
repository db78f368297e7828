#pragma once
#include <cstdint>
#include <memory>
#include <optional>

#include "libvhost/memory/dirty_log.hpp"
#include "libvhost/memory/inflight.hpp"
#include "libvhost/memory/memory_map.hpp"
#include "libvhost/session/backend_channel.hpp"
#include "libvhost/session/device.hpp"
#include "libvhost/session/device_state.hpp"
#include "libvhost/session/iommu.hpp"
#include "libvhost/session/log.hpp"
#include "libvhost/session/postcopy.hpp"
#include "libvhost/wire/message.hpp"

/*
 * One connection of a front-end: receives a message, asks the table whether it is well formed and
 * the state whether it is allowed, starts or stops rings, answers.
 *
 * A message that is refused changes nothing. Where the front-end asked for an acknowledgement it
 * gets a non-zero one and the connection goes on; where a reply has a form for "no", it gets
 * that; otherwise there is no way to tell it, and the connection ends with one log line.
 *
 * Whether a ring runs follows from the state: after each message that could matter, settle()
 * starts what may run and stops what may not. A ring whose areas are not in the shared memory (yet)
 * does not start; it is tried again when the memory, the ring or its enable changes. Where an IOMMU
 * translates, its areas are asked for, and it starts when they are known.
 *
 * Whether requests may be left in flight only the last message of a stop says, and front-ends
 * disable the ring before it. So where that may be, a disable leaves them, and a GET_VRING_BASE
 * that does not want it has them carried out.
 *
 * Thread: the control thread.
 */
namespace vhost {

/// What the statistics tell of a connection.
struct SessionInfo {
  std::uint64_t features = 0;
  std::uint64_t protocol_features = 0;
  std::uint64_t messages = 0;
  std::uint64_t refused = 0;
  std::size_t memory_regions = 0;
  std::uint16_t running_rings = 0;
  IommuCounts iommu{};
  std::size_t iotlb_entries = 0;
  std::size_t unanswered_misses = 0;
};

/// What is offered only if the operator wants it.
struct Extras {
  /// Postcopy: a front-end may then make any thread that touches its memory wait, for ever.
  bool postcopy = false;

  [[nodiscard]] std::uint64_t protocol_features() const {
    return postcopy ? bit(protocol_feature::pagefault) : 0;
  }
};

class Session {
 public:
  /// `conduct` is that of the front-end, in this connection and others. On `loop` it waits for what
  /// is not a message on its socket.
  Session(UniqueFd socket, EventLoop& loop, Device& device, Log log,
          std::shared_ptr<Conduct> conduct, Extras extras = {});
  /// Stops all rings, so that nothing uses the front-end's memory any more.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] int socket() const { return socket_.get(); }

  /// Reads and answers all that has come. False: the connection is over; destroy the session.
  [[nodiscard]] bool on_readable();

  /// Tells the front-end that the configuration space changed, if it wants to know.
  void notify_config_change();

  /// False if a file that the front-end shares was truncated: what it holds is lost, and so is
  /// the connection.
  [[nodiscard]] bool memory_is_whole() const;

  [[nodiscard]] SessionInfo info() const;

 private:
  /// What goes back: a payload and at most one descriptor.
  struct Reply {
    std::vector<std::byte> payload;
    UniqueFd fd;

    template <Wire T>
    [[nodiscard]] static Reply of(const T& value) {
      const auto bytes = bytes_of(value);
      return {{bytes.begin(), bytes.end()}, {}};
    }
  };
  /// No reply: the message is acknowledged if it asks for that.
  using Answer = Result<std::optional<Reply>>;

  [[nodiscard]] Result<void> handle(Message message);
  [[nodiscard]] Answer dispatch(const RequestRule& rule, Message& message);
  [[nodiscard]] Answer dispatch_vring(const RequestRule& rule, Message& message);
  [[nodiscard]] Answer dispatch_memory(const RequestRule& rule, Message& message);
  [[nodiscard]] Answer dispatch_postcopy(const RequestRule& rule);
  [[nodiscard]] Result<void> send(const Message& to, const Reply& reply);
  [[nodiscard]] std::optional<Reply> refusal(const RequestRule* rule, const Message& message) const;

  [[nodiscard]] Result<void> set_features(std::uint64_t features);
  [[nodiscard]] Result<void> set_vring_addr(const VringAddr& request);
  [[nodiscard]] Answer set_log_base(const LogDescription& request, const UniqueFd& fd);
  [[nodiscard]] Result<void> settle_log();
  [[nodiscard]] Answer get_config(const Message& message);
  [[nodiscard]] Answer set_config(const Message& message);
  [[nodiscard]] Answer get_vring_base(const RequestRule& rule, const VringState& request);
  [[nodiscard]] Answer set_vring_fd(const RequestRule& rule, Message& message);
  [[nodiscard]] Result<void> set_protocol_features(std::uint64_t features);
  [[nodiscard]] Answer set_mem_table(Message& message);
  [[nodiscard]] Answer get_inflight(const InflightDescription& request);
  [[nodiscard]] Answer set_inflight(const InflightDescription& request, const UniqueFd& fd);
  [[nodiscard]] Answer reset_device();
  [[nodiscard]] Answer take_iotlb(const IotlbMessage& message);

  [[nodiscard]] const MemoryMap& known_memory() const;
  [[nodiscard]] Answer take_memory(Result<MemoryMap> map, const Message& message);
  [[nodiscard]] Answer announce(MemoryMap map, const Message& message);
  [[nodiscard]] bool acknowledges_memory(const Message& message) const;
  [[nodiscard]] Answer take_acknowledgement(const Message& message);
  [[nodiscard]] MemoryRegion as_addressed(MemoryRegion region) const;
  [[nodiscard]] Result<void> adopt(Result<MemoryMap> map);
  [[nodiscard]] Result<void> settle(std::uint16_t index);
  [[nodiscard]] Result<void> settle_all();
  [[nodiscard]] bool may_run(std::uint16_t index) const;
  void start(std::uint16_t index, bool owed_only = false);
  [[nodiscard]] bool begin();
  void rest_if_idle();
  void wake(std::uint16_t index);
  [[nodiscard]] Result<void> settle_iommu();
  [[nodiscard]] Result<void> adopt_translated(std::shared_ptr<const MemoryMap> memory);
  [[nodiscard]] bool translates() const { return memory_->iotlb() != nullptr; }
  /// What becomes of the requests in flight on a ring that stops: they end, or they may be left in
  /// the inflight region for the next start.
  enum class InFlight : bool { ends, may_stay };
  [[nodiscard]] Result<void> stop(std::uint16_t index, InFlight requests = InFlight::ends);
  [[nodiscard]] Result<void> end_suspended(std::uint16_t index);
  [[nodiscard]] bool has_inflight_section(std::uint16_t index) const {
    return inflight_ && index < inflight_description_.queues;
  }
  [[nodiscard]] Result<void> pause_all();
  [[nodiscard]] Result<void> stop_all();
  [[nodiscard]] Result<AnyRing> make_ring(std::uint16_t index) const;
  void complain(const std::string& what);

  UniqueFd socket_;
  EventLoop& loop_;
  Device& device_;
  Log log_;
  const std::shared_ptr<Conduct> conduct_;
  MessageReader reader_;
  DeviceState state_;
  std::shared_ptr<const MemoryMap> memory_ = std::make_shared<const MemoryMap>();
  std::shared_ptr<const MemoryMap> announced_;  // of postcopy: not acknowledged yet
  Postcopy postcopy_{socket_.get()};
  std::shared_ptr<DirtyLog> log_pages_;  // may be there long before, and after, it is used
  std::shared_ptr<const Mapping> inflight_;
  InflightDescription inflight_description_{};
  bool begun_ = false;   // the device, and it does not rest
  bool doomed_ = false;  // it could not: the connection ends
  BackendChannel channel_;
  std::unique_ptr<Iommu> iommu_;  // once there was one, for as long as the connection lasts
  std::uint64_t messages_ = 0;
  std::uint64_t refused_ = 0;
};

}  // namespace vhost
