#pragma once
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>
#include <functional>

#include "tests/integration/fixture.hpp"

/*
 * Front-ends and drivers that mean harm. After each test the daemon serves a decent guest,
 * verified, and has as many descriptors as before.
 */
namespace integration {

using vhost::bytes_of;
using vhost::Request;
using vhost::UniqueFd;
using vhost::frontend::Connection;

class Hostile : public Served {
 protected:
  static constexpr std::uint16_t queues = 4;

  void SetUp() override {
    serve({"--queues", std::to_string(queues), "--log-level", "error"});
    work();
    calm_ = quiet_descriptors();
  }
  void TearDown() override { unharmed(); }

  void unharmed() {
    ASSERT_TRUE(daemon->running()) << daemon->words();
    ASSERT_NO_THROW(work()) << daemon->words();
    EXPECT_TRUE(eventually([&] { return daemon->descriptors() <= calm_; }))
        << daemon->descriptors() << " descriptors instead of " << calm_;
  }

  /// A connection on which nothing was said yet.
  [[nodiscard]] Connection stranger() { return connect(socket); }
  /// A connection with all features accepted and acknowledgements on.
  [[nodiscard]] Connection acquaintance(
      std::uint64_t without = vhost::bit(vhost::feature::ring_packed)) {
    auto connection = stranger();
    const auto features = must(connection.ask_for<std::uint64_t>(Request::get_features));
    const auto protocol = must(connection.ask_for<std::uint64_t>(Request::get_protocol_features));
    // With GPA_ADDRESSES half of what can be wrong with an address would not be looked at.
    must(connection.tell(Request::set_protocol_features,
                         protocol & ~vhost::bit(vhost::protocol_feature::gpa_addresses)));
    must(connection.tell(Request::set_features, features & ~without));
    connection.acknowledge(true);
    return connection;
  }
  /// The daemon answers, or has closed the connection: it does not leave us waiting.
  [[nodiscard]] static bool answers_or_closes(Connection& connection) {
    if (!connection.send_raw(static_cast<std::uint32_t>(Request::get_features), 0, {})) return true;
    while (true) {
      const auto message = connection.receive();
      if (!message) return message.error().what.find("nothing came") == std::string::npos;
      if (message->request == static_cast<std::uint32_t>(Request::get_features)) return true;
    }
  }
  template <class T>
  [[nodiscard]] static bool accepts(Connection& connection, Request request, const T& payload,
                                    std::span<const int> fds = {}) {
    return connection.tell(request, payload, fds).has_value();
  }

  [[nodiscard]] static UniqueFd event(std::uint64_t value = 0) {
    const UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (value != 0) (void)!::write(fd.get(), &value, sizeof value);
    return UniqueFd(::dup(fd.get()));
  }
  [[nodiscard]] static UniqueFd shared_file(std::size_t bytes) {
    UniqueFd fd(::memfd_create("hostile", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) throw std::runtime_error("memfd");
    return fd;
  }

 private:
  /// What a decent guest does.
  void work() {
    auto disk = guest(with_queues(2));
    for (std::size_t queue = 0; queue < 2; ++queue) {
      Load load(disk, {.queue = queue, .first_sector = queue * 8192});
      load.run(40);
      load.verify();
    }
  }
  /// Once the session of the last connection is gone.
  [[nodiscard]] std::size_t quiet_descriptors() {
    (void)stats_when(stats, [](const auto& s) { return !s.at("connection").at("connected"); });
    return daemon->descriptors();
  }
  std::size_t calm_ = 0;
};

}  // namespace integration
