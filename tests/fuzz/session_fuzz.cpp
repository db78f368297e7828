// A front-end sends any messages, with descriptors of several kinds, well formed or not.
#include <algorithm>

#include "tests/fakes/fake_device.hpp"
#include "tests/fakes/fake_frontend.hpp"

using namespace vhost;
using namespace vhost::fakes;

namespace {

/// One turn of every ring that runs, as a worker would take it.
void serve(FakeDevice& device) {
  std::vector<iovec> room(64);
  Chain chain(room);
  for (auto& [index, started] : device.running) {
    std::visit(
        [&](auto& ring) {
          for (int i = 0; i < 4 && ring.pop(chain) == Pop::ready; ++i) ring.push(chain.head, 0);
          (void)ring.publish();
          (void)ring.arm_kick();
        },
        started.ring);
  }
}

/// What takes many right bytes at once: a ring that only waits for its kick and its enable.
void configure(FakeFrontend& frontend, const GuestMemory& memory, const RingSetup& setup) {
  frontend.set_memory(memory, {0, 1, 2});
  frontend.num(0, setup.size);
  frontend.addr(0, setup);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static GuestMemory memory;
  static FakeSplitDriver driver(memory);
  static const UniqueFd event = FakeFrontend::event();
  static const UniqueFd inflight = std::move(make_inflight_region(4, 64)->file);
  static const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  static const std::array kinds{event.get(), memory.fds()[0].get(), inflight.get(), socket.get()};
  if (size < 1) return 0;

  FakeDevice device;
  FakeFrontend frontend(device);
  if ((data[0] & 1) != 0) frontend.negotiate();
  if ((data[0] & 3) == 3) configure(frontend, memory, driver.setup());
  auto input = std::span(data, size).subspan(1);
  // { request, flags, descriptors: 4 bits how many, 4 bits which, payload bytes } payload
  while (input.size() >= 4 && frontend.connected()) {
    const std::uint8_t request = input[0], flags = input[1], fds = input[2];
    const std::size_t bytes = std::min<std::size_t>(input[3], input.size() - 4);
    const auto payload = std::as_bytes(input.subspan(4, bytes));
    const std::vector<int> sent(std::min(fds & 0xf, 8), kinds[(fds >> 4) % kinds.size()]);
    (void)frontend.send(request % 48, payload, sent, flags & ~2u);
    while (frontend.reply()) {
    }
    serve(device);
    input = input.subspan(4 + bytes);
  }
  frontend.disconnect();
  if (!device.running.empty()) __builtin_trap();
  return 0;
}
