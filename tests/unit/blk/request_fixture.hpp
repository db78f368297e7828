#pragma once
#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "backends/blk/request.hpp"

namespace blk::testing_tools {

/// A chain written as a driver would: readable bytes, writable room, cut anywhere.
class RequestFixture : public testing::Test {
 protected:
  RequestFixture() {
    disk_.size_bytes = 8 * sector_bytes;
    disk_.can_discard = true;
    disk_.max_discard_sectors = 6;
    disk_.can_write_zeroes = true;
    disk_.max_write_zeroes_sectors = 7;
    disk_.set_serial("serial-of-20-bytes--");
  }

  void header(std::uint32_t type, std::uint64_t sector = 0) {
    const RequestHeader h{type, 0, sector};
    std::memcpy(out_.data(), &h, sizeof h);
  }
  void header(Type type, std::uint64_t sector = 0) {
    header(static_cast<std::uint32_t>(type), sector);
  }

  /// Header and segments, uncut.
  std::optional<Status> parse_segments(Type type, const std::vector<Segment>& segments) {
    header(type);
    std::ranges::copy(std::as_bytes(std::span(segments)), out_.begin() + 16);
    return parse_cut({16 + segments.size() * sizeof(Segment)}, {1});
  }

  /// Nothing: for the storage.
  std::optional<Status> parse_cut(const std::vector<std::size_t>& out,
                                  const std::vector<std::size_t>& in) {
    out_pieces_ = cut(out_, out);
    in_pieces_ = cut(in_, in);
    return parse(GuestBytes(out_pieces_), GuestBytes(in_pieces_), disk_, request_);
  }

  [[nodiscard]] std::string room(std::size_t bytes) const {
    return {reinterpret_cast<const char*>(in_.data()), bytes};
  }

  static constexpr std::optional<Status> submit = std::nullopt;

  Disk disk_;
  Request request_;
  std::vector<std::byte> out_ = std::vector<std::byte>(8192);
  std::vector<std::byte> in_ = std::vector<std::byte>(8192, std::byte{'x'});

 private:
  static std::vector<iovec> cut(std::vector<std::byte>& bytes,
                                const std::vector<std::size_t>& sizes) {
    std::vector<iovec> pieces;
    std::byte* at = bytes.data();
    for (const std::size_t size : sizes) {
      pieces.push_back({at, size});
      at += size;
    }
    return pieces;
  }

  std::vector<iovec> out_pieces_, in_pieces_;
};

}  // namespace blk::testing_tools
