#include "backends/blk/request.hpp"

#include <limits>

namespace blk {
namespace {

/// A length of whole sectors from `sector` on, inside the disk. No arithmetic here can wrap:
/// `sector` is compared before it is ever multiplied.
bool inside(const Disk& disk, std::uint64_t sector, std::uint64_t count) {
  return count <= disk.sectors() && sector <= disk.sectors() - count;
}

std::optional<Status> parse_data(Op op, GuestBytes& data, std::uint64_t sector, const Disk& disk,
                                 Request& request) {
  request.op = op;
  if (op == Op::write && disk.read_only) return Status::io_error;
  if (data.size() % sector_bytes != 0) return Status::io_error;
  if (!inside(disk, sector, data.size() / sector_bytes)) return Status::io_error;
  request.data = data.pieces();
  request.length_bytes = data.size();
  request.offset_bytes = sector * sector_bytes;
  if (request.length_bytes == 0) return Status::ok;
  return std::nullopt;
}

/// 5.2.6.2: unknown flags are UNSUPP, and so is `unmap` of a discard.
std::optional<Status> parse_segment(const Segment& segment, const Disk& disk, Request& request) {
  const bool zeroes = request.op == Op::write_zeroes;
  const std::uint32_t known_flags = zeroes ? segment_flag_unmap : 0;
  if ((segment.flags & ~known_flags) != 0) return Status::unsupported;
  const std::uint32_t limit = zeroes ? disk.max_write_zeroes_sectors : disk.max_discard_sectors;
  if (segment.num_sectors > limit) return Status::io_error;
  if (!inside(disk, segment.sector, segment.num_sectors)) return Status::io_error;
  if (segment.num_sectors == 0) return std::nullopt;
  request.range_storage[request.range_count++] = {
      .offset_bytes = segment.sector * sector_bytes,
      .length_bytes = segment.num_sectors * sector_bytes,
      .unmap = (segment.flags & segment_flag_unmap) != 0};
  return std::nullopt;
}

std::optional<Status> parse_ranges(Op op, GuestBytes& segments, const Disk& disk,
                                   Request& request) {
  request.op = op;
  if (disk.read_only) return Status::io_error;
  if (!(op == Op::discard ? disk.can_discard : disk.can_write_zeroes)) return Status::unsupported;
  const std::uint64_t count = segments.size() / sizeof(Segment);
  if (segments.size() % sizeof(Segment) != 0 || count == 0 || count > max_segments) {
    return Status::io_error;
  }
  while (const auto segment = segments.pop_front<Segment>()) {
    if (const auto refusal = parse_segment(*segment, disk, request)) return refusal;
  }
  if (request.range_count == 0) return Status::ok;
  return std::nullopt;
}

Status answer_id(const GuestBytes& room, const Disk& disk, Request& request) {
  request.op = Op::get_id;
  request.id_bytes =
      static_cast<std::uint32_t>(room.fill_front(std::as_bytes(std::span(disk.serial))));
  return Status::ok;
}

}  // namespace

std::optional<Status> parse(GuestBytes readable, GuestBytes writable, const Disk& disk,
                            Request& request) {
  request.op = Op::other;
  request.offset_bytes = 0;
  request.length_bytes = 0;
  request.data = {};
  request.range_count = 0;
  request.room_bytes = writable.size();
  request.status = writable.pop_back();
  const auto header = readable.pop_front<RequestHeader>();
  if (!header || request.status == nullptr) return Status::io_error;

  switch (Type{header->type}) {
    case Type::in: return parse_data(Op::read, writable, header->sector, disk, request);
    case Type::out: return parse_data(Op::write, readable, header->sector, disk, request);
    case Type::flush:
    case Type::flush_out: request.op = Op::flush; return std::nullopt;
    case Type::get_id: return answer_id(writable, disk, request);
    case Type::discard: return parse_ranges(Op::discard, readable, disk, request);
    case Type::write_zeroes: return parse_ranges(Op::write_zeroes, readable, disk, request);
  }
  return Status::unsupported;
}

std::uint32_t used_length(const Request& request, Status status) {
  if (request.status == nullptr) return 0;
  const std::uint64_t before_status = request.room_bytes - 1;
  std::uint64_t written = 0;
  if (status == Status::ok && request.op == Op::read) written = request.length_bytes;
  if (status == Status::ok && request.op == Op::get_id) written = request.id_bytes;
  if (written == before_status) ++written;
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(written, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace blk
