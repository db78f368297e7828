#pragma once
#include <optional>

#include "libvhost/session/device.hpp"
#include "libvhost/session/endpoint.hpp"
#include "libvhost/session/event_loop.hpp"
#include "libvhost/session/log.hpp"
#include "libvhost/session/session.hpp"

namespace vhost {

/// Serves one device to one front-end after another, on an event loop that it shares with
/// whatever else the process waits for: other servers, too.
///
/// One connection at a time: a second one is closed at once, because a front-end that waits in
/// the backlog may hang with its whole guest. When a connection ends, all rings are stopped before
/// the next one is taken. An endpoint that is itself one connection stops the loop when it ends.
class Server {
 public:
  /// How often a connecting endpoint tries while nobody is there.
  static constexpr std::chrono::milliseconds retry_period{100};

  /// Begins to serve; the loop, the device and this object must stay where they are.
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(EventLoop& loop, Device& device,
                                                             Endpoint endpoint, Log log,
                                                             Extras extras = {});
  /// Ends the connection, and with it all rings.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void notify_config_change();

  [[nodiscard]] bool connected() const { return session_ != nullptr; }
  /// Of the connection now; empty if there is none.
  [[nodiscard]] SessionInfo info() const { return session_ ? session_->info() : SessionInfo{}; }
  /// Connections since the start.
  [[nodiscard]] std::uint64_t connections() const { return connections_; }
  /// Messages refused, over all connections.
  [[nodiscard]] std::uint64_t refused() const { return refused_before_ + info().refused; }
  /// What an IOMMU has cost, likewise.
  [[nodiscard]] IommuCounts iommu() const { return IommuCounts(iommu_before_) += info().iommu; }
  /// Calls that hung until they were freed, likewise.
  [[nodiscard]] std::uint64_t hung_calls() const { return conduct_->hung_calls(); }

 private:
  Server(EventLoop& loop, Device& device, Endpoint endpoint, Log log, Extras extras)
      : loop_(loop),
        device_(device),
        endpoint_(std::move(endpoint)),
        log_(std::move(log)),
        extras_(extras),
        conduct_(std::make_shared<Conduct>(log_)) {}

  [[nodiscard]] Result<void> begin();
  [[nodiscard]] Result<void> begin_retrying();
  void stop_retrying();
  void take_connections();
  void open(UniqueFd socket);
  void close();

  EventLoop& loop_;
  Device& device_;
  Endpoint endpoint_;
  Log log_;
  const Extras extras_;
  const std::shared_ptr<Conduct> conduct_;
  UniqueFd faults_;
  UniqueFd retry_timer_;
  std::unique_ptr<Session> session_;
  std::uint64_t connections_ = 0;
  std::uint64_t refused_before_ = 0;
  IommuCounts iommu_before_;
};

}  // namespace vhost
