#include "backends/net/forwarding/capture.hpp"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

/*
 * The blocks are those of draft-ietf-opsawg-pcapng. Each begins with its type and its length and
 * ends with its length; everything in it is padded to 4 bytes; numbers are in our own byte order,
 * which the section header tells.
 */
namespace net {
namespace {

struct BlockHeader {
  std::uint32_t type;
  std::uint32_t bytes;
};

/// Draft, 4.1.
struct SectionHeader {
  BlockHeader block{0x0a0d'0d0a, 28};
  std::uint32_t byte_order = 0x1a2b'3c4d;
  std::uint16_t major = 1;
  std::uint16_t minor = 0;
  std::int64_t section_bytes = -1;  // not told
};

/// Draft, 4.2, without its options.
struct InterfaceDescription {
  BlockHeader block{1, 0};
  std::uint16_t link_type = 1;  // Ethernet
  std::uint16_t reserved = 0;
  std::uint32_t snap_bytes = Capture::snap_bytes;
};

/// Draft, 4.3 (type 6), without the frame.
struct EnhancedPacket {
  BlockHeader block;
  std::uint32_t interface = 0;
  std::uint32_t time_high;
  std::uint32_t time_low;
  std::uint32_t captured_bytes;
  std::uint32_t frame_bytes;
};

struct Option {
  std::uint16_t code;
  std::uint16_t bytes;
};
constexpr Option end_of_options{0, 0};
constexpr std::uint16_t if_name = 2;
constexpr std::uint16_t if_tsresol = 9;
constexpr std::uint16_t epb_flags = 2;

constexpr std::size_t padded(std::size_t bytes) {
  return (bytes + 3) / 4 * 4;
}

/// What is behind the frame: its direction, and the block's length once more.
struct PacketEnd {
  Option flags{epb_flags, 4};
  std::uint32_t direction;
  Option end = end_of_options;
  std::uint32_t block_bytes;
};

/// More bytes, all 0. Returns where they begin.
std::byte* grow(std::vector<std::byte>& to, std::size_t bytes) {
  to.resize(to.size() + bytes);
  return to.data() + to.size() - bytes;
}

void put_bytes(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  std::ranges::copy(bytes, grow(to, padded(bytes.size())));
}

template <class T>
void put(std::vector<std::byte>& to, const T& value) {
  put_bytes(to, std::as_bytes(std::span(&value, 1)));
}

/// The blocks that a file begins with.
std::vector<std::byte> preamble(std::string_view port) {
  std::vector<std::byte> bytes;
  const SectionHeader section;
  put(bytes, section);
  put(bytes, section.block.bytes);

  constexpr std::uint8_t nanoseconds = 9;
  const std::string_view name = port.substr(0, 256);
  InterfaceDescription interface;
  interface.block.bytes = static_cast<std::uint32_t>(
      sizeof interface + sizeof(Option) + padded(name.size()) + sizeof(Option) +
      padded(sizeof nanoseconds) + sizeof end_of_options + sizeof interface.block.bytes);
  put(bytes, interface);
  put(bytes, Option{if_name, static_cast<std::uint16_t>(name.size())});
  put_bytes(bytes, std::as_bytes(std::span(name)));
  put(bytes, Option{if_tsresol, sizeof nanoseconds});
  put(bytes, nanoseconds);
  put(bytes, end_of_options);
  put(bytes, interface.block.bytes);
  return bytes;
}

std::uint64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

auto Capture::create(const std::filesystem::path& file, std::string_view port)
    -> vhost::Result<std::unique_ptr<Capture>> {
  vhost::UniqueFd fd(
      ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600));
  if (!fd) {
    return vhost::fail_errno(vhost::Fault::operator_, "cannot capture to " + file.string());
  }
  return std::unique_ptr<Capture>(new Capture(std::move(fd), file, port));
}

Capture::Capture(vhost::UniqueFd file, std::filesystem::path path, std::string_view port)
    : file_(std::move(file)), path_(std::move(path)) {
  filling_.reserve(buffer_bytes);
  writing_.reserve(buffer_bytes);
  put_bytes(filling_, preamble(port));
}

/// What is left is written; nobody is there any more to hear of an error.
Capture::~Capture() {
  [[maybe_unused]] const auto written = write_out();
}

void Capture::append(std::span<Frame* const> frames, Direction direction) {
  const std::uint64_t now_ns = wall_clock_ns();
  const std::lock_guard lock(mutex_);
  for (const Frame* const frame : frames) append_block(*frame, direction, now_ns);
}

void Capture::append_block(const Frame& frame, Direction direction, std::uint64_t now_ns) {
  const std::size_t whole = sizeof(EnhancedPacket) + padded(frame.length()) + sizeof(PacketEnd);
  if (ended_ || whole > buffer_bytes - filling_.size()) {
    ++lost_;
    return;
  }
  put(filling_, EnhancedPacket{.block = {6, static_cast<std::uint32_t>(whole)},
                               .time_high = static_cast<std::uint32_t>(now_ns >> 32),
                               .time_low = static_cast<std::uint32_t>(now_ns),
                               .captured_bytes = frame.length(),
                               .frame_bytes = frame.length()});
  const iovec to{grow(filling_, padded(frame.length())), frame.length()};
  copy_frame(frame, std::span(&to, 1));
  put(filling_, PacketEnd{.direction = static_cast<std::uint32_t>(direction),
                          .block_bytes = static_cast<std::uint32_t>(whole)});
}

vhost::Result<void> Capture::write_out() {
  {
    const std::lock_guard lock(mutex_);
    std::swap(filling_, writing_);
  }
  const bool written = write_all(file_.get(), writing_);
  const int error = errno;
  writing_.clear();
  if (written) return {};
  const std::lock_guard lock(mutex_);
  filling_.clear();
  ended_ = true;
  return vhost::fail_errno(vhost::Fault::host, "cannot capture any more to " + path_.string(),
                           error);
}

std::uint64_t Capture::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

}  // namespace net
