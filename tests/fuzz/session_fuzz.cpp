// A front-end sends any messages, with descriptors of several kinds, well formed or not. It may
// stand for an IOMMU as well: what it translates, takes back and answers, at any time.
#include <algorithm>
#include <map>

#include "tests/fakes/fake_device.hpp"
#include "tests/fakes/fake_frontend.hpp"

using namespace vhost;
using namespace vhost::fakes;

namespace {

using Bytes = std::span<const std::uint8_t>;

/// Every byte of a chain must be there; ASan and the guard pages see to it.
void touch(const Chain& chain) {
  static volatile unsigned sum = 0;
  for (const iovec& piece : chain.readable()) {
    const auto* bytes = static_cast<const volatile std::uint8_t*>(piece.iov_base);
    sum = sum + bytes[0] + bytes[piece.iov_len - 1];
  }
  for (const iovec& piece : chain.writable()) {
    auto* bytes = static_cast<volatile std::uint8_t*>(piece.iov_base);
    bytes[0] = 0x55;
    bytes[piece.iov_len - 1] = 0x55;
  }
}

/// Takes turns of every ring that runs, as a worker would, and keeps a chain of each in flight.
class Worker {
 public:
  void turn(FakeDevice& device) {
    std::vector<iovec> room(64);
    Chain chain(room);
    for (auto& [index, started] : device.running) {
      auto& held = held_[{index, device.starts[index]}];
      std::visit(
          [&](auto& ring) {
            ring.look_ahead(4);
            for (int i = 0; i < 4 && ring.pop(chain) == Pop::ready; ++i) {
              touch(chain);
              held.push_back(chain.head);
            }
            for (; held.size() > 1; held.erase(held.begin())) ring.push(held.front(), 0);
            (void)ring.publish();
            (void)ring.arm_kick();
          },
          started.ring);
    }
  }

 private:
  std::map<std::pair<std::uint16_t, int>, std::vector<std::uint16_t>> held_;
};

/// A driver's IOMMU: the other end of the back-end channel, and what is said of translations.
class Translator {
 public:
  explicit Translator(FakeFrontend& frontend) : frontend_(frontend) { open(); }

  void act(Bytes command, const GuestMemory& memory, FakeSplitDriver& driver) {
    const auto at = [&](std::size_t i) { return i < command.size() ? command[i] : 0u; };
    switch (at(0) % 8) {
      case 0: open(); break;
      case 1: hear(); break;
      case 2: reply(bytes_of(std::uint64_t{at(1)} % 3)); break;
      case 3: reply(std::as_bytes(command)); break;  // of any size
      case 4: offer(driver, at(1), at(2), at(3)); break;
      default: tell(memory, at(1), at(2), at(3), at(4));
    }
    frontend_.turn();
  }

