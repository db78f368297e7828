#include "backends/blk/file_engine.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <climits>

#include "libvhost/memory/fault_guard.hpp"

namespace blk {
namespace {

constexpr std::size_t bounce_bytes = 256 * 1024;
constexpr std::size_t most_bounces = 4;
constexpr std::size_t zeroes_bytes = 2 << 20;

/// The kernel holds a batch of direct operations back until the last of it is prepared. Batches of
/// this size cost little more in system calls, and let the disk begin with the first.
constexpr unsigned direct_batch = 8;

/// Anonymous memory that lives as long as the process: a worker's engine does, too.
std::span<std::byte> anonymous(std::size_t bytes, int protection) {
  void* const memory =
      ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return {};
  return {static_cast<std::byte*>(memory), bytes};
}

/// Places in the table of registered files.
constexpr int image_file = 0;
constexpr int buffered_file = 1;

bool try_again(int result) {
  return result == -EAGAIN || result == -EINTR;
}

}  // namespace

FileEngine::FileEngine(const Image& image, const std::atomic<bool>& durable_writes, Uring& uring)
    : image_(image),
      durable_writes_(durable_writes),
      uring_(uring),
      zeroes_(anonymous(zeroes_bytes, PROT_READ)) {  // the kernel's zero page, over and over
  free_bounces_.reserve(most_bounces);
}

vhost::Result<void> FileEngine::prepare() {
  if (zeroes_.empty()) return vhost::fail_errno(vhost::Fault::host, "cannot map memory");
  if (image_.direct) uring_.set_batch(direct_batch);
  const std::array files{image_.file.get(),
                         image_.buffered ? image_.buffered.get() : image_.file.get()};
  return uring_.register_files(files);
}

bool FileEngine::aligned_range(std::uint64_t offset, std::uint64_t length) const {
  return (offset | length) % image_.offset_alignment == 0;
}

/// Whether direct I/O takes the slot's pieces as they lie.
bool FileEngine::aligned_memory(const Slot& slot) const {
  return std::ranges::all_of(slot.progress.pieces, [this](const iovec& piece) {
    return reinterpret_cast<std::uintptr_t>(piece.iov_base) % image_.memory_alignment == 0 &&
           piece.iov_len % image_.offset_alignment == 0;
  });
}

int FileEngine::file_for(std::uint64_t offset, std::uint64_t length) const {
  return !image_.direct || aligned_range(offset, length) ? image_file : buffered_file;
}

/// Ends the preparation of one operation for this slot.
void FileEngine::begin(Slot& slot, io_uring_sqe* entry) const {
  io_uring_sqe_set_data64(entry, reinterpret_cast<Tag>(&slot));
  io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
  if (slot.request.op == Op::write && durable_writes_.load(std::memory_order_relaxed)) {
    entry->rw_flags = RWF_DSYNC;
  }
}

std::optional<Status> FileEngine::start(Slot& slot) {
  const Request& request = slot.request;
  slot.progress = {};
  if (Slot* const first = std::exchange(lone_read_, nullptr)) move_part(*first);
  ++started_;
  switch (request.op) {
    case Op::flush:
      if (ignores_flush(image_.cache)) return Status::ok;
      sync(slot);
      return std::nullopt;
    case Op::discard:
    case Op::write_zeroes: return next_range(slot);
    // The zeroes that stand where the guest's memory was lost are not its data.
    case Op::write:
      if (vhost::fault_guard::any_lost()) return Status::io_error;
      break;
    default: break;
  }
  // The pieces are the chain's own, which nobody else reads: they are shortened as they are moved.
  slot.progress.pieces = {const_cast<iovec*>(request.data.data()), request.data.size()};
  if (!image_.direct && request.op == Op::read && started_ == 1) {
    lone_read_ = &slot;  // until something else comes, or the burst ends
  } else {
    go_on(slot);
  }
  return std::nullopt;
}

/// Moves the next part, in the way that its alignment allows. A short transfer may have left
/// another one than the request came with.
void FileEngine::go_on(Slot& slot) {
  const std::uint64_t done = slot.progress.done_bytes;
  if (!slot.progress.bounce.empty()) {
    move_bounced_part(slot);
  } else if (!image_.direct || aligned_memory(slot) ||
             !aligned_range(slot.request.offset_bytes + done, slot.request.length_bytes - done)) {
    move_part(slot);
  } else if (borrow_bounce(slot)) {
    move_bounced_part(slot);
  } else {
    waiting_for_bounce_.push_back(&slot);
  }
}

std::optional<FileEngine::Done> FileEngine::end_burst() {
  started_ = 0;
  Slot* const slot = std::exchange(lone_read_, nullptr);
  if (slot == nullptr) return std::nullopt;
  if (read_at_once(*slot)) return Done{slot, Status::ok};
  move_part(*slot);
  return std::nullopt;
}

/// Reads all of the request from the page cache, if all of it is there.
bool FileEngine::read_at_once(Slot& slot) {
  const auto pieces = slot.progress.pieces;
  if (pieces.size() > IOV_MAX) return false;
  const ssize_t got = ::preadv2(image_.file.get(), pieces.data(), static_cast<int>(pieces.size()),
                                static_cast<off_t>(slot.request.offset_bytes), RWF_NOWAIT);
  return got >= 0 && static_cast<std::uint64_t>(got) == slot.request.length_bytes;
}

/// Moves as many of the pieces as one operation takes, straight from or to the guest's pages.
void FileEngine::move_part(Slot& slot) {
  Progress& progress = slot.progress;
  const std::uint64_t offset = slot.request.offset_bytes + progress.done_bytes;
  const auto count = static_cast<unsigned>(std::min<std::size_t>(progress.pieces.size(), IOV_MAX));
  const iovec& first = progress.pieces.front();
  const int fd = file_for(offset, slot.request.length_bytes - progress.done_bytes);

  io_uring_sqe* const entry = uring_.next();
  // A single piece spares the kernel the copying of a vector.
  const bool single = count == 1 && first.iov_len <= UINT_MAX;
  const auto length = static_cast<unsigned>(first.iov_len);
  if (slot.request.op == Op::read) {
    single ? io_uring_prep_read(entry, fd, first.iov_base, length, offset)
           : io_uring_prep_readv(entry, fd, progress.pieces.data(), count, offset);
  } else {
    single ? io_uring_prep_write(entry, fd, first.iov_base, length, offset)
           : io_uring_prep_writev(entry, fd, progress.pieces.data(), count, offset);
  }
  begin(slot, entry);
}

bool FileEngine::borrow_bounce(Slot& slot) {
  if (free_bounces_.empty() && bounces_made_ < most_bounces) {
    const auto fresh = anonymous(bounce_bytes, PROT_READ | PROT_WRITE);
    if (!fresh.empty()) {
      free_bounces_.push_back(fresh);
      ++bounces_made_;
    }
  }
  if (free_bounces_.empty()) return false;
  slot.progress.bounce = free_bounces_.back();
  free_bounces_.pop_back();
  return true;
}

/// Gives the buffer back, to the request that has waited longest if there is one.
void FileEngine::return_bounce(Slot& slot) {
  if (slot.progress.bounce.empty()) return;
  free_bounces_.push_back(std::exchange(slot.progress.bounce, {}));
  if (waiting_for_bounce_.empty()) return;
  Slot& next = *waiting_for_bounce_.front();
  waiting_for_bounce_.erase(waiting_for_bounce_.begin());
  (void)borrow_bounce(next);  // there is the one just given back
  move_bounced_part(next);
}

/// Copies the next part's bytes out of the guest's pieces.
void FileEngine::gather(Slot& slot) const {
  std::byte* to = slot.progress.bounce.data();
  std::uint64_t left = slot.progress.part_bytes;
  for (const iovec& piece : slot.progress.pieces) {
    const std::uint64_t bytes = std::min<std::uint64_t>(left, piece.iov_len);
    std::memcpy(to, piece.iov_base, bytes);
    to += bytes;
    left -= bytes;
    if (left == 0) break;
  }
}

void FileEngine::scatter(Slot& slot, std::uint64_t bytes) const {
  const std::byte* from = slot.progress.bounce.data();
  for (const iovec& piece : slot.progress.pieces) {
    const std::uint64_t part = std::min<std::uint64_t>(bytes, piece.iov_len);
    std::memcpy(piece.iov_base, from, part);
    from += part;
    bytes -= part;
    if (bytes == 0) break;
  }
}

void FileEngine::move_bounced_part(Slot& slot) {
  Progress& progress = slot.progress;
  const std::uint64_t offset = slot.request.offset_bytes + progress.done_bytes;
  progress.part_bytes = std::min<std::uint64_t>(progress.bounce.size(),
                                                slot.request.length_bytes - progress.done_bytes);
  const auto length = static_cast<unsigned>(progress.part_bytes);
  io_uring_sqe* const entry = uring_.next();
  if (slot.request.op == Op::read) {
    io_uring_prep_read(entry, image_file, progress.bounce.data(), length, offset);
  } else {
    gather(slot);
    const bool whole = !vhost::fault_guard::any_lost();  // of nothing written comes an I/O error
    io_uring_prep_write(entry, image_file, progress.bounce.data(), whole ? length : 0, offset);
  }
  begin(slot, entry);
  ++progress.bounced;
}

/// Takes bytes that were moved off the front of the pieces.
void FileEngine::advance(Slot& slot, std::uint64_t bytes) {
  Progress& progress = slot.progress;
  progress.done_bytes += bytes;
  while (bytes > 0) {
    iovec& piece = progress.pieces.front();
    const std::uint64_t part = std::min<std::uint64_t>(bytes, piece.iov_len);
    piece = {static_cast<std::byte*>(piece.iov_base) + part, piece.iov_len - part};
    if (piece.iov_len == 0) progress.pieces = progress.pieces.subspan(1);
    bytes -= part;
  }
}

std::optional<Status> FileEngine::complete(Slot& slot, int result) {
  if (slot.progress.stage != Stage::moving) return complete_sync(slot, result);
  if (slot.request.op == Op::discard || slot.request.op == Op::write_zeroes) {
    return complete_range(slot, result);
  }
  if (try_again(result)) return complete_data(slot, 0);
  // Nothing moved: the image was cut short behind our back.
  if (result <= 0) return finish(slot, Status::io_error);
  return complete_data(slot, static_cast<std::uint64_t>(result));
}

/// Of all that is no data and no range.
std::optional<Status> FileEngine::complete_sync(Slot& slot, int result) {
  if (slot.progress.stage != Stage::syncing) return complete_leaving(slot, result);
  if (try_again(result)) {
    sync(slot);
    return std::nullopt;
  }
  return result < 0 ? Status::io_error : Status::ok;
}

std::optional<Status> FileEngine::complete_data(Slot& slot, std::uint64_t bytes) {
  Progress& progress = slot.progress;
  if (!progress.bounce.empty() && slot.request.op == Op::read && bytes != 0) scatter(slot, bytes);
  advance(slot, bytes);
  if (progress.done_bytes == slot.request.length_bytes) return finish(slot, Status::ok);
  go_on(slot);
  return std::nullopt;
}

/// Starts on the range that is next; a status if there is none left.
std::optional<Status> FileEngine::next_range(Slot& slot) {
  Progress& progress = slot.progress;
  for (; progress.range < slot.request.range_count; ++progress.range) {
    Range range = slot.request.ranges()[progress.range];
    const std::uint64_t unit = image_.fallocate_alignment;
    const bool fits = (range.offset_bytes | range.length_bytes) % unit == 0;
    int mode = FALLOC_FL_KEEP_SIZE;

    if (slot.request.op == Op::discard) {
      // A discard is a hint: what does not fill a unit stays.
      const std::uint64_t begin = (range.offset_bytes + unit - 1) / unit * unit;
      const std::uint64_t end = (range.offset_bytes + range.length_bytes) / unit * unit;
      if (begin >= end) continue;
      range = {begin, end - begin, true};
      mode |= FALLOC_FL_PUNCH_HOLE;
    } else if (fits && !progress.zero_by_writing && range.unmap && image_.punch_hole_supported) {
      mode |= FALLOC_FL_PUNCH_HOLE;
    } else if (fits && !progress.zero_by_writing && image_.zero_range_supported) {
      mode |= FALLOC_FL_ZERO_RANGE;
    } else {
      zero_part(slot, range);
      return std::nullopt;
    }
    io_uring_sqe* const entry = uring_.next();
    io_uring_prep_fallocate(entry, image_file, mode, static_cast<off_t>(range.offset_bytes),
                            static_cast<off_t>(range.length_bytes));
    begin(slot, entry);
    progress.part_bytes = 0;
    return std::nullopt;
  }
  return finish(slot, Status::ok);
}

/// Writes zeroes over the next part of a range.
void FileEngine::zero_part(Slot& slot, const Range& range) {
  Progress& progress = slot.progress;
  const std::uint64_t offset = range.offset_bytes + progress.done_bytes;
  progress.part_bytes =
      std::min<std::uint64_t>(zeroes_.size(), range.length_bytes - progress.done_bytes);
  const int fd = file_for(offset, progress.part_bytes);
  io_uring_sqe* const entry = uring_.next();
  io_uring_prep_write(entry, fd, zeroes_.data(), static_cast<unsigned>(progress.part_bytes),
                      offset);
  begin(slot, entry);
}

std::optional<Status> FileEngine::complete_range(Slot& slot, int result) {
  Progress& progress = slot.progress;
  const Range& range = slot.request.ranges()[progress.range];
  const bool by_writing = progress.part_bytes != 0;
  if (try_again(result)) return next_range(slot);
  if (result == -EOPNOTSUPP && !by_writing) {
    // The file system can do less than it seemed to. A discard is a hint; zeroes must be there.
    if (slot.request.op == Op::write_zeroes) {
      progress.zero_by_writing = true;
      return next_range(slot);
    }
  } else if (result < 0 || (by_writing && result == 0)) {
    return finish(slot, Status::io_error);
  }
  if (by_writing) {
    progress.done_bytes += static_cast<std::uint64_t>(result);
    if (progress.done_bytes < range.length_bytes) {
      zero_part(slot, range);
      return std::nullopt;
    }
  }
  progress.done_bytes = 0;
  ++progress.range;
  return next_range(slot);
}

/// Ends a request, by an fsync first if its ranges have to be durable like writes.
std::optional<Status> FileEngine::finish(Slot& slot, Status status) {
  return_bounce(slot);
  const bool ranges = slot.request.op == Op::discard || slot.request.op == Op::write_zeroes;
  if (status == Status::ok && ranges && durable_writes_.load(std::memory_order_relaxed)) {
    sync(slot);
    return std::nullopt;
  }
  return status;
}

void FileEngine::sync(Slot& slot) {
  slot.progress.stage = Stage::syncing;
  io_uring_sqe* const entry = uring_.next();
  io_uring_prep_fsync(entry, image_file, IORING_FSYNC_DATASYNC);
  begin(slot, entry);
}

}  // namespace blk
