/*
 * Reads the first sector of a vhost-user disk, without a VM.
 *
 *   first_sector SOCKET    prints size and serial, then the sector in hexadecimal
 *
 * The disk is any vhost-user-blk back-end's. The memory that is shared with it is ours: one
 * region, out of which the driver takes its ring and its buffers.
 */
#include <array>
#include <cstdio>

#include "libvhost/frontend/blk_driver.hpp"

namespace {

using namespace vhost::frontend;

vhost::Result<void> show(const char* socket) {
  SharedMemory memory;
  if (auto region = memory.add_region(4 << 20); !region) return std::unexpected(region.error());
  auto connection =
      Connection::connect(socket, {.connect_deadline = std::chrono::milliseconds(2000)});
  if (!connection) return std::unexpected(connection.error());
  auto disk = BlkDriver::attach(std::move(*connection), memory);
  if (!disk) return std::unexpected(disk.error());

  const auto serial = (*disk)->get_id();
  if (!serial) return std::unexpected(serial.error());
  std::printf("%llu bytes, serial %s\n", static_cast<unsigned long long>((*disk)->capacity_bytes()),
              serial->c_str());

  std::array<std::byte, 512> sector{};
  if (auto done = (*disk)->read(0, sector); !done) return done;
  for (std::size_t i = 0; i < sector.size(); ++i) {
    std::printf("%02x%c", std::to_integer<unsigned>(sector[i]), i % 32 == 31 ? '\n' : ' ');
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: first_sector SOCKET\n", stderr);
    return 2;
  }
  const auto shown = show(argv[1]);
  if (shown) return 0;
  std::fprintf(stderr, "first_sector: %s\n", shown.error().what.c_str());
  return 1;
}
