/*
 * Drives the entropy device without a VM, to show the front-end library with any kind of device.
 *
 *   fetch SOCKET BYTES     prints that many random bytes in hexadecimal
 */
#include <cstdio>
#include <cstdlib>

#include "libvhost/frontend/device.hpp"

namespace {

using namespace vhost::frontend;
using std::chrono::milliseconds;

vhost::Result<void> fetch(const char* socket, std::size_t wanted) {
  SharedMemory memory;
  if (auto region = memory.add_region(1 << 20); !region) return std::unexpected(region.error());
  auto connection = Connection::connect(socket, {.connect_deadline = milliseconds(2000)});
  if (!connection) return std::unexpected(connection.error());
  Device device(std::move(*connection), memory);
  if (auto done = device.negotiate({}); !done) return done;
  if (auto done = device.make_queues(1, {.ring = {.size = 8}}); !done) return done;
  if (auto done = device.start(); !done) return done;

  auto buffer = memory.allocate(4096);
  if (!buffer) return std::unexpected(buffer.error());
  const Segment room = buffer->segment();
  for (std::size_t printed = 0; printed < wanted;) {
    Queue& queue = device.queue(0);
    if (!queue.ring().add({}, std::span(&room, 1), 0)) break;
    queue.submit();
    Completion completion;
    if (device.wait(0, milliseconds(2000)) != Wake::used ||
        queue.ring().poll(completion) != Poll::done) {
      return vhost::fail(peer_fault, "the device does not answer");
    }
    const auto bytes = buffer->bytes();
    if (completion.written_bytes == 0 || completion.written_bytes > bytes.size()) {
      return vhost::fail(peer_fault, "the device gives no bytes, or more than there is room for");
    }
    for (std::size_t i = 0; i < completion.written_bytes && printed < wanted; ++i, ++printed) {
      std::printf("%02x", std::to_integer<unsigned>(bytes[i]));
    }
  }
  std::puts("");
  return device.stop();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: fetch SOCKET BYTES\n", stderr);
    return 2;
  }
  const auto fetched = fetch(argv[1], std::strtoul(argv[2], nullptr, 10));
  if (fetched) return 0;
  std::fprintf(stderr, "fetch: %s\n", fetched.error().what.c_str());
  return 1;
}
