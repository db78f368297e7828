// Messages at random, most of them nearly right, from seeds that are the same each time.
#include <fcntl.h>
#include <sys/socket.h>

#include <cstring>
#include <random>

#include "libvhost/session/request_table.hpp"
#include "tests/integration/hostile.hpp"

namespace integration {
namespace {

/// One front-end gone mad: a decent driver's memory and rings, and then anything.
class Madman {
 public:
  Madman(Guest& disk, std::uint32_t seed, std::span<const int> fds)
      : disk_(disk), fds_(fds), random_(seed) {}

  /// False once the connection is gone.
  bool say_something() {
    const auto& rule = vhost::request_table[below(vhost::request_table.size())];
    std::vector<std::byte> payload = payload_for(rule);
    std::vector<int> fds;
    const std::size_t count = chance(8) ? below(9) : rule.fds_most;
    for (std::size_t i = 0; i < count; ++i) fds.push_back(fd_for(rule.request));
    const std::uint32_t flags = chance(2) ? vhost::header_need_reply : 0;
    auto& connection = disk_->device().connection();
    const auto number = static_cast<std::uint32_t>(rule.request);
    if (!connection.send_raw(chance(50) ? below(64) & 0xff : number, flags, payload, fds)) {
      return false;
    }
    if (chance(4)) disk_->device().queue(below(2)).kick();
    if (chance(4)) (void)drain();
    return true;
  }

 private:
  [[nodiscard]] std::uint32_t below(std::size_t limit) {
    return static_cast<std::uint32_t>(random_() % limit);
  }
  [[nodiscard]] bool chance(std::size_t one_in) { return below(one_in) == 0; }
  [[nodiscard]] int fd_for(Request request) {
    const auto& region = *disk_.memory().regions()[0];
    const bool memory = request == Request::add_mem_reg || request == Request::set_mem_table;
    if (memory && !chance(6)) return region.fd();
    const bool vring = request == Request::set_vring_kick || request == Request::set_vring_call ||
                       request == Request::set_vring_err;
    if (vring && !chance(6)) return disk_->device().queue(below(2)).kick_fd();
    return fds_[below(fds_.size())];
  }
  [[nodiscard]] std::uint64_t interesting() {
    static constexpr std::array<std::uint64_t, 14> values{0,
                                                          1,
                                                          2,
                                                          3,
                                                          8,
                                                          128,
                                                          255,
                                                          4096,
                                                          0xffff,
                                                          0xffffffff,
                                                          0x80000000,
                                                          0x40000000,
                                                          std::uint64_t{1} << 47,
                                                          ~std::uint64_t{0}};
    return values[below(values.size())];
  }
  std::vector<std::byte> payload_for(const vhost::RequestRule& rule) {
    std::size_t size = rule.payload_least;
    if (chance(10)) size = below(300);
    if (rule.request == Request::get_config || rule.request == Request::set_config)
      size += below(80);
    std::vector<std::byte> bytes((size + 7) / 8 * 8);
    for (std::size_t at = 0; at < bytes.size(); at += 4) {
      const auto value = static_cast<std::uint32_t>(chance(3) ? random_() : interesting());
      std::memcpy(bytes.data() + at, &value, sizeof value);
    }
    sensible(rule, bytes);
    bytes.resize(size);
    return bytes;
  }
  /// What would be right, in three cases of four.
  void sensible(const vhost::RequestRule& rule, std::vector<std::byte>& bytes) {
    if (chance(4) || bytes.size() < 8) return;
    const auto put = [&](std::size_t at, auto value) {
      if (at + sizeof value <= bytes.size()) std::memcpy(bytes.data() + at, &value, sizeof value);
    };
    const auto& wire = disk_.memory().regions()[0]->wire();
    put(0, below(3));
    switch (rule.request) {
      case Request::set_features: put(0, disk_->device().offered_features()); break;
      case Request::set_protocol_features:
        put(0, vhost::frontend::default_protocol_features);
        break;
      case Request::set_vring_num: put(4, 1U << below(9)); break;
      case Request::set_vring_enable: put(4, below(2)); break;
      case Request::set_vring_kick:
      case Request::set_vring_call:
      case Request::set_vring_err: put(0, std::uint64_t{below(3)}); break;
      case Request::set_vring_addr:
        put(0, disk_->device().queue(below(2)).ring().addresses(below(3)));
        break;
      case Request::add_mem_reg:
      case Request::rem_mem_reg: put(8, wire); break;
      case Request::get_config:
      case Request::set_config: put(0, vhost::ConfigHeader{below(64), below(80), 0}); break;
      case Request::get_inflight_fd:
      case Request::set_inflight_fd: put(0, vhost::InflightDescription{8192, 0, 2, 128, 0}); break;
      default: break;
    }
  }
  /// Reads what came, so that the daemon never finds our socket full.
  bool drain() {
    std::array<std::byte, 4096> sink;
    const int fd = disk_->device().connection().fd();
    while (::recv(fd, sink.data(), sink.size(), MSG_DONTWAIT) > 0) {
    }
    return true;
  }

  Guest& disk_;
  std::span<const int> fds_;
  std::minstd_rand random_;
};

class HostileFuzz : public Hostile {};

TEST_F(HostileFuzz, NoSequenceOfMessagesHarms) {
  const UniqueFd file = shared_file(mebi);
  const UniqueFd counter = event();
  const UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  const std::array fds{file.get(), counter.get(), zero.get()};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  std::uint64_t said = 0;
  std::uint32_t seed = 1;
  for (; seed <= 3000 && std::chrono::steady_clock::now() < end; ++seed) {
    auto disk = guest(with_queues(2));
    Load load(disk, {.depth = 8, .seed = seed});
    load.submit();
    Madman madman(disk, seed, fds);
    for (int i = 0; i < 300 && madman.say_something(); ++i) ++said;
    ASSERT_TRUE(daemon->running()) << "seed " << seed << "\n" << daemon->words();
  }
  RecordProperty("connections", static_cast<int>(seed));
  EXPECT_GT(said, 1000U);
}

TEST_F(HostileFuzz, NoBytesAtAllHarm) {
  std::minstd_rand random(3);
  for (int i = 0; i < 300; ++i) {
    auto connection = stranger();
    std::vector<std::byte> bytes(1 + random() % 600);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    if (i % 2 == 0 && bytes.size() > 12) {  // a header that is right, and a body that is not
      const vhost::Header header{static_cast<std::uint32_t>(random() % 45), vhost::header_version,
                                 static_cast<std::uint32_t>(random() % 300)};
      std::memcpy(bytes.data(), &header, sizeof header);
    }
    (void)connection.send_bytes(bytes);
  }
}

}  // namespace
}  // namespace integration
