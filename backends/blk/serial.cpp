#include "backends/blk/serial.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>

#include "backends/blk/block_sysfs.hpp"
#include "backends/blk/virtio_blk.hpp"

namespace blk {
namespace {

std::optional<std::string> device_identity(dev_t device) {
  if (const auto uuid = sysfs_text(device, "dm/uuid")) return "dm " + *uuid;
  if (const auto file = sysfs_text(device, "loop/backing_file")) return "loop " + *file;
  for (const std::string_view attribute :
       {"wwid", "device/wwid", "md/uuid", "serial", "device/serial"}) {
    const auto disk = sysfs_disk_text(device, attribute);
    if (!disk) continue;
    const auto partition = sysfs_text(device, "partition").value_or("whole");
    return std::string(attribute) + ' ' + *disk + ' ' + partition;
  }
  return std::nullopt;
}

std::string identity(const Image& image) {
  std::error_code error;
  struct stat status{};
  if (image.is_device && ::fstat(image.file.get(), &status) == 0) {
    if (const auto known = device_identity(status.st_rdev)) return *known;
    return "path " + std::filesystem::absolute(image.path, error).lexically_normal().string();
  }
  const auto real = std::filesystem::canonical(image.path, error);
  return "path " + (error ? image.path : real.string());
}

}  // namespace

std::string serial_of(std::string_view identity) {
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325;  // FNV-1a
  for (const char c : identity) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x0000'0100'0000'01b3;
  }
  std::string serial = "vub-";
  for (int shift = 60; shift >= 0; shift -= 4) serial += "0123456789abcdef"[(hash >> shift) & 0xf];
  return serial;
}

std::string default_serial(const Image& image) {
  return serial_of(identity(image));
}

vhost::Result<std::string> check_serial(std::string_view text) {
  const auto printable = [](char c) { return c > ' ' && c <= '~'; };
  const bool blank = std::ranges::none_of(text, printable);
  const bool fits = !text.empty() && text.size() <= serial_bytes;
  if (blank || !fits ||
      !std::ranges::all_of(text, [&](char c) { return c == ' ' || printable(c); })) {
    return vhost::fail(vhost::Fault::operator_,
                       "--serial: takes 1 to 20 printable ASCII characters, got " +
                           std::to_string(text.size()) + " bytes; choose a shorter or plainer one");
  }
  return std::string(text);
}

}  // namespace blk
