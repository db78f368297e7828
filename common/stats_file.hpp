#pragma once
/*
 * The stats file: a small document that is replaced as a whole, again and again.
 *
 * write() makes a new file beside the old one and renames it over it, so a reader has the old
 * document or the new one, never a part. The new file has one fixed name, ".NAME.tmp" beside NAME,
 * made with O_EXCL: what a killed predecessor left under it is removed first, nothing piles up,
 * and no link that somebody laid there is followed.
 *
 * A statistic is worth no guest's disk: if the folder is missing, the disk full or permission
 * denied, that is one warning in the log when it begins (and one when the reason changes, one line
 * when it is over), and the old document stays. The next write() tries again from the start.
 *
 * Not synced to the disk: after a power cut the numbers mean nothing.
 *
 * Thread: the control thread, from its timer and once more when it ends; the file stays then.
 */
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "libvhost/wire/error.hpp"

namespace common {

class StatsFile {
 public:
  /// Touches nothing yet. `path` is taken from the working directory if it is relative.
  explicit StatsFile(std::string path);

  /// Replaces the document. Mode 0644, whatever the umask. False if it could not be done; that is
  /// logged already and needs no reaction. Only a regular file is replaced, not /dev/null.
  bool write(std::string_view document);
  /// As above; text that is no UTF-8 (a path may be anything) is repaired with U+FFFD.
  bool write_json(const nlohmann::json& document);

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] vhost::Result<void> replace(std::string_view document) const;

  std::string path_;
  std::string temporary_;
  std::string trouble_;  ///< why the last write() failed; empty if it did not
};

}  // namespace common
