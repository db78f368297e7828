#pragma once
#include <string>
#include <string_view>

#include "libvhost/wire/error.hpp"

namespace common {

/// What is in a file that an operator wrote; no more than 1 MiB. A refusal is the end of a
/// sentence: "the file 'x.conf' cannot be read: No such file or directory".
[[nodiscard]] vhost::Result<std::string> read_text_file(const std::string& path);

/// Takes the first line off `text`, and the blanks around it.
[[nodiscard]] std::string_view take_line(std::string_view& text);

/// Without the blanks around it.
[[nodiscard]] std::string_view trimmed(std::string_view text);

}  // namespace common
