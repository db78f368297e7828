#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include <gtest/gtest.h>

#include "libvhost/wire/unique_fd.hpp"

namespace vhost::tests {

inline constexpr std::uint64_t page = 4096;

/// A memfd of that size.
inline UniqueFd shared_file(std::uint64_t bytes, unsigned flags = 0) {
  UniqueFd fd(::memfd_create("shared", MFD_CLOEXEC | flags));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  return fd;
}

inline void put(const UniqueFd& fd, std::uint64_t offset, char value) {
  EXPECT_EQ(::pwrite(fd.get(), &value, 1, static_cast<off_t>(offset)), 1);
}

}  // namespace vhost::tests
