#include "common/text_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "libvhost/wire/unique_fd.hpp"

namespace common {
namespace {

constexpr std::string_view blank = " \t\r";
constexpr std::size_t largest_file_bytes = 1U << 20U;

}  // namespace

vhost::Result<std::string> read_text_file(const std::string& path) {
  const auto refuse = [&](int error) {
    return vhost::fail_errno(vhost::Fault::operator_, "the file '" + path + "' cannot be read",
                             error);
  };
  const vhost::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) return refuse(errno);
  std::string text;
  std::array<char, 4096> piece{};
  while (true) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return refuse(errno);
    if (got == 0) return text;
    text.append(piece.data(), static_cast<std::size_t>(got));
    if (text.size() > largest_file_bytes) return refuse(EFBIG);
  }
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = trimmed(text.substr(0, end));
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(blank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blank) - first + 1);
}

}  // namespace common
