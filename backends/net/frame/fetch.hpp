#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>

#include "libvhost/ring/fetch.hpp"

namespace net {

/// Has the first bytes of a piece, at most `bytes`, brought into the cache, to be read soon.
inline void fetch(const iovec& piece, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(piece.iov_base);
  const std::size_t end = std::min(piece.iov_len, bytes);
  for (std::size_t at = 0; at < end; at += vhost::cache_line) vhost::fetch(begin + at);
}

/// The same, to be written.
inline void fetch_to_write(const iovec& piece, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(piece.iov_base);
  const std::size_t end = std::min(piece.iov_len, bytes);
  for (std::size_t at = 0; at < end; at += vhost::cache_line) vhost::fetch_to_write(begin + at);
}

}  // namespace net
