#include "backends/blk/block_sysfs.hpp"

#include <sys/sysmacros.h>

#include <charconv>
#include <fstream>

namespace blk {

std::optional<std::string> sysfs_text(dev_t device, std::string_view attribute) {
  std::ifstream file("/sys/dev/block/" + std::to_string(major(device)) + ':' +
                     std::to_string(minor(device)) + '/' + std::string(attribute));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  const auto first = line.find_first_not_of(" \t");
  if (first == std::string::npos) return std::nullopt;
  return line.substr(first, line.find_last_not_of(" \t") - first + 1);
}

std::optional<std::string> sysfs_disk_text(dev_t device, std::string_view attribute) {
  if (!sysfs_text(device, "partition")) return sysfs_text(device, attribute);
  return sysfs_text(device, "../" + std::string(attribute));
}

std::optional<std::uint64_t> sysfs_disk_number(dev_t device, std::string_view attribute) {
  const auto text = sysfs_disk_text(device, attribute);
  if (!text) return std::nullopt;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  return number;
}

}  // namespace blk