 private:
  void open() {
    std::array<int, 2> pair{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()) != 0) {
      __builtin_trap();
    }
    ours_ = UniqueFd(pair[0]);
    const UniqueFd theirs(pair[1]);
    (void)frontend_.send(static_cast<std::uint32_t>(Request::set_backend_req_fd), {},
                         std::array{theirs.get()});
  }
  void hear() const {
    std::array<std::byte, 4096> bytes;
    while (::recv(ours_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
    }
  }
  void reply(std::span<const std::byte> payload) {
    (void)send_message(ours_.get(), static_cast<std::uint32_t>(BackendRequest::iotlb_msg),
                       header_reply, payload);
  }
  /// A chain of one or more descriptors whose addresses are pages' beginnings, and ends.
  static void offer(FakeSplitDriver& driver, unsigned head, unsigned where, unsigned how) {
    const auto flags = how & (desc_next | desc_write | desc_indirect);
    const std::uint64_t address = GuestMemory::low + where % 32 * 4096 - (how & 8 ? 20 : 0);
    driver.descriptor(head % 8, {address, (how & 0xf0u) * 40 + 1, static_cast<std::uint16_t>(flags),
                                 static_cast<std::uint16_t>((head + 1) % 8)});
    driver.offer(head % 8);
  }
  /// An IOTLB_MSG that is right, or wrong in one thing or another.
  void tell(const GuestMemory& memory, unsigned type, unsigned where, unsigned size,
            unsigned access) {
    constexpr std::array<std::uint64_t, 8> sizes{4096,  1,       4095, 4097,
                                                 65536, 1 << 21, 0,    UINT64_MAX};
    const std::uint64_t guest = GuestMemory::low + where % 32 * 4096 + (where & 0x20 ? 20 : 0);
    const std::uint64_t place = memory.frontend(where & 0x40 ? guest + 4096 : guest);
    // Ring areas are where the front-end has them, and buffers where the guest does.
    std::uint64_t iova = (where & 0x80) != 0 ? memory.frontend(guest) : guest;
    if ((size & 0x80) != 0) iova = UINT64_MAX - 4095;
    const IotlbMessage message{iova,
                               sizes[size % sizes.size()],
                               (size & 0x40) != 0 ? 12345 : place,
                               static_cast<std::uint8_t>(access % 5),
                               static_cast<std::uint8_t>(type % 8 < 4   ? 2
                                                         : type % 8 < 7 ? 3
                                                                        : type / 8),
                               {}};
    (void)frontend_.send(static_cast<std::uint32_t>(Request::iotlb_msg), bytes_of(message));
  }

  FakeFrontend& frontend_;
  UniqueFd ours_;
};

/// What takes many right bytes at once: a ring that only waits for its kick and its enable.
void configure(FakeFrontend& frontend, const GuestMemory& memory, const RingSetup& setup) {
  frontend.set_memory(memory, {0, 1, 2});
  frontend.num(0, setup.size);
  frontend.addr(0, setup);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static GuestMemory memory;
  static const UniqueFd event = FakeFrontend::event();
  static const UniqueFd inflight = std::move(make_inflight_region(4, 64)->file);
  static const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  static const std::array kinds{event.get(), memory.fds()[0].get(), inflight.get(), socket.get()};
  if (size < 1) return 0;

  std::memset(memory.at(GuestMemory::low), 0, 4096);
  FakeSplitDriver driver(memory);
  FakeDevice device;
  FakeFrontend frontend(device);
  Worker worker;
  std::optional<Translator> iommu;
  const bool translated = (data[0] & 4) != 0;
  if ((data[0] & 1) != 0) {
    frontend.negotiate(FakeFrontend::usual_features |
                       (translated ? bit(feature::access_platform) : 0));
  }
  if (translated) iommu.emplace(frontend);
  if ((data[0] & 3) == 3) configure(frontend, memory, driver.setup());
  if ((data[0] & 7) == 7) {
    frontend.vring_fd(Request::set_vring_kick, 0, event);
    frontend.enable(0, 1);
  }
  auto input = Bytes(data, size).subspan(1);
  // { request, flags, descriptors: 4 bits how many, 4 bits which, payload bytes } payload
  while (input.size() >= 4 && frontend.connected()) {
    const std::uint8_t request = input[0], flags = input[1], fds = input[2];
    const std::size_t bytes = std::min<std::size_t>(input[3], input.size() - 4);
    const auto payload = input.subspan(4, bytes);
    if (request >= 192 && iommu) {
      iommu->act(payload, memory, driver);
    } else {
      const std::vector<int> sent(std::min(fds & 0xf, 8), kinds[(fds >> 4) % kinds.size()]);
      (void)frontend.send(request % 48, std::as_bytes(payload), sent, flags & ~2u);
    }
    while (frontend.reply()) {
    }
    worker.turn(device);
    input = input.subspan(4 + bytes);
  }
  frontend.disconnect();
  if (!device.running.empty()) __builtin_trap();
  return 0;
}
