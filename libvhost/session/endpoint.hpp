#pragma once
#include <sys/types.h>

#include <optional>
#include <string>

#include "libvhost/wire/error.hpp"
#include "libvhost/wire/unique_fd.hpp"

namespace vhost {

/// Where the front-end is to be met.
enum class Meeting : unsigned char {
  listening,  ///< it connects to us; a socket that listens
  connected,  ///< one connection that somebody made for us, and no other
  connecting  ///< we connect to it (QEMU's `server=on`), again whenever it is gone
};

/// Who may connect to a socket file; what is not set is as the umask and the process have it.
struct FileAccess {
  std::optional<uid_t> owner;
  std::optional<gid_t> group;
  std::optional<mode_t> mode;

  bool operator==(const FileAccess&) const = default;
};

/// A Unix stream socket on which front-ends are met.
///
/// A socket file that is in the way is replaced if nobody listens on it any more, and kept if
/// somebody does. Our own is removed at the end, unless another has taken its place.
class Endpoint {
 public:
  /// Errors are the operator's, and name the path and the cure.
  /// The file has its access before anybody can connect.
  [[nodiscard]] static Result<Endpoint> listen(const std::string& path,
                                               const FileAccess& access = {});
  [[nodiscard]] static Result<Endpoint> connect(const std::string& path);
  /// An inherited descriptor: listening or connected, whichever it is.
  [[nodiscard]] static Result<Endpoint> adopt(UniqueFd fd);

  Endpoint(Endpoint&&) noexcept = default;
  Endpoint& operator=(Endpoint&&) = delete;
  ~Endpoint();

  [[nodiscard]] Meeting meeting() const { return meeting_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }

  /// One connection, non-blocking; an empty descriptor if there is none just now.
  [[nodiscard]] UniqueFd next();

 private:
  Endpoint(Meeting meeting, UniqueFd fd, std::string path)
      : meeting_(meeting), fd_(std::move(fd)), path_(std::move(path)) {}
  [[nodiscard]] Result<void> give(const FileAccess& access) const;

  Meeting meeting_;
  UniqueFd fd_;
  std::string path_;
  UniqueFd file_;  // O_PATH on the socket file we made, to know it again
};

}  // namespace vhost
